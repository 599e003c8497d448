"""Options several commands share, and the settings behind them."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from burnish.core.errors import BadRequest
from burnish.core.settings import make_config, read_settings, refuse_unknown_sections
from burnish.engine.config import EngineConfig

if TYPE_CHECKING:
    from burnish.service.config import ServiceConfig

SHIPPED_DRAFTS = {"builtin": "builtin-draft"}
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on; 0 takes any free one.")]
ApiKeys = Annotated[
    list[str] | None,
    typer.Option("--api-key", envvar="BURNISH_API_KEY", help="Demand this key; may be repeated."),
]
SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="TOML file with the sections \\[engine] and \\[service].")
]
Threads = Annotated[int | None, typer.Option(help="Threads of the engine; none: all cores.")]
Draft = Annotated[
    str | None,
    typer.Option(
        help="Who writes drafts that the model then checks, which changes no answer: a smaller model, "
        "[bold]ngram[/] (what the text said before), [bold]auto[/], or [bold]off[/]."
    ),
]


TriedDrafts = Annotated[
    str,
    typer.Option(
        "--draft",
        help="Drafts that are tried: by a smaller model, by [bold]ngram[/] (what the text said before), by what is "
        "there of both ([bold]auto[/]), or [bold]off[/].",
    ),
]
Temperature = Annotated[float, typer.Option(help="Of the answers that are timed; drafts pay more at 0.")]


def drafting(word: str | None, model: str) -> dict[str, object]:
    """The settings of the engine that a word behind --draft stands for; none: as they are."""
    words: dict[str | None, dict[str, object]] = {
        None: {},
        "off": {"lookup": False, "draft": None},
        "ngram": {"lookup": True, "draft": None},
        "auto": {"lookup": True, "draft": SHIPPED_DRAFTS.get(model)},
    }
    return words.get(word, {"lookup": False, "draft": word})


def refuse_no_tokens(max_tokens: int | None) -> None:
    """Raise ``BadRequest`` for 0, which asks for no text at all; other values are checked with all settings."""
    if max_tokens == 0:
        raise BadRequest("max_tokens = 0 is out of range", remedy="Use 1 or more", param="max_tokens")


class ServerSettings(NamedTuple):
    """What a served model needs beside the model."""

    engine: EngineConfig
    service: "ServiceConfig"


def server_settings(
    file: Path | None,
    *,
    api_keys: list[str] | None,
    threads: int | None,
    drafts: Mapping[str, object] = MappingProxyType({}),
) -> ServerSettings:
    """Settings file and environment, overridden by options. Raises ``BadSettings``."""
    from burnish.service.config import ServiceConfig

    sections = read_settings(file)
    refuse_unknown_sections(sections, ["engine", "service"])
    engine = sections.get("engine", {}) | ({"threads": threads} if threads is not None else {}) | dict(drafts)
    service = sections.get("service", {}) | ({"api_keys": tuple(api_keys)} if api_keys else {})
    return ServerSettings(
        make_config(EngineConfig, engine, section="engine"), make_config(ServiceConfig, service, section="service")
    )
