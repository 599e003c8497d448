"""burnish serve: a model over an OpenAI-compatible API."""

import asyncio
import json
import shlex
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.markup import escape

from burnish.assemble import serve_model
from burnish.cli.options import (
    ApiKeys,
    Draft,
    Host,
    Port,
    ServerSettings,
    SettingsFile,
    Threads,
    drafting,
    server_settings,
)
from burnish.cli.output import Model, err
from burnish.models.locate import locate
from burnish.models.tokenizer import load_tokenizer
from burnish.service.server import bind

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    model: Model = "builtin",
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: ApiKeys = None,
    name: Annotated[str | None, typer.Option(help="The model's name in the API; its folder's by default.")] = None,
    threads: Threads = None,
    draft: Draft = None,
    settings: SettingsFile = None,
) -> None:
    """Serve a model over an OpenAI-compatible API, with a chat page at /."""
    path = locate(model)
    configured = server_settings(settings, api_keys=api_key, threads=threads, drafts=drafting(draft, model))
    run(path, name or served_name(model, path), host, port, configured)


def run(path: Path, name: str, host: str, port: int, settings: ServerSettings) -> None:
    """Listen first, so that a port in use is told before a model is loaded; then load and serve."""
    with bind(host, port) as listener:
        engine, service = settings
        loading = err.status(f"Loading [bold]{escape(name)}[/]")  # on a terminal, until there is more to say

        def ready(url: str) -> None:
            loading.stop()
            announce(url, name, example(path), needs_key=bool(service.api_keys))

        with loading:
            asyncio.run(serve_model(path, name, listener, engine=engine, service=service, announce=ready))


def served_name(model: str, path: Path) -> str:
    """How the API calls a model: its own name, or that of its folder."""
    if model.startswith("builtin"):
        return model
    return path.resolve().stem if path.is_file() else path.resolve().name


class Example(NamedTuple):
    """A request this model can answer."""

    endpoint: str
    fields: dict[str, object]


def example(path: Path) -> Example:
    """A chat for models with a chat template, a completion for the others."""
    if load_tokenizer(path).template is None:
        return Example("/v1/completions", {"prompt": "Once upon a time", "max_tokens": 64})
    return Example("/v1/chat/completions", {"messages": [{"role": "user", "content": "Tell me a story."}]})


def announce(url: str, name: str, shown: Example, *, needs_key: bool) -> None:
    """Say what to open, and show a request that works."""
    key = ' -H "Authorization: Bearer $KEY"' if needs_key else ""
    err.print(
        f"\nServing [bold]{escape(name)}[/]. Open [bold]{url}/[/] to chat, or try:\n", highlight=False, soft_wrap=True
    )
    body = json.dumps({"model": name, "stream": True} | shown.fields)
    command = f"curl -N {url}{shown.endpoint}{key} -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    err.print(command, highlight=False, markup=False, soft_wrap=True)
    err.print("\nCtrl-C stops.", highlight=False)
