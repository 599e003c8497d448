"""A model and settings become an engine and an app: the only place where concrete classes of rooms meet.

Rooms that load torch are imported where they are used: the HTTP process assembles its app without it.
"""

import asyncio
import hashlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from burnish.core.errors import BadSettings, VerificationFailed
from burnish.core.records import CalibrationRecord, LatencyRecord, LayerRecord, QualityRecord
from burnish.core.types import ModelCard
from burnish.engine.config import EngineConfig
from burnish.models.locate import locate
from burnish.plan.cache import PlanCache
from burnish.plan.ops import Plan
from burnish.plan.tile_file import collect
from burnish.registry.artifact import (
    Manifest,
    content_hash,
    content_stamp,
    describe,
    new_folder,
    read_manifest,
    write_manifest,
)
from burnish.registry.golden import EMBEDDING_TOLERANCE, Golden, deviations, golden_prompts, make_golden, refuse_foreign

if TYPE_CHECKING:
    import numpy as np
    from fastapi import FastAPI
    from numpy.typing import NDArray

    from burnish.engine.client import EngineClient
    from burnish.engine.engine import Engine
    from burnish.models.checkpoint import Loaded
    from burnish.models.decoder import DecoderConfig
    from burnish.models.encoder import EncoderConfig
    from burnish.models.encoder_checkpoint import LoadedEncoder
    from burnish.models.vision import VisionConfig
    from burnish.models.vision_checkpoint import LoadedVision
    from burnish.plan.tile_file import Lowered
    from burnish.service.config import ServiceConfig


RANDOM = "random:"


class Origin(NamedTuple):
    """What an artifact was made of."""

    parent: Path
    recipe: str
    records: Sequence[LayerRecord]
    float_activations: Sequence[str] = ()  # linear layers whose inputs stay floats
    calibration: CalibrationRecord | None = None
    latency: LatencyRecord | None = None  # what formats were chosen by
    int8_activations: bool = False  # as ``save_checkpoint`` tells other engines
    recipe_text: str | None = None  # the recipe as TOML, every setting of every pass


def load_checked(path: Path, *, mapped: bool = False) -> "Loaded":
    """Load a model; one with a manifest must reproduce its golden logits. ``mapped`` as for ``load_decoder``.

    Raises ``BadCheckpoint`` for a folder that cannot be loaded, ``VerificationFailed`` for one that computes
    something else than its manifest says.
    """
    from burnish.models.checkpoint import load_decoder
    from burnish.models.golden import golden_logits

    loaded = load_decoder(path, mapped=mapped)
    _refuse_deviating(path, loaded.decoder.config, partial(golden_logits, loaded.decoder))
    return loaded


def load_checked_encoder(path: Path, *, mapped: bool = False) -> "LoadedEncoder":
    """Load an encoder; one with a manifest must reproduce its golden embeddings. As ``load_checked``."""
    from burnish.models.encoder_checkpoint import load_encoder
    from burnish.models.golden import embeddings_of

    loaded = load_encoder(path, mapped=mapped)
    _refuse_deviating(path, loaded.encoder.config, partial(embeddings_of, loaded.encoder))
    return loaded


def load_checked_vision(path: Path) -> "LoadedVision":
    """Load a network for images; one with a manifest must reproduce its golden logits. As ``load_checked``."""
    from burnish.models.golden import image_logits
    from burnish.models.vision_checkpoint import load_vision

    loaded = load_vision(path)
    _refuse_deviating(path, loaded.vision.config, partial(image_logits, loaded.vision))
    return loaded


def load_any(path: Path, *, mapped: bool = False) -> "Loaded | LoadedEncoder | LoadedVision":
    """Load a model of any kind. As ``load_checked``."""
    from burnish.models.encoder_checkpoint import is_encoder
    from burnish.models.vision_checkpoint import is_vision

    if is_vision(path):
        return load_checked_vision(path)
    return load_checked_encoder(path, mapped=mapped) if is_encoder(path) else load_checked(path, mapped=mapped)


class _Bounds(NamedTuple):
    """Of what golden prompts may hold."""

    num_values: int
    length: int


def _bounds(shape: "DecoderConfig | EncoderConfig | VisionConfig") -> _Bounds:
    from burnish.models.golden import BYTES
    from burnish.models.vision import VisionConfig

    if isinstance(shape, VisionConfig):
        return _Bounds(max(BYTES, shape.num_classes), shape.channels * shape.image_size**2)
    return _Bounds(shape.vocab_size, shape.max_positions)


