"""A small model that writes drafts. Its keys lie in an arena of its own, in the very blocks of the sequences it drafts
for: what the scheduler shares, frees and takes back holds for both.
"""

import time

from burnish.core.errors import BadSettings
from burnish.engine.batch import Piece, lay
from burnish.engine.sequence import Sequence
from burnish.kernels import sampling as kernels
from burnish.plan.executor import Backend, make_executor
from burnish.plan.ops import Arena, Plan

FRESH = 0.1  # weight of a new measurement


class DraftModel:
    """Continues sequences greedily. Where keys are missing or another's, a draft is worse, never wrong."""

    def __init__(self, plan: Plan, arena: Arena, backend: Backend, vocab_size: int) -> None:
        """Raises ``BadSettings`` for a model of another vocabulary."""
        if plan.shape.vocab_size != vocab_size:
            raise BadSettings(
                f"the draft model knows {plan.shape.vocab_size} tokens, the model {vocab_size}",
                remedy="Use a draft with the model's own tokenizer",
            )
        self.max_positions = plan.shape.max_positions
        self._executor, self._arena = make_executor(plan, arena, backend), arena
        self.round_s = 0.0  # seconds of one more token of every draft; 0: not measured yet
        self.last_s = 0.0  # of the last drafts, all that had to be caught up with included

    def write(self, sequences: list[Sequence], lengths: list[int]) -> list[tuple[int, ...]]:
        """A draft of at most its length for each sequence, whose blocks hold as many tokens."""
        begun_s = time.perf_counter()
        missing = self._catch_up(sequences)
        ready = [sequence.num_draft_computed >= sequence.num_known - 1 for sequence in sequences]
        lengths = [length if is_ready else 0 for length, is_ready in zip(lengths, ready, strict=True)]
        drafts: list[list[int]] = [[] for _ in sequences]
        for number in range(max(lengths, default=0)):
            going = [index for index, length in enumerate(lengths) if length > number]
            pieces = [self._piece(sequences[index], drafts[index]) for index in going]
            for index, token in zip(going, self._next(pieces), strict=True):
                drafts[index].append(token)
        self.last_s = time.perf_counter() - begun_s
        if any(lengths) and missing <= len(sequences):  # as ever: where all of a draft was kept its end is missing
            self._note(self.last_s / max(lengths))
        return [tuple(draft) for draft in drafts]

    def learn(self, sequence: Sequence, draft: tuple[int, ...], num_kept: int) -> None:
        """Keys of drafts that were kept stay; the last draft's were never computed. Before the tokens are appended."""
        self._book(sequence, sequence.num_known + min(num_kept, len(draft) - 1))

    def _catch_up(self, sequences: list[Sequence]) -> int:
        """Compute what the model itself has computed, no more in a step than the arena takes; how many tokens."""
        missing = 0
        for sequence in sequences:
            left = max(0, sequence.num_known - 1 - sequence.num_draft_computed)
            count = min(left, self._arena.max_rows - missing)
            missing += count
            if count:
                first = sequence.num_draft_computed
                tokens = sequence.tokens[first : first + count]
                self._executor(lay([Piece(tokens, first, sequence.blocks, (count - 1,))], self._arena.block_size))
                self._book(sequence, first + count)
        return missing

    def _book(self, sequence: Sequence, num_computed: int) -> None:
        """Keys are there for so many tokens; who finds the sequence's full blocks in the cache finds them, too."""
        size = self._arena.block_size
        for index in range(sequence.num_draft_computed // size, num_computed // size):
            if index + 1 < len(sequence.chain) and sequence.chain[index + 1].block == sequence.blocks[index]:
                sequence.chain[index + 1].is_drafted = True
        sequence.num_draft_computed = num_computed

    def _piece(self, sequence: Sequence, draft: list[int]) -> Piece:
        """The last token of a sequence and its draft."""
        last = draft[-1] if draft else sequence.tokens[-1]
        return Piece((last,), sequence.num_known - 1 + len(draft), sequence.blocks, (0,))

    def _next(self, pieces: list[Piece]) -> list[int]:
        found = kernels.argmax(self._executor(lay(pieces, self._arena.block_size)))
        return [0 if token is None else token for token in found]

    def _note(self, seconds: float) -> None:
        self.round_s += (seconds - self.round_s) * (FRESH if self.round_s else 1.0)
