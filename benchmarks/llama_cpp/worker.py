"""llama.cpp's worker: its C API, one batch of all prompts, then one batch a step.

Contexts are made per order, outside the measured time, so that every order gets the size it needs and an empty cache.
"""

from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np

from benchmarks.facts import read_bytes
from benchmarks.protocol import Arrivals, Load, Prompts, serve


class LlamaCpp:
    """A model in memory."""

    def __init__(self, order: Load) -> None:
        self._folder, self._threads = Path(order.model), order.threads
        llama.llama_backend_init()
        path = next(self._folder.glob("*.gguf"))
        self._model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        if not self._model:
            raise ValueError(f"llama.cpp does not load {path.name}")
        self._vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))

    def read_bytes(self) -> int:
        """Bytes of weights that one decoded token reads."""
        return read_bytes(self._folder)

    def generate(self, prompts: Prompts, new_tokens: int, arrived: Arrivals) -> None:
        """Continue the prompts greedily."""
        context = self._context(prompts, new_tokens)
        batch = llama.llama_batch_init(sum(map(len, prompts)), 0, 1)
        try:
            arrived.restart()
            _fill(batch, [(t, p, s) for s, prompt in enumerate(prompts) for p, t in enumerate(prompt)], prompts)
            rows = self._last_rows(prompts)
            for step in range(new_tokens):
                chosen = self._decode(context, batch, rows)
                arrived.note_all()
                _fill(batch, [(t, len(prompts[s]) + step, s) for s, t in enumerate(chosen)], None)
                rows = list(range(len(prompts)))
        finally:
            llama.llama_batch_free(batch)
            llama.llama_free(context)

    def _context(self, prompts: Prompts, new_tokens: int) -> Any:
        params = llama.llama_context_default_params()
        params.n_seq_max = len(prompts)
        params.n_ctx = len(prompts) * (max(map(len, prompts)) + new_tokens)
        params.n_batch = sum(map(len, prompts))
        params.n_threads = params.n_threads_batch = self._threads
        params.no_perf = True
        context = llama.llama_init_from_model(self._model, params)
        if not context:
            raise ValueError("llama.cpp makes no context")
        return context

    @staticmethod
    def _last_rows(prompts: Prompts) -> list[int]:
        ends = np.cumsum([len(prompt) for prompt in prompts])
        return [int(end) - 1 for end in ends]

    def _decode(self, context: Any, batch: Any, rows: list[int]) -> list[int]:
        status = llama.llama_decode(context, batch)
        if status != 0:
            raise ValueError(f"llama_decode returned {status}")
        size = (self._vocab_size,)
        logits = [np.ctypeslib.as_array(llama.llama_get_logits_ith(context, row), shape=size) for row in rows]
        return [int(row.argmax()) for row in logits]


def _fill(batch: Any, tokens: list[tuple[int, int, int]], prompts: Prompts | None) -> None:
    """Tokens (id, position, sequence); with prompts, only the last token of each wants logits."""
    batch.n_tokens = len(tokens)
    for row, (token, position, sequence) in enumerate(tokens):
        batch.token[row], batch.pos[row] = token, position
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
        batch.logits[row] = prompts is None or position == len(prompts[sequence]) - 1


if __name__ == "__main__":
    serve(LlamaCpp)