def _refuse_deviating(
    path: Path,
    shape: "DecoderConfig | EncoderConfig | VisionConfig",
    compute: Callable[[Sequence[Sequence[int]]], "NDArray[np.float32]"],
) -> None:
    """Raise ``VerificationFailed`` when a model does not compute what its manifest, if it has one, says."""
    manifest = read_manifest(path)
    if manifest is None:
        return
    refuse_foreign(manifest.golden, *_bounds(shape))
    found = deviations(manifest.golden, compute(manifest.golden.prompts))
    if found:
        worst = max(found, key=lambda d: abs(d.computed - d.expected))
        raise VerificationFailed(
            f"{str(path)!r} does not reproduce its golden outputs: {len(found)} figures differ, "
            f"the worst is {worst.computed:.5g} instead of {worst.expected:.5g}",
            remedy="Make the artifact again from its parent",
        )


def write_artifact(
    loaded: "Loaded | LoadedEncoder | LoadedVision",
    origin: Origin,
    out: Path,
    measure: Callable[[Path], tuple[QualityRecord, ...]] | None = None,
) -> Manifest:
    """Write a compressed model: Hugging Face layout, its parent's tokenizer, and the manifest that proves it.

    ``out`` appears whole or not at all. ``measure`` is given the finished artifact before that; what it finds goes into
    the manifest, and what it raises leaves nothing behind. Raises ``BadSettings`` when ``out`` exists already.
    """
    prompts = golden_prompts(*_bounds(loaded.model.config))
    with new_folder(out) as staging:
        weights, golden = _save(loaded, staging, origin, prompts)
        manifest = describe(
            staging,
            parent=origin.parent,
            recipe=origin.recipe,
            weights=weights,
            records=origin.records,
            golden=golden,
            float_activations=origin.float_activations,
            calibration=origin.calibration,
            latency=origin.latency,
            recipe_text=origin.recipe_text,
        )
        write_manifest(staging, manifest)
        if measure is not None:
            manifest = replace(manifest, quality=measure(staging))
            write_manifest(staging, manifest)
    return manifest


class _Stored(NamedTuple):
    """What was read back from the files just written: what is proven is what is stored."""

    weights: str
    golden: Golden


_Prompts = tuple[tuple[int, ...], ...]


def _save(loaded: "Loaded | LoadedEncoder | LoadedVision", folder: Path, origin: Origin, prompts: _Prompts) -> _Stored:
    from burnish.models.checkpoint import Loaded
    from burnish.models.tokenizer import save_tokenizer
    from burnish.models.vision_checkpoint import LoadedVision

    if isinstance(loaded, LoadedVision):
        return _save_vision(loaded, folder, origin, prompts)
    save_tokenizer(origin.parent, folder)
    if isinstance(loaded, Loaded):
        return _save_decoder(loaded, folder, origin, prompts)
    return _save_encoder(loaded, folder, origin, prompts)


def _save_decoder(loaded: "Loaded", folder: Path, origin: Origin, prompts: _Prompts) -> _Stored:
    import torch

    from burnish.models.checkpoint import save_checkpoint
    from burnish.models.golden import golden_logits

    save_checkpoint(
        loaded.decoder,
        folder,
        family=loaded.family,
        dtype=torch.bfloat16,
        raw_config=loaded.raw_config,
        int8_activations=origin.int8_activations,
    )
    stored = load_checked(folder)
    return _Stored(stored.weights, make_golden(prompts, golden_logits(stored.decoder, prompts)))


def _save_encoder(loaded: "LoadedEncoder", folder: Path, origin: Origin, prompts: _Prompts) -> _Stored:
    import torch

    from burnish.models.encoder_checkpoint import save_encoder
    from burnish.models.golden import embeddings_of

    save_encoder(loaded, folder, dtype=torch.bfloat16, int8_activations=origin.int8_activations)
    stored = load_checked_encoder(folder)
    embeddings = embeddings_of(stored.encoder, prompts)
    return _Stored(stored.weights, make_golden(prompts, embeddings, EMBEDDING_TOLERANCE))


def _save_vision(loaded: "LoadedVision", folder: Path, origin: Origin, prompts: _Prompts) -> _Stored:
    from burnish.models.golden import image_logits
    from burnish.models.vision_checkpoint import save_vision

    save_vision(loaded, folder, int8_activations=origin.int8_activations)
    stored = load_checked_vision(folder)
    return _Stored(stored.weights, make_golden(prompts, image_logits(stored.vision, prompts)))


