"""The table of commands, and the one map from fault to exit code."""

import os
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from burnish import __version__
from burnish.core.errors import BadSettings, BurnishError, nearest

COMMANDS = {
    "up": "Diagnose a model, find its best variant, and serve it.",
    "serve": "Serve a model over an OpenAI-compatible API.",
    "generate": "Continue a prompt.",
    "chat": "Talk to a model in the terminal.",
    "inspect": "Show what a model is made of and what it costs.",
    "optimize": "Search for the best variant for this machine.",
    "compress": "Write a slimmer variant of a model.",
    "export": "Write a model for other engines.",
    "recipes": "List what can be done to a model.",
    "quality": "Measure perplexity, alone or against another model.",
    "verify": "Prove on a model that batching and caching change nothing.",
    "diagnose": "Say what bounds a model here, and what would help.",
    "bench": "Measure the speed of the engine.",
    "load": "Put load on a server, and measure what its users would see.",
    "profile": "Show where the time of a model or of a server goes.",
    "cache": "List or clear what is kept for a faster start.",
}
_LISTING = "burnish.listing"


class LazyCommands(TyperGroup):
    """Finds ``burnish NAME`` in ``burnish.cli.NAME``, whose ``app`` it runs; help needs only the table."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the table."""
        return list(COMMANDS)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """List the table; ``get_command`` is told so."""
        ctx.meta[_LISTING] = True
        super().format_help(ctx, formatter)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, imported; its line of the table alone while help is written."""
        if cmd_name not in COMMANDS:
            raise BadSettings(f"unknown command {cmd_name!r}", remedy=nearest(cmd_name, list(COMMANDS)))
        is_listed = ctx.meta.get(_LISTING, False)
        found = _summary(COMMANDS[cmd_name]) if is_listed else import_module(f"burnish.cli.{cmd_name}").app
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


def _summary(text: str) -> typer.Typer:
    """A command that is only listed."""
    listed = typer.Typer(add_completion=False)
    listed.command(help=text)(lambda: None)
    return listed


app = typer.Typer(
    cls=LazyCommands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback(invoke_without_command=True)
def burnish(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", is_eager=True, help="Show the version and exit."),
) -> None:
    """Take a trained model to production: measure it, slim it, serve it."""
    if version:
        print(f"burnish {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


UsageError: Any = typer.BadParameter.__mro__[1]  # typer does not export it


def main() -> None:
    """Run the command line. A user's fault is one line on stderr and its exit code; never a traceback."""
    try:
        sys.exit(app(standalone_mode=False, prog_name="burnish"))
    except BurnishError as error:
        _fail(str(error), error.exit_code)
    except UsageError as error:
        _fail(_usage(error), 2)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _usage(error: Any) -> str:
    """What is wrong with the command line, the value that is, and where to look."""
    message = error.format_message().rstrip(".")
    if hasattr(error.__cause__, "errors"):  # of pydantic, which converts the values
        message += f", not {error.__cause__.errors()[0]['input']!r}"
    return f"{message}. See: {' '.join(['burnish', *(word for word in sys.argv[1:2] if word in COMMANDS)])} --help"


def _fail(message: str, exit_code: int) -> None:
    print(f"burnish: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
