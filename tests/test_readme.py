"""What README.md shows is true: its Python runs, its command lines exist."""

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import typer

from burnish.cli.main import COMMANDS
from burnish.core.errors import NotFound
from burnish.models.locate import locate

README = Path(__file__).resolve().parents[1] / "README.md"


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str


def blocks(text: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every ``burnish ...`` line of the shell blocks, comments and pipes cut off."""
    for block in blocks(text):
        if block.language in ("", "sh", "bash", "shell", "console"):
            for line in block.text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True) if "burnish" in line else []
                if words and words[0].rpartition("/")[2] == "burnish":
                    ends = [at for at, word in enumerate(words) if word in ("|", "&", "&&", ">", ";")]
                    yield words[1 : min(ends, default=len(words))]


def check(words: list[str]) -> None:
    """Parse a command line as burnish would, without running it. Raises what the parser raises."""
    name, *rest = words
    assert name in COMMANDS, f"unknown command {name!r}"
    command = typer.main.get_command(import_module(f"burnish.cli.{name}").app)
    context = command.make_context(name, rest)
    for word, inner in getattr(command, "commands", {}).items():
        if word in rest:
            inner.make_context(word, rest[rest.index(word) + 1 :], parent=context)


SHOWN = list(commands(README.read_text(encoding="utf-8")))
PYTHON = [block.text for block in blocks(README.read_text(encoding="utf-8")) if block.language == "python"]


@pytest.mark.parametrize("words", SHOWN, ids=" ".join)
def test_command_lines_exist(words: list[str]) -> None:
    check(words)


@pytest.mark.parametrize("code", PYTHON)
def test_python_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What talks to a server is only compiled: the server tests do the same with the same client."""
    compiled = compile(code, str(README), "exec")
    if "burnish" not in code:
        return
    try:
        locate("builtin")
    except NotFound:
        pytest.skip("the built-in model is absent")
    exec(compiled, {"__name__": "__main__"})
    assert ("print" in code) == bool(capsys.readouterr().out)


def test_wrong_command_lines_are_found() -> None:
    text = (
        "```sh\n$ .venv/bin/burnish serve m --port 80 | cat  # comment\nls burnish\nburnish bench \\\n engine m\n```\n"
    )
    good = list(commands(text))
    assert good == [["serve", "m", "--port", "80"], ["bench", "engine", "m"]]
    for words in good:
        check(words)
    for line in ("serve m --prot 80", "sevre m", "bench engine --repeats 3", "compress m"):
        with pytest.raises(Exception, match=r"[Nn]o such option|unknown command|Missing"):
            check(line.split())
