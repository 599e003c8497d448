"""Every command: its help, its JSON, its table."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from burnish import __version__
from burnish.cli.main import COMMANDS
from burnish.core.errors import NotFound
from burnish.models.checkpoint import load_decoder
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer
from burnish.registry.artifact import read_manifest
from tests.cli.conftest import Run
from tests.conftest import shared

GREEDY = ("--max-tokens", 10, "--temperature", 0)
SMALL = ("--prompt-tokens", 16, "--output-tokens", 4, "--repeat", 2, "--threads", 1)


def test_help_lists_every_command_with_its_summary(burnish: Run) -> None:
    for words in ((), ("--help",)):
        helped = burnish(*words)
        assert (helped.code, helped.err) == (0, "")
        assert all(name in helped.out and summary in helped.out for name, summary in COMMANDS.items())


def test_version(burnish: Run) -> None:
    assert burnish("--version").out == f"burnish {__version__}\n"


@pytest.mark.parametrize("command", [*COMMANDS, "bench engine"])
def test_every_command_explains_itself(burnish: Run, command: str) -> None:
    helped = burnish(*command.split(), "--help")
    assert (helped.code, helped.err) == (0, "")
    assert f"Usage: burnish {command} " in helped.out
    first_word = COMMANDS[command.split(maxsplit=1)[0]].split()[0]
    assert first_word in helped.out


def test_generate_prints_the_fields(burnish: Run, tiny_folder: Path) -> None:
    found = burnish("generate", tiny_folder, "--prompt", "Once", *GREEDY, "--json").json
    assert set(found) == {"text", "token_ids", "finish_reason", "usage"}
    assert found["usage"] == {"prompt_tokens": 4, "completion_tokens": 10, "cached_tokens": 0}
    assert found["finish_reason"] == "length"
    assert found["text"] == load_tokenizer(tiny_folder).decode(found["token_ids"])


def test_generate_prints_prompt_and_text_as_they_are(burnish: Run, tiny_folder: Path) -> None:
    """No wrapping, no markup: a long prompt full of both comes back whole."""
    prompt = "[bold]Once[/] :smile: " + "upon a time " * 30
    words = ("generate", tiny_folder, "--prompt", prompt, *GREEDY)
    found = burnish(*words, "--json").json
    assert burnish(*words).out == prompt + found["text"] + "\n"


def test_generate_begins_at_the_beginning(burnish: Run, tiny_folder: Path) -> None:
    found = burnish("generate", tiny_folder, *GREEDY, "--json").json
    assert found["usage"]["prompt_tokens"] == 1


def test_generate_stops_before_a_text(burnish: Run, tiny_folder: Path) -> None:
    whole = burnish("generate", tiny_folder, *GREEDY, "--json").json["text"]
    at = next(i for i in range(2, len(whole)) if whole.find(whole[i]) == i and whole[i] != "\ufffd")
    found = burnish("generate", tiny_folder, *GREEDY, "--stop", "never said", "--stop", whole[at], "--json").json
    assert (found["text"], found["finish_reason"]) == (whole[:at], "stop")


def test_a_seed_makes_generate_reproducible(burnish: Run, tiny_folder: Path) -> None:
    def sample(*more: object) -> list[int]:
        options = ("--max-tokens", 20, "--temperature", 1.5, "--top-p", 0.95, "--top-k", 50)
        ids: list[int] = burnish("generate", tiny_folder, "--prompt", "Once", *options, *more, "--json").json[
            "token_ids"
        ]
        return ids

    assert sample("--seed", 5) == sample("--seed", 5)
    assert sample("--seed", 5) != sample("--seed", 6)


def test_stories260k_from_the_command_line(burnish: Run) -> None:
    folder = shared("models/stories260k")
    found = burnish("generate", folder, "--prompt", "", *GREEDY, "--json").json
    assert (folder / "expected_greedy.txt").read_text().startswith(found["text"])
    assert len(found["token_ids"]) == 10


def test_chat_answers_line_by_line(burnish: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\nAnd then?\n\nnever read\n"))
    options = ("--max-tokens", 5, "--temperature", 0)
    talked = burnish("chat", tiny_folder, *options, "--system", "Be kind.")
    history, said = "system: Be kind.\n", ""
    for text in ("Hello", "And then?"):
        history += f"user: {text}\nassistant: "
        answer = burnish("generate", tiny_folder, "--prompt", history, *options, "--json").json["text"]
        history += f"{answer}\n"
        said += f"{answer}\n"
    assert (talked.code, talked.out) == (0, said)


def test_inspect_counts_what_is_there(burnish: Run, tiny_folder: Path) -> None:
    found = burnish("inspect", tiny_folder, "--json").json
    decoder = load_decoder(tiny_folder).decoder
    account = found["account"]
    assert (found["family"], found["vocab_size"], found["max_positions"]) == ("llama", 259, 2048)
    assert account["num_parameters"] == sum(p.numel() for p in decoder.parameters())
    assert (account["keys"], account["kv_bytes_per_token"]) == ("f16", 2 * 2 * 2 * 16 * 2)
    sizes = {size["format"].partition("-")[0]: size["weight_bytes"] for size in account["sizes"]}
    assert sizes["dense"] > sizes["int8"] > sizes["int4"] > 0
    assert account["flops_per_token"] >= 2 * account["num_parameters"] - 2 * 259 * 64
    table = burnish("inspect", tiny_folder).out
    assert all(word in table for word in ("llama", "parameters", "KV cache", "FLOPs per token", "int4"))


def test_names_that_look_like_markup_are_shown_as_they_are(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "[red]m[/green]"
    odd.parent.mkdir(parents=True, exist_ok=True)
    odd.mkdir()
    for file in tiny_folder.iterdir():
        (odd / file.name).symlink_to(file)
    for words in (("inspect", odd), ("compress", odd, f"{odd}-out"), ("verify", f"{odd}-out")):
        shown = burnish(*words)
        assert shown.code == 0, shown
        assert "[/green]" in (shown.out + shown.err).replace("\n", "")  # a title may be folded


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_compress_writes_a_model_that_works(burnish: Run, tiny_folder: Path, tmp_path: Path, recipe: str) -> None:
    out = tmp_path / "made" / recipe
    made = burnish("compress", tiny_folder, out, "--recipe", recipe, "--json").json
    assert (made["path"], made["recipe"], made["num_layers"]) == (str(out), recipe, 14)
    assert made["bytes_after"] == (out / "model.safetensors").stat().st_size < made["bytes_before"]
    assert made["weights"].startswith(recipe)
    assert json.loads((out / "burnish.json").read_text())["parent"]["name"] == "tiny"
    assert [path.name for path in out.parent.iterdir()] == [recipe]
    assert len(burnish("generate", out, *GREEDY, "--json").json["token_ids"]) == 10
    assert burnish("inspect", out, "--json").json["manifest"]["recipe"] == recipe
    assert "made from" in burnish("inspect", out).out
    again = burnish("compress", tiny_folder, out, "--recipe", recipe)
    assert f"output '{out}' exists" in again.complaint


def test_verify_proves_and_finds_out(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    plain = burnish("verify", tiny_folder, "--json").json
    assert plain["passed"]
    assert len(plain["checks"]) == 24
    out = tmp_path / "int8"
    assert burnish("compress", tiny_folder, out).code == 0
    sound = burnish("verify", out, "--json").json
    assert [check["name"] for check in sound["checks"][24:]] == ["golden logits", "files"]
    assert sound["passed"]
    weights = out / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # the least thing that can happen to a file
    weights.write_bytes(data)
    found = burnish("verify", out)
    assert found.code == 3, found
    assert "model.safetensors" in found.out + found.err or "golden outputs" in found.err


def test_quality_alone_and_against_its_parent(burnish: Run, tiny_folder: Path, prose: Path, tmp_path: Path) -> None:
    alone = burnish("quality", tiny_folder, "--data", prose, "--json").json
    assert alone["perplexity"]["low"] < alone["perplexity"]["value"] < alone["perplexity"]["high"]
    assert "parent_perplexity" not in alone
    assert "loss_ratio" not in alone
    assert burnish("compress", tiny_folder, tmp_path / "int4", "--recipe", "int4").code == 0
    words = ("quality", tmp_path / "int4", "--data", prose, "--against", tiny_folder)
    both = burnish(*words, "--json").json
    assert both["parent_perplexity"] == alone["perplexity"]
    for field in ("perplexity", "parent_perplexity", "loss_ratio", "kl", "top1_agreement", "flip_rate"):
        assert set(both[field]) == {"value", "low", "high"}
    expected = both["perplexity"]["value"] / both["parent_perplexity"]["value"]
    assert both["loss_ratio"]["value"] == pytest.approx(expected - 1, abs=1e-9)
    assert both["kl"]["low"] < both["kl"]["value"] < both["kl"]["high"]
    assert 0 < both["kl"]["value"] < 0.5
    assert 0.1 < both["top1_agreement"]["value"] < 1
    assert both["interval"] == alone["interval"] == "batch means"
    assert both["data_sha256"] == alone["data_sha256"] == hashlib.sha256(prose.read_bytes()).hexdigest()
    same = burnish("quality", tiny_folder, "--data", prose, "--against", tiny_folder, "--json").json
    assert same["loss_ratio"] == same["kl"] == {"value": 0, "low": 0, "high": 0}
    assert same["top1_agreement"] == {"value": 1, "low": 1, "high": 1}
    assert "95 % interval" in burnish(*words).out


def test_a_loss_budget_that_is_missed_fails_the_command(
    burnish: Run, tiny_folder: Path, prose: Path, tmp_path: Path
) -> None:
    burnish("compress", tiny_folder, tmp_path / "int4", "--recipe", "int4")
    words = ("quality", tmp_path / "int4", "--data", prose, "--against", tiny_folder, "--json")
    loss = burnish(*words).json["loss_ratio"]
    kept = burnish(*words, "--max-loss", loss["high"] + 0.001)
    assert (kept.code, kept.json["verdict"]) == (0, "pass")
    missed = burnish(*words, "--max-loss", loss["low"] - 0.001)
    assert (missed.code, json.loads(missed.out)["verdict"]) == (3, "fail")
    assert "Use a recipe that keeps more" in missed.err
    unsure = burnish(*words, "--max-loss", loss["value"])
    assert (unsure.code, json.loads(unsure.out)["verdict"]) == (3, "needs more data")
    assert "is not shown. Measure on more text" in unsure.err


def test_compress_measures_what_it_makes_and_keeps_nothing_worse(
    burnish: Run, tiny_folder: Path, prose: Path, tmp_path: Path
) -> None:
    words = ("compress", tiny_folder, tmp_path / "out", "--recipe", "int4", "--quality", prose)
    refused = burnish(*words, "--max-loss", -0.5)
    assert refused.code == 3
    assert "above -50 %. Use a recipe that keeps more" in refused.err
    assert [path.name for path in tmp_path.iterdir()] == ["cache"], "nothing but a plan is left"
    burnish(*words, "--max-loss", 9, "--json")
    measured = burnish("quality", tmp_path / "out", "--data", prose, "--against", tiny_folder, "--json").json
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    (kept,) = manifest.quality
    assert (kept.data, kept.data_sha256) == (prose.name, measured["data_sha256"])
    assert (kept.num_tokens, kept.context, kept.stride) == (measured["num_tokens"], 512, 256)
    for name in ("perplexity", "parent_perplexity", "loss_ratio", "kl", "top1_agreement", "flip_rate"):
        assert kept.figures[name] == pytest.approx(tuple(measured[name].values()))
    assert "Give --quality FILE" in burnish("compress", tiny_folder, tmp_path / "x", "--max-loss", 0.1).complaint


def test_quality_by_multiple_choice(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    rows = [{"context": f"{i} and ", "choices": ["one", "two more"], "answer": i % 2} for i in range(12)]
    items.write_text("\n".join(json.dumps(row) for row in rows))
    burnish("compress", tiny_folder, tmp_path / "int4", "--recipe", "int4")
    words = ("quality", tmp_path / "int4", "--choices", items)
    alone = burnish(*words, "--max-items", 8, "--json").json
    assert alone["num_items"] == 8
    assert alone["data_sha256"] == hashlib.sha256(items.read_bytes()).hexdigest()
    both = burnish(*words, "--against", tiny_folder, "--json").json
    difference = both["accuracy"]["value"] - both["parent_accuracy"]["value"]
    assert both["accuracy_difference"]["value"] == pytest.approx(difference)
    assert both["num_won"] - both["num_lost"] == pytest.approx(12 * difference)
    assert "McNemar" in burnish(*words, "--against", tiny_folder).out


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        ((), "--data or on --choices. Give one of them"),
        (("--data", "a", "--choices", "b"), "--data or on --choices. Give one of them"),
        (("--data", "a", "--max-loss", 0.01), "--max-loss compares two models"),
        (("--choices", "a", "--max-tokens", 9), "--choices takes no"),
        (("--data", "a", "--max-items", 9), "--max-items belongs to --choices, encoders and images"),
    ],
)
def test_quality_refuses_options_that_do_not_fit(burnish: Run, words: tuple[str, ...], fault: str) -> None:
    refused = burnish("quality", *words)
    assert refused.code == 2
    assert fault in refused.err


def test_quality_reads_as_much_as_it_is_told(burnish: Run, tiny_folder: Path, prose: Path) -> None:
    options = ("--context", 64, "--stride", 16, "--max-tokens", 300)
    found = burnish("quality", tiny_folder, "--data", prose, *options, "--json").json
    assert (found["num_tokens"], found["context"], found["stride"]) == (300, 64, 16)


def check_bench(found: Any) -> None:
    for rate in (found["prefill_tokens_per_s"], found["decode_tokens_per_s"]):
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
    assert found["ready_s"] > 0
    assert found["peak_rss_bytes"] > 2**26


def test_bench_of_a_folder_and_of_its_variant(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    dense = burnish("bench", "engine", tiny_folder, *SMALL, "--json").json
    check_bench(dense)
    assert (dense["weights"], dense["threads"]) == ("dense", 1)
    int4 = burnish("bench", "engine", tiny_folder, "--weights", "int4", *SMALL, "--json").json
    check_bench(int4)
    assert int4["weights"] == "int4-g64"
    assert Path(int4["spec"]["model"]).is_relative_to(tmp_path / "cache")


@pytest.mark.parametrize(
    ("asked", "weights"),
    [
        pytest.param("dense", "dense", marks=pytest.mark.slow),
        ("int8", "int8"),
        pytest.param("int4", "int4-g64", marks=pytest.mark.slow),
    ],
)
def test_bench_of_random_weights_needs_a_config_only(
    burnish: Run, tiny_folder: Path, tmp_path: Path, asked: str, weights: str
) -> None:
    config = tmp_path / "shape.json"
    config.write_text((tiny_folder / "config.json").read_text())
    found = burnish("bench", "engine", f"random:{config}", "--weights", asked, *SMALL, "--json").json
    check_bench(found)
    assert found["weights"] == weights


@pytest.mark.slow
def test_bench_of_the_built_in_model(burnish: Run) -> None:
    try:
        locate("builtin")
    except NotFound:
        pytest.skip("the built-in model is not there yet")
    shown = burnish("bench", "engine", "builtin", *SMALL)
    assert shown.code == 0
    assert "decode tokens/s" in shown.out
