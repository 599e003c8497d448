"""The app run from code does what the command line does; help loads no command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from burnish.cli.main import COMMANDS, app
from burnish.core.errors import BadSettings


def test_a_command_runs(tiny_folder: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(tiny_folder), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["family"] == "llama"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_its_own_help(name: str) -> None:
    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"{name} [OPTIONS]" in result.stdout
    assert ("--json" in result.stdout or "--api-key" in result.stdout) == (name not in ("chat", "bench"))


def test_help_lists_the_table_and_imports_nothing() -> None:
    code = (
        "import sys; sys.argv = ['burnish', '--help']\n"
        "from burnish.cli.main import app\n"
        "app(standalone_mode=False); print(sorted(m for m in sys.modules if m.startswith('burnish.cli.')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(summary in result.stdout for summary in COMMANDS.values())
    assert result.stdout.splitlines()[-1] == "['burnish.cli.main']"


def test_bench_without_a_subject_names_it() -> None:
    result = CliRunner().invoke(app, ["bench"])
    assert isinstance(result.exception, BadSettings)
    assert str(result.exception) == "what to measure is missing. Use: burnish bench engine"
