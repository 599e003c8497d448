"""What llama.cpp makes of a GGUF file: tokens of texts, greedy continuations, losses of windows of tokens.

    python -m benchmarks.llama_cpp.answer MODEL.gguf [PARENT.gguf] < questions.json > answers.json

Questions: {"texts": [text], "prompts": [[token]], "new_tokens": N, "windows": [[[token], number of last ones scored]]};
answers: {"texts": [[token]], "prompts": [[token]], "windows": [[loss in nats]]}, and with a parent "divergences": the
same form, KL(parent | model) in nats.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import llama_cpp as llama
import numpy as np
from numpy.typing import NDArray


class Model:
    """A file in memory, and one context."""

    def __init__(self, path: str, num_positions: int) -> None:
        llama.llama_backend_init()
        llama.llama_log_set(_SILENT, None)
        self._model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self._vocab = llama.llama_model_get_vocab(self._model)
        self._vocab_size = llama.llama_vocab_n_tokens(self._vocab)
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = num_positions
        params.n_threads = params.n_threads_batch = 1
        self._context = llama.llama_init_from_model(self._model, params)
        self._batch = llama.llama_batch_init(num_positions, 0, 1)

    def tokenize(self, text: str) -> list[int]:
        """Tokens of a text, with what the file says is added, special tokens spelt out read as such."""
        data = text.encode()
        found = (llama.llama_token * (len(data) + 8))()
        count = llama.llama_tokenize(self._vocab, data, len(data), found, len(found), True, True)
        return list(found[:count])

    def greedy(self, prompt: Sequence[int], num_tokens: int) -> list[int]:
        """The likeliest token again and again."""
        self._forget()
        made: list[int] = []
        fed = list(prompt)
        while len(made) < num_tokens:
            made.append(int(self._logits(fed, len(prompt) + len(made) - len(fed), 1)[-1].argmax()))
            fed = made[-1:]
        return made

    def scores(self, tokens: Sequence[int], num_scored: int) -> NDArray[np.float64]:
        """Log-probabilities (num_scored, V) where the last tokens of a window stand."""
        self._forget()
        logits = self._logits(tokens, 0, num_scored + 1)[:-1].astype(np.float64)
        logits -= logits.max(1, keepdims=True)
        scores: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return scores

    def _forget(self) -> None:
        llama.llama_memory_clear(llama.llama_get_memory(self._context), True)

    def _logits(self, tokens: Sequence[int], position: int, num_last: int) -> NDArray[np.float32]:
        """Logits (num_last, V) of the last of so many tokens that begin at a position."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row] = token, position + row
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
            batch.logits[row] = row >= len(tokens) - num_last
        if llama.llama_decode(self._context, batch) != 0:
            raise SystemExit("llama.cpp does not decode")
        rows = range(len(tokens) - num_last, len(tokens))
        size = (self._vocab_size,)
        found = [np.ctypeslib.as_array(llama.llama_get_logits_ith(self._context, row), shape=size) for row in rows]
        return np.stack(found)


_SILENT = llama.llama_log_callback(lambda level, text, data: None)


def main(path: str, asked: dict[str, Any], against: str | None = None) -> dict[str, Any]:
    """Answer all questions."""
    windows, prompts, new_tokens = asked.get("windows", []), asked.get("prompts", []), asked.get("new_tokens", 0)
    sizes = [len(tokens) for tokens, _ in windows] + [len(prompt) + new_tokens for prompt in prompts]
    model = Model(path, max(sizes, default=32))
    parent = None if against is None else Model(against, max(sizes, default=32))
    losses, divergences = [], []
    for tokens, num_scored in windows:
        scores = model.scores(tokens, num_scored)
        losses.append((-scores[np.arange(num_scored), tokens[-num_scored:]]).tolist())
        if parent is not None:
            theirs = parent.scores(tokens, num_scored)
            divergences.append((np.exp(theirs) * (theirs - scores)).sum(1).tolist())
    return {
        "texts": [model.tokenize(text) for text in asked.get("texts", [])],
        "prompts": [model.greedy(prompt, new_tokens) for prompt in prompts],
        "windows": losses,
        "divergences": divergences,
    }


if __name__ == "__main__":
    json.dump(main(sys.argv[1], json.load(sys.stdin), *sys.argv[2:]), sys.stdout)
