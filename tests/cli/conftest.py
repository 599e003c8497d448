"""The command line in this process, with its output and its exit code."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from burnish.cli.main import main


class Outcome(NamedTuple):
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        assert (self.code, self.out.count("\n")) == (0, 1), self
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def complaint(self) -> str:
        """The one line a user's fault is worth."""
        assert (self.code, self.out, self.err.count("\n")) == (2, "", 1), self
        assert self.err.startswith("burnish: ")
        return self.err.removeprefix("burnish: ").rstrip("\n")


Run = Callable[..., Outcome]


@pytest.fixture
def burnish(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a command line with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("BURNISH_API_KEY", raising=False)

    def run(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["burnish", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        code = left.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, out, err)

    return run


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """What a command sets for its own process ends with its test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
