"""A conversation outlives its context; a model that cannot converse says so at once."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from burnish.cli.chat import app
from burnish.core.errors import BadRequest
from burnish.models.checkpoint import save_checkpoint
from tests.conftest import write_byte_tokenizer
from tests.tiny import tiny_decoder

OPTIONS = ["--max-tokens", "8", "--temperature", "0"]


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees 128 bytes."""
    folder = tmp_path_factory.mktemp("models") / "short"
    save_checkpoint(tiny_decoder(max_positions=128), folder, family="llama")
    write_byte_tokenizer(folder)
    return folder


def answers(model: Path, lines: list[str], *options: str) -> tuple[list[str], str]:
    said = "".join(f"{line}\n" for line in lines)
    result = CliRunner().invoke(app, [str(model), *OPTIONS, *options], input=said)
    assert result.exit_code == 0, result.exception
    return result.stdout.splitlines(), result.stderr


def test_the_oldest_turns_go_and_it_is_said_once(short: Path) -> None:
    lines = [f"This is question number {i}." for i in range(8)]
    _, said = answers(short, lines, "--system", "Be kind.")
    assert said.count("oldest turns go") == 1
    assert said.count("you ") == len(lines) + 1


def test_what_is_left_is_what_a_new_conversation_would_hold(short: Path) -> None:
    """When everything before the last question went, its answer is that of a fresh chat."""
    long = "x" * 80
    told, said = answers(short, ["Hello.", long])
    assert "oldest turns go" in said
    assert told[-1] == answers(short, [long])[0][-1]


def test_a_message_too_long_on_its_own_is_refused_and_forgotten(short: Path) -> None:
    told, said = answers(short, ["y" * 500, "Hello."])
    assert "limit of 128" in said or "the limit is 128" in said
    assert told == answers(short, ["Hello."])[0]


def test_a_short_conversation_says_nothing_of_it(short: Path) -> None:
    assert "oldest" not in answers(short, ["Hi."])[1]


def test_without_a_template_the_remedy_comes_before_the_first_prompt(short: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(short, tmp_path / "bare")
    words = json.loads((bare / "tokenizer_config.json").read_text())
    del words["chat_template"]
    (bare / "tokenizer_config.json").write_text(json.dumps(words))
    result = CliRunner().invoke(app, [str(bare)], input="Hello.\n")
    assert isinstance(result.exception, BadRequest)
    assert str(result.exception).endswith(f"has no chat template. Use: burnish generate {bare}")
    assert "you" not in result.stderr
