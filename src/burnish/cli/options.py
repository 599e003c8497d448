"""Options several commands share, and the settings behind them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from burnish.core.errors import BadRequest
from burnish.core.settings import make_config, read_settings, refuse_unknown_sections
from burnish.engine.config import EngineConfig

if TYPE_CHECKING:
    from burnish.service.config import ServiceConfig

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


def refuse_no_tokens(max_tokens: int | None) -> None:
    """Raise ``BadRequest`` for 0, which asks for no text at all; other values are checked with all settings."""
    if max_tokens == 0:
        raise BadRequest("max_tokens = 0 is out of range", remedy="Use 1 or more", param="max_tokens")


class ServerSettings(NamedTuple):
    """What a served model needs beside the model."""

    engine: EngineConfig
    service: "ServiceConfig"


def server_settings(file: Path | None, *, api_keys: list[str] | None, threads: int | None) -> ServerSettings:
    """Settings file and environment, overridden by options. Raises ``BadSettings``."""
    from burnish.service.config import ServiceConfig

    sections = read_settings(file)
    refuse_unknown_sections(sections, ["engine", "service"])
    engine = sections.get("engine", {}) | ({"threads": threads} if threads is not None else {})
    service = sections.get("service", {}) | ({"api_keys": tuple(api_keys)} if api_keys else {})
    return ServerSettings(
        make_config(EngineConfig, engine, section="engine"), make_config(ServiceConfig, service, section="service")
    )
