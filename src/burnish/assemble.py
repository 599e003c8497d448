"""A model and settings become an engine and an app: the only place where concrete classes of rooms meet."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.core.types import ModelCard
from burnish.engine.config import EngineConfig

if TYPE_CHECKING:  # the HTTP process assembles its app without torch
    from fastapi import FastAPI

    from burnish.engine.engine import Engine
    from burnish.engine.worker import Build, EngineClient
    from burnish.service.config import ServiceConfig


def build_engine(path: Path, config: EngineConfig, name: str) -> "tuple[Engine, ModelCard]":
    """Load a model folder and make its engine.

    Raises ``BadCheckpoint`` when the folder cannot be loaded, ``VerificationFailed`` when the model does not
    reproduce the golden logits of its manifest.
    """
    from burnish.engine.engine import Engine
    from burnish.models.checkpoint import load_decoder
    from burnish.models.tokenizer import load_tokenizer

    loaded = load_decoder(path)
    engine = Engine(loaded.decoder, load_tokenizer(path), config)
    card = ModelCard(
        name=name,
        vocab_size=loaded.decoder.config.vocab_size,
        max_positions=loaded.decoder.config.max_positions,
        max_request_tokens=engine.limits.max_tokens,
        weights=loaded.weights,
        created=int(time.time()),
    )
    return engine, card


def engine_builder(path: Path, config: EngineConfig, name: str) -> "Build":
    """``build_engine`` for the engine's own process."""
    return partial(build_engine, path, config, name)


def build_app(client: "EngineClient", path: Path, card: ModelCard, config: "ServiceConfig") -> "FastAPI":
    """The HTTP app of a running engine."""
    from burnish.models.tokenizer import load_tokenizer
    from burnish.service.app import create_app

    return create_app(client, load_tokenizer(path), card, config)
