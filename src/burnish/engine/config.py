"""Settings of the engine."""

import logging
import os
from dataclasses import dataclass, replace
from typing import get_args

from burnish.core.errors import BadSettings
from burnish.core.types import KeyKind
from burnish.plan.executor import Backend
from burnish.plan.ops import Arena, PlanShape

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """How much the engine holds and how it shares a step.

    Decode is always served: ``max_running`` may not exceed ``step_tokens``. While something decodes, prefill gets
    at most ``prefill_share`` tokens of a step and at least ``prefill_floor``.
    """

    block_size: int = 16  # tokens
    num_blocks: int | None = None  # None: as many as kv_bytes hold
    kv_bytes: int = 512 * 2**20
    step_tokens: int = 512
    prefill_share: int = 256
    prefill_floor: int = 16
    max_running: int = 64
    max_waiting: int = 1024
    max_queued: int = 512  # requests that wait or run of one tenant that is told apart; more are refused
    prefix_cache: bool = True
    lookup: bool = False  # draft what the text itself said before
    draft: str | None = None  # a smaller model of the same vocabulary that writes drafts; none or "": nobody does
    first_token_s: float | None = None  # that a first token may take: what would take longer is refused; None: no limit
    canary_s: float = 30.0  # of nothing to do before the engine must show that it answers as it did; 0: never
    skip_ahead: int = 8  # waiting requests looked at behind one that does not fit
    max_skips: int = 32  # times a request may be overtaken before nobody passes it
    threads: int | None = None  # None: all cores
    keys: KeyKind = "f16"  # how keys and values are stored: f32, f16, or int8 with a scale per token and head
    backend: Backend = "auto"  # native where it is built, else reference

    def __post_init__(self) -> None:
        """Check what must hold between the fields."""
        if not 1 <= self.max_running <= self.step_tokens:
            raise BadSettings(
                f"max_running {self.max_running} is wrong", remedy=f"Use 1 to step_tokens, {self.step_tokens}"
            )
        if not 1 <= self.prefill_floor <= self.prefill_share:
            remedy = f"Use 1 to prefill_share, {self.prefill_share}"
            raise BadSettings(f"prefill_floor {self.prefill_floor} is wrong", remedy=remedy)
        for name in (
            "block_size",
            "num_blocks",
            "kv_bytes",
            "max_waiting",
            "max_queued",
            "threads",
            "skip_ahead",
            "max_skips",
        ):
            value, least = getattr(self, name), 0 if "skip" in name else 1
            if value is not None and value < least:
                raise BadSettings(f"{name} {value} is wrong", remedy=f"Use {least} or more")
        if self.first_token_s is not None and not self.first_token_s > 0:
            raise BadSettings(f"first_token_s {self.first_token_s} is wrong", remedy="Use more than 0")
        if not self.canary_s >= 0:
            raise BadSettings(f"canary_s {self.canary_s} is wrong", remedy="Use 0 or more")
        for name, known in (("keys", get_args(KeyKind)), ("backend", get_args(Backend))):
            if getattr(self, name) not in known:
                raise BadSettings(f"{name} {getattr(self, name)!r} is unknown", remedy=f"Use {', '.join(known)}")


def token_bytes(num_layers: int, num_kv_heads: int, head_dim: int, keys: KeyKind) -> int:
    """Bytes of the keys and values of one token, all layers."""
    head = {"f32": 4 * head_dim, "f16": 2 * head_dim, "int8": head_dim + 4}[keys]
    return 2 * num_layers * num_kv_heads * head


def resolve(config: EngineConfig, shape: PlanShape) -> EngineConfig:
    """The configuration with every choice made: ``num_blocks`` are what ``kv_bytes`` hold, but no more than can ever
    be used; ``threads`` are all cores this process may run on.

    Raises ``BadSettings`` when the blocks exceed the machine's memory.
    """
    of_token = token_bytes(shape.num_layers, shape.num_kv_heads, shape.head_dim, config.keys)
    block_bytes = of_token * config.block_size
    if config.threads is None:
        config = replace(config, threads=len(os.sched_getaffinity(0)))
    if config.num_blocks is None:
        context = -(-shape.max_positions // config.block_size)
        affordable = max(1, config.kv_bytes // block_bytes)
        if affordable < context:
            fits = affordable * config.block_size
            log.warning(
                "kv_bytes in [engine] holds %d tokens of a context of %d: longer requests are refused",
                fits,
                shape.max_positions,
            )
        config = replace(config, num_blocks=min(affordable, config.max_running * context))
    assert config.num_blocks is not None
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if config.num_blocks * block_bytes > memory_bytes:
        wanted, there = config.num_blocks * block_bytes / 2**30, memory_bytes / 2**30
        raise BadSettings(
            f"{config.num_blocks} KV blocks take {wanted:.1f} GiB, this machine has {there:.1f} GiB",
            remedy="Use a smaller num_blocks or kv_bytes in [engine]",
        )
    return config


def arena(config: EngineConfig) -> Arena:
    """The memory a resolved configuration asks for."""
    assert config.num_blocks is not None
    assert config.threads is not None
    max_rows = config.step_tokens + config.prefill_floor  # the floor is given even when decodes fill the step
    return Arena(config.num_blocks, config.block_size, max_rows, config.keys, config.threads)
