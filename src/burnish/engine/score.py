"""A plan asked for the logits of given rows of a text, instead of for what comes next."""

import numpy as np
from numpy.typing import NDArray

from burnish.core.types import KeyKind
from burnish.engine.config import EngineConfig, arena, resolve
from burnish.plan.executor import Backend, make_executor
from burnish.plan.ops import Floats, Plan, StepInputs

BLOCK_SIZE = 16


class Scorer:
    """Feeds texts of at most ``length`` tokens, each from its beginning."""

    def __init__(
        self,
        plan: Plan,
        length: int,
        *,
        keys: KeyKind = "f16",
        backend: Backend = "auto",
        threads: int | None = None,
    ) -> None:
        num_blocks = -(-length // BLOCK_SIZE)
        config = EngineConfig(
            block_size=BLOCK_SIZE, num_blocks=num_blocks, step_tokens=length, max_running=1, keys=keys, threads=threads
        )
        self._execute = make_executor(plan, arena(resolve(config, plan.shape)), backend)
        self._table = np.arange(num_blocks, dtype=np.int32)[None]

    def __call__(self, tokens: NDArray[np.int32], rows: NDArray[np.int32]) -> Floats:
        """Logits (rows, V) after the tokens (L,) at ``rows``, ascending."""
        places = np.arange(len(tokens), dtype=np.int32)
        length = np.array([len(tokens)], dtype=np.int32)
        return self._execute(StepInputs(tokens, places, places, length, length, self._table, rows))