def open_plan(path: Path, cache: PlanCache | None = None) -> Plan:
    """The plan of a model: mapped from the cache, or lowered from its checkpoint and kept there for the next start.

    Raises as ``load_checked`` when it has to be lowered; a plan that is found was proven then, and loads no torch.
    """
    cache = cache or PlanCache()
    return cache.open_stamped(content_stamp(path), partial(_plan_key, path), partial(_lowered, path))


def _plan_key(path: Path) -> str:
    """What a plan depends on: the model's files, and which layers take floats."""
    kept = f"{content_hash(path)} {' '.join(_float_activations(path))}"
    return hashlib.sha256(kept.encode()).hexdigest()


def _float_activations(path: Path) -> tuple[str, ...]:
    manifest = read_manifest(path)
    return () if manifest is None else manifest.float_activations


def open_measured(model: str, weights: str | None = None) -> Plan:
    """The plan of what ``locate`` understands, or of random weights: "random:CONFIG.json", dense unless told otherwise.

    Raises as ``open_plan``, and ``BadSettings`` when a stored model is not in the format asked for.
    """
    if model.startswith(RANDOM):
        return _open_random(Path(model.removeprefix(RANDOM)).expanduser(), weights or "dense")
    plan = open_plan(locate(model))
    if weights is not None and plan.weights.partition("-")[0] != weights.partition("-")[0]:
        raise BadSettings(
            f"the weights of {model!r} are {plan.weights}, not {weights}",
            remedy=f"Make them first: burnish compress {model} OUT --recipe {weights}",
        )
    return plan


def _open_random(config: Path, weights: str) -> Plan:
    def make() -> "Lowered":
        from burnish.models.checkpoint import random_decoder
        from burnish.plan.lower import lowered

        return lowered(random_decoder(config, weights=weights).decoder)

    key = hashlib.sha256(f"{content_hash(config)} {weights}".encode()).hexdigest() if config.is_file() else ""
    return PlanCache().open(key, make) if key else collect(make())


def _lowered(path: Path) -> "Lowered":
    from burnish.plan.lower import lowered

    return lowered(load_checked(path).decoder, float_activations=_float_activations(path))


def build_engine(path: Path, config: EngineConfig, name: str) -> "tuple[Engine, ModelCard]":
    """Open a model and make its engine, with its draft model if it has one. Raises as ``open_plan``."""
    from burnish.engine.engine import Engine
    from burnish.models.tokenizer import load_tokenizer

    plan = open_plan(path)
    draft = open_plan(locate(config.draft)) if config.draft else None
    engine = Engine(plan, load_tokenizer(path), config, draft=draft)
    card = ModelCard(
        name=name,
        vocab_size=plan.shape.vocab_size,
        max_positions=plan.shape.max_positions,
        max_request_tokens=engine.limits.max_tokens,
        weights=plan.weights,
        created=int(time.time()),
        max_in_flight=config.max_waiting,
        max_queued=config.max_queued,
        max_running=config.max_running,
        first_token_s=config.first_token_s,
    )
    return engine, card


def build_app(client: "EngineClient", path: Path, card: ModelCard, config: "ServiceConfig") -> "FastAPI":
    """The HTTP app of a running engine."""
    from burnish.models.tokenizer import load_tokenizer
    from burnish.service.app import create_app

    return create_app(client, load_tokenizer(path), card, config, profiler=client)


async def serve_model(
    path: Path,
    name: str,
    listener: socket.socket,
    *,
    engine: EngineConfig,
    service: "ServiceConfig",
    announce: Callable[[str], None],
) -> None:
    """Run the engine in its own process and serve it until SIGTERM or SIGINT. ``announce`` is told the URL.

    Raises as ``load_checked``, and ``Unavailable`` when the engine's process dies while it loads.
    """
    from burnish.engine.client import EngineClient, SupervisorConfig
    from burnish.service.server import serve

    client = EngineClient(partial(build_engine, path, engine, name), SupervisorConfig(canary_s=engine.canary_s))

    async def make_app() -> "FastAPI":
        card = await client.start()
        return await asyncio.to_thread(build_app, client, path, card, service)  # a large vocabulary takes a second

    try:
        await serve(make_app, listener, announce=announce)
    finally:
        await client.close()
