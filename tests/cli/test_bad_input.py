"""Whatever is wrong with a command line: one line that names it and the remedy, exit code 2, nothing left behind."""

import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Run

Damage = Callable[[Path], None]


def truncate(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def no_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"short")


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def unknown_family(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"lama"'))


def other_shape(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 64', '"hidden_size": 128'))


def lose(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


DAMAGES: dict[str, tuple[Damage, str]] = {
    "truncated": (truncate, "model.safetensors' is truncated or broken"),
    "no header": (no_header, "model.safetensors' is truncated or broken"),
    "broken config": (break_config, "config.json' is not readable JSON"),
    "unknown family": (unknown_family, "unknown model family 'lama'. Did you mean 'llama'?"),
    "other shape": (other_shape, "tensors do not fit config.json"),
    "no config": (lose("config.json"), "config.json' does not exist"),
    "no weights": (lose("model.safetensors"), "holds neither model.safetensors nor"),
}


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def damaged(tiny_folder: Path, tmp_path: Path) -> Callable[[Damage], Path]:
    """A copy of the tiny model with something wrong."""

    def make(damage: Damage) -> Path:
        folder = tmp_path / "damaged"
        shutil.copytree(tiny_folder, folder)
        damage(folder)
        return folder

    return make


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model(
    burnish: Run, damaged: Callable[[Damage], Path], prose: Path, tmp_path: Path, name: str
) -> None:
    damage, words = DAMAGES[name]
    model = damaged(damage)
    before = files_in(tmp_path)
    for command in (
        ("generate", model),
        ("chat", model),
        ("verify", model),
        ("compress", model, tmp_path / "out"),
        ("quality", model, "--data", prose),
        ("up", model, "--data", prose, "--only-measure"),
    ):
        complaint = burnish(*command).complaint
        assert words in complaint, (command, complaint)
    if name in ("broken config", "unknown family", "no config"):
        assert words in burnish("inspect", model).complaint
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ("up", "--only-measure"),
        ("serve",),
        ("generate",),
        ("chat",),
        ("inspect",),
        ("verify",),
        ("quality", "--data", "x.txt"),
        ("bench", "engine"),
        ("compress", "out"),
    ],
    ids=lambda words: words[0],
)
def test_a_model_that_is_not_there(burnish: Run, prose: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    at = 2 if words[0] == "bench" else 1
    options = [prose if word == "x.txt" else tmp_path / "out" if word == "out" else word for word in words[at:]]
    complaint = burnish(*words[:at], tmp_path / "nowhere", *options).complaint
    remedy = "Name a model folder, a llama2.c .bin file, a .gguf file, or 'builtin'"
    assert complaint == f"model '{tmp_path}/nowhere' does not exist. {remedy}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b"])
def test_names_no_folder_can_have(burnish: Run, name: str) -> None:
    assert "does not exist" in burnish("generate", name).complaint


def test_no_tokenizer(burnish: Run, damaged: Callable[[Damage], Path]) -> None:
    assert (
        "holds no tokenizer.json. Let transformers convert it"
        in burnish("generate", damaged(lose("tokenizer.json"))).complaint
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt", "x" * 3000), "the prompt has 3000 tokens, the limit is 2048"),
        (("--max-tokens", 5000), "Use max_tokens of at most 2047"),
        (("--max-tokens", 0), "max_tokens = 0 is out of range. Use 1 or more"),
        (("--max-tokens", -1), "max_tokens = -1"),
        (("--max-tokens", "many"), "--max-tokens"),
        (("--max-tokens", "1.5"), "'1.5'"),
        (("--max-tokens",), "Option '--max-tokens' requires an argument"),
        (("--temperature", -0.5), "temperature = -0.5 is out of range. Use 0 to 100"),
        (("--temperature", "nan"), "temperature = nan"),
        (("--top-p", 2), "top_p = 2.0 is out of range. Use 0 to 1"),
        (("--top-p", 0), "top_p = 0 leaves nothing"),
        (("--top-k", -3), "top_k = -3"),
        (("--seed", "x"), "'x'"),
        (("--stop", ""), "an empty stop string"),
        (("--prompt", "a\udcff"), "text is not Unicode"),
        (("--tempature", 1), "No such option: --tempature (Possible options: --temperature)"),
        (("--json=yes",), "Option '--json' does not take a value"),
        (("extra",), "unexpected extra argument"),
    ],
)
def test_generate_refuses(burnish: Run, tiny_folder: Path, options: tuple[object, ...], words: str) -> None:
    assert words in burnish("generate", tiny_folder, *options).complaint


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("genrate",), "unknown command 'genrate'. Did you mean 'generate'?"),
        (("xyz",), "unknown command 'xyz'. Known: bench, cache, chat, "),
        (("--verson",), "No such option: --verson (Possible options: --version). See: burnish --help"),
        (("bench",), "what to measure is missing. Use: burnish bench engine"),
        (("bench", "engin"), "No such command 'engin'. Did you mean 'engine'?"),
        (("compress", "x"), "Missing argument 'out'. See: burnish compress --help"),
        (("quality", "x"), "quality is measured on --data or on --choices. Give one of them"),
    ],
)
def test_no_such_thing(burnish: Run, words: tuple[str, ...], complaint: str) -> None:
    assert burnish(*words).complaint.startswith(complaint)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--prompt-tokens", -1), "prompt_tokens -1 is too small. Use at least 1"),
        (("--output-tokens", 1), "output_tokens 1 is too small. Use at least 2"),
        (("--concurrency", 0), "concurrency 0 is too small"),
        (("--repeat", 0), "repeat 0 is too small"),
        (("--weights", "int3"), "unknown recipe 'int3'. Did you mean 'int8'?"),
    ],
)
def test_bench_refuses(burnish: Run, tiny_folder: Path, options: tuple[object, ...], words: str) -> None:
    assert words in burnish("bench", "engine", tiny_folder, *options).complaint


