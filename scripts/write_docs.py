"""Write docs/cli.md from the commands themselves; ``--check`` only says whether it is current."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from burnish.cli.main import COMMANDS

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """# Commands

Written by `make docs` from the commands themselves. Every `--json` prints one JSON object on stdout and nothing else;
progress goes to stderr. Exit codes: 0 done, 1 failed, 2 a fault in what was asked, 3 a model that is not what it
claims to be, or a budget or limit that is not kept.
"""


def describe() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, summary in COMMANDS.items():
        command: Any = typer.main.get_command(import_module(f"burnish.cli.{name}").app)
        parts.append(f"## burnish {name}\n\n{summary}\n")
        for sub, leaf in getattr(command, "commands", {"": command}).items():
            parts.append(_table(f"burnish {name} {sub}".strip(), leaf))
    return "\n".join(parts)


def _table(title: str, command: Any) -> str:
    rows = [f"`{title}`\n", "| | default | |", "|---|---|---|"]
    for parameter in command.params:
        names = ", ".join(parameter.opts) if parameter.param_type_name == "option" else parameter.name.upper()
        default = "" if parameter.default in (None, "", False) or callable(parameter.default) else parameter.default
        if parameter.name != "help":
            rows.append(f"| `{names}` | {default} | {_plain(getattr(parameter, 'help', '') or '')} |")
    return "\n".join(rows) + "\n"


def _plain(text: str) -> str:
    return text.replace("[bold]", "").replace("[/]", "").replace("\\[", "[").replace("|", "\\|")


if __name__ == "__main__":
    page = describe()
    if "--check" in sys.argv:
        sys.exit(0 if TARGET.read_text(encoding="utf-8") == page else "docs/cli.md is stale: run make docs")
    TARGET.write_text(page, encoding="utf-8")
