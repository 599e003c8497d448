"""The order in which training tokens are seen: a pure function of the seed and the step.

Shapes: W windows of a batch, C tokens of the context.
"""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from scripts.builtin.chat import conversations, count_keywords
from scripts.builtin.corpus import Document
from scripts.builtin.tokenizer import Tokens, encode_all

REPEATS = {"tinystories": 2}  # times a document of a source is seen per epoch; others once


class Stream:
    """Shuffled windows of shuffled documents, epoch after epoch, with new conversations in each."""

    def __init__(
        self, documents: Sequence[Document], tokenizer: Tokenizer, *, context: int, windows: int, seed: int
    ) -> None:
        self.documents, self.tokenizer = documents, tokenizer
        self.context, self.windows, self.seed = context, windows, seed
        self._keywords = count_keywords(documents)
        encoded = encode_all(tokenizer, [document.text for document in documents])
        self._plain = [
            tokens
            for document, tokens in zip(documents, encoded, strict=True)
            for _ in range(REPEATS.get(document.source, 1))
        ]
        self._start_epoch(0, first_step=0)

    def batch(self, step: int) -> Tokens:
        """The windows of a step: (W, C + 1), the last column only a target."""
        if step < self._first_step:
            self._start_epoch(0, first_step=0)
        while step >= self._first_step + self.epoch_steps:
            self._start_epoch(self._epoch + 1, first_step=self._first_step + self.epoch_steps)
        chosen = self._order[(step - self._first_step) * self.windows :][: self.windows]
        starts = chosen[:, None] * self.context
        windows: Tokens = self._tokens[starts + np.arange(self.context + 1)]
        return windows

    def _start_epoch(self, epoch: int, *, first_step: int) -> None:
        rng = np.random.default_rng((self.seed, epoch))
        chats = encode_all(self.tokenizer, list(conversations(self.documents, self._keywords, rng)))
        pieces = self._plain + chats
        self.chat_share = sum(map(len, chats)) / sum(map(len, pieces))
        self._tokens = np.concatenate([pieces[i] for i in rng.permutation(len(pieces))])
        self._order = rng.permutation((len(self._tokens) - 1) // self.context)
        self._epoch, self._first_step = epoch, first_step
        self.epoch_steps = len(self._order) // self.windows