def test_bench_refuses_what_only_the_measuring_process_knows(burnish: Run, tiny_folder: Path) -> None:
    complaint = burnish("bench", "engine", tiny_folder, "--prompt-tokens", 3000, "--threads", 1).complaint
    assert "the prompt has 3000 tokens, the limit is 2048" in complaint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--context", 1), "context 1 is too small"),
        (("--context", -5), "context -5 is too small"),
        (("--stride", 0), "stride 0 does not fit windows of 512 tokens. Use 1 to 511"),
        (("--context", 64), "stride 256 does not fit windows of 64 tokens"),
        (("--max-tokens", -3), "max_tokens -3 is too small"),
        (("--max-tokens", 10), "the text has 10 tokens, too few"),
        (("--against", "nowhere"), "model 'nowhere' does not exist"),
    ],
)
def test_quality_refuses(burnish: Run, tiny_folder: Path, prose: Path, options: tuple[object, ...], words: str) -> None:
    assert words in burnish("quality", tiny_folder, "--data", prose, *options).complaint


@pytest.mark.parametrize("command", [("quality",), ("up", "--only-measure")], ids=lambda command: command[0])
def test_texts_that_are_none(burnish: Run, tiny_folder: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\0" * 100)
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"txt": "not"}\n')
    for name, words in {
        "empty.txt": "the text has 0 tokens, too few for an interval. Give a text of more than 64 tokens",
        "bytes.txt": "bytes.txt' cannot be read",
        "bad.jsonl": "2",
        "none.txt": "none.txt' does not exist",
        ".": "cannot be read",
    }.items():
        complaint = burnish(command[0], tiny_folder, *command[1:], "--data", tmp_path / name).complaint
        assert words in complaint, complaint
    assert files_in(tmp_path) == {"empty.txt", "bytes.txt", "bad.jsonl"}


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_port_in_use_is_told_before_anything_is_loaded(
    burnish: Run, tiny_folder: Path, tmp_path: Path, command: str, taken_port: int
) -> None:
    data = ("--data", "nowhere") if command == "up" else ()
    complaint = burnish(command, tiny_folder, "--port", taken_port, *data).complaint
    assert complaint == f"port {taken_port} on 127.0.0.1 is in use. Choose another with --port"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--port", -1), "there is no port -1. Choose one from 0 to 65535"),
        (("--port", 70000), "there is no port 70000"),
        (("--host", "no.such.host.invalid"), "no such address. Check --host"),
        (("--api-key", ""), "an API key is empty"),
        (("--threads", 0), "threads 0 is wrong. Use 1 or more"),
        (("--threads", -2), "threads -2 is wrong"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "up"])
def test_serving_refuses(
    burnish: Run, tiny_folder: Path, command: str, options: tuple[object, ...], words: str
) -> None:
    data = ("--data", "nowhere") if command == "up" else ()  # whatever happens, up must not come to serving here
    assert words in burnish(command, tiny_folder, "--port", 0, *data, *options).complaint


@pytest.mark.parametrize("share", ["-0.01", "nan", "much"])
def test_a_loss_that_is_no_share(burnish: Run, tiny_folder: Path, share: str) -> None:
    assert share in burnish("up", tiny_folder, "--data", "nowhere", "--max-loss", share).complaint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[engine]\nmax_runing = 3\n",
            "unknown key 'max_runing' in settings section [engine]. Did you mean 'max_running'?",
        ),
        ("[service]\nmax_m = 3\n", "unknown key 'max_m' in settings section [service]. Did you mean 'max_n'?"),
        ("[engin]\nmax_running = 3\n", "unknown settings section [engin]. Did you mean 'engine'?"),
        ("max_running = 3\n", "settings key 'max_running' stands outside a section"),
        ("[engine]\nmax_running = 'many'\n", "setting engine.max_running = 'many' is wrong"),
        ("[engine]\nmax_running = -1\n", "max_running -1 is wrong"),
        ("[engine\n", "is not TOML"),
    ],
)
def test_settings_that_make_no_sense(burnish: Run, tiny_folder: Path, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    assert words in burnish("serve", tiny_folder, "--port", 0, "--settings", file).complaint


def test_settings_that_are_no_file(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    for file, words in ((tmp_path / "none.toml", "does not exist"), (tmp_path, "cannot be read: Is a directory")):
        assert words in burnish("serve", tiny_folder, "--port", 0, "--settings", file).complaint


def test_the_environment_is_checked_as_settings_are(
    burnish: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BURNISH_ENGINE__STEP_TOKEN", "12")
    complaint = burnish("serve", tiny_folder, "--port", 0).complaint
    assert complaint == "unknown key 'step_token' in settings section [engine]. Did you mean 'step_tokens'?"


def test_compress_refuses(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    for out, options, words in (
        ("new", ("--recipe", "int5"), "unknown recipe 'int5'. Did you mean 'int8'?"),
        ("file", (), "exists and is not an empty folder. Name a new folder"),
        ("full", (), "exists and is not an empty folder"),
        ("file/new", (), "file/new' cannot be made"),
    ):
        assert words in burnish("compress", tiny_folder, tmp_path / out, *options).complaint
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "mine.txt"]


def test_what_is_compressed_is_not_compressed_again(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    assert burnish("compress", tiny_folder, tmp_path / "int8").code == 0
    assert "int8" in burnish("compress", tmp_path / "int8", tmp_path / "again", "--recipe", "int4").complaint
    complaint = burnish("bench", "engine", tmp_path / "int8", "--weights", "int4").complaint
    assert "is compressed already. Leave --weights out, or name its parent" in complaint
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]
