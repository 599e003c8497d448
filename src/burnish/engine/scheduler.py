"""Who computes how many tokens in the next step. Counts tokens and blocks; touches no tensor.

One rule: a sequence has known and computed tokens; a step gives each sequence some of the difference until the
budget runs out. Prefill in chunks, prefix hits, decode and recomputation after preemption are the same arithmetic.
What is left of a step may be given to drafts: tokens computed as if they were known, and kept if they turn out right.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from burnish.core.types import Load
from burnish.engine.blocks import BlockPool
from burnish.engine.config import EngineConfig
from burnish.engine.prefix import PrefixCache
from burnish.engine.queue import FairQueue
from burnish.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens ``num_computed`` .. ``num_computed + num_tokens`` of a sequence, and drafts behind them.

    Blocks are there for ``room`` drafts.
    """

    sequence: Sequence
    num_tokens: int
    room: int = 0
    draft: tuple[int, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether the step ends with everything known computed, so that a new token can be chosen."""
        return self.num_tokens == self.sequence.num_pending

    @property
    def scored(self) -> range:
        """Positions whose logits tell how likely the prompt's next token was, where that is asked and not known."""
        sequence = self.sequence
        first, last = sequence.num_computed, sequence.num_computed + self.num_tokens
        return range(max(first, sequence.num_scored), min(last, sequence.num_to_score))


Lengths = Callable[[list[Sequence], int, int], dict[str, int]]
"""(sequences that decode, rows of the step without drafts, rows that are left) -> drafts, by request"""


class Schedule(NamedTuple):
    """One step. Blocks for every chunk are allocated."""

    chunks: tuple[Chunk, ...]
    started: tuple[Sequence, ...]  # computed for the first time in this step


class Scheduler:
    """Owns the waiting and running sequences, the block pool and the prefix cache."""

    def __init__(self, config: EngineConfig, pool: BlockPool, prefix: PrefixCache) -> None:
        self.config, self.pool, self.prefix = config, pool, prefix
        self.waiting = FairQueue()
        self.running: list[Sequence] = []  # by arrival, the oldest first
        self.num_preemptions = 0
        self.num_queried_tokens = self.num_hit_tokens = 0  # of admitted sequences

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence that is known to fit an empty pool."""
        self.waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._free_blocks(sequence)
        else:
            self.waiting.remove(sequence)
        self.waiting.close(sequence)

    def schedule(self, lengths: Lengths | None = None) -> Schedule:
        """The next step: every decode, then prefill within its share, whose tenant was served least first; then room
        for drafts.
        """
        self._make_place()
        chunks: list[Chunk] = []
        prefill, preempted = self._prefill_budget(), self.num_preemptions
        reading = list[Sequence]()
        for running in list(self.running):
            if running.num_pending > 1:
                reading.append(running)
            elif self._grow(running, 1):
                chunks.append(Chunk(running, 1))
        reading.sort(key=self.waiting.rank, reverse=True)
        started: list[Sequence] = []
        while prefill > 0 and (sequence := self._next_to_read(reading, preempted)) is not None:
            if not sequence.has_started:
                sequence.num_cached = sequence.num_computed
                self.waiting.charge(sequence, sequence.num_pending)
                started.append(sequence)
            wanted = min(sequence.num_pending, prefill)
            if self._grow(sequence, wanted):
                chunks.append(Chunk(sequence, wanted))
                prefill -= wanted
        if self.num_preemptions > preempted:  # blocks of some were taken for others
            left = {id(one) for one in self.running}
            chunks = [chunk for chunk in chunks if id(chunk.sequence) in left]
        if lengths is not None:
            chunks = self._with_room(chunks, lengths)
        return Schedule(tuple(chunks), tuple(started))

    def _with_room(self, chunks: list[Chunk], lengths: Lengths) -> list[Chunk]:
        """The chunks, with blocks for drafts behind those that decode; nobody is preempted for a draft."""
        decodes, rows = list[Sequence](), 0
        for chunk in chunks:
            rows += chunk.num_tokens
            if chunk.num_tokens == 1 and chunk.sequence.num_pending == 1:
                decodes.append(chunk.sequence)
        spare = max(0, self.config.step_tokens - rows)
        asked = lengths(decodes, rows, spare)
        return (
            [self._room(chunk, asked.get(chunk.sequence.request.request_id, 0)) for chunk in chunks]
            if asked
            else chunks
        )

    def _room(self, chunk: Chunk, wanted: int) -> Chunk:
        sequence = chunk.sequence
        room = max(0, min(wanted, sequence.max_output - sequence.num_output - 1))  # the last token needs no draft
        while room and self._missing_blocks(sequence, 1 + room) > self.pool.num_available:
            room -= 1
        if not room:
            return chunk
        for _ in range(self._missing_blocks(sequence, 1 + room)):
            sequence.blocks.append(self.pool.allocate())
        return Chunk(sequence, chunk.num_tokens, room)

    def advance(self, chunk: Chunk, num_kept: int = 0) -> None:
        """The chunk is computed, and so many of its drafts turned out to be right: full blocks can be found by other
        sequences from now on.
        """
        sequence = chunk.sequence
        if chunk.is_last:
            self.waiting.charge(sequence, num_written=1 + num_kept)
        before = sequence.num_computed // self.config.block_size
        sequence.num_computed += chunk.num_tokens + num_kept
        sequence.num_scored = max(sequence.num_scored, min(sequence.num_computed, sequence.num_to_score))
        after = sequence.num_computed // self.config.block_size
        if self.config.prefix_cache and after > before:
            tokens = [*sequence.tokens, *chunk.draft[:num_kept]] if num_kept else sequence.tokens
            for index in range(before, after):
                self.prefix.remember(sequence.chain, tokens, sequence.blocks[index])

    def load(self) -> Load:
        """Counts for the outside."""
        return Load(
            waiting=len(self.waiting),
            running=len(self.running),
            total_blocks=self.pool.num_total,
            free_blocks=self.pool.num_free,
            cached_blocks=self.pool.num_cached,
            used_blocks=self.pool.num_used,
            preemptions=self.num_preemptions,
            prefix_queried_tokens=self.num_queried_tokens,
            prefix_hit_tokens=self.num_hit_tokens,
        )

    def _prefill_budget(self) -> int:
        decodes = sum(sequence.num_pending == 1 for sequence in self.running)
        if not decodes:
            return self.config.step_tokens
        room = min(self.config.prefill_share, self.config.step_tokens - decodes)
        return max(self.config.prefill_floor, room)

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Allocate blocks for the next tokens, preempting the youngest if need be; False if that was itself."""
        if sequence not in self.running:
            return False
        while self._missing_blocks(sequence, num_tokens) > self.pool.num_available:
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        for _ in range(self._missing_blocks(sequence, num_tokens)):
            sequence.blocks.append(self.pool.allocate())
        return True

    def _missing_blocks(self, sequence: Sequence, num_tokens: int) -> int:
        needed = -(-(sequence.num_computed + num_tokens) // self.config.block_size)
        return max(0, needed - len(sequence.blocks))

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the head of the queue."""
        self._give_up(sequence)
        self.waiting.add_preempted(sequence)

    def _give_up(self, sequence: Sequence) -> None:
        """Its known tokens stay, the computed ones are computed again."""
        self.running.remove(sequence)
        self._free_blocks(sequence)
        self.num_preemptions += 1

    def _free_blocks(self, sequence: Sequence) -> None:
        for block in reversed(sequence.blocks):  # tails are evicted before the prefixes they need
            self.pool.release(block, keep=self.prefix.holds(block))
        sequence.blocks.clear()
        sequence.num_computed = sequence.num_draft_computed = 0

    def _next_to_read(self, reading: list[Sequence], preempted: int) -> Sequence | None:
        """The last of those that read already; or one that waits and whose tenant was served less, admitted now.

        In a step that preempted somebody, more than the count before it, nobody is admitted.
        """
        if self.num_preemptions > preempted:
            return reading.pop() if reading else None
        if reading and (not len(self.waiting) or self._comes_before(reading[-1])):
            return reading.pop()
        admitted = self._next_waiting()
        return reading.pop() if admitted is None and reading else admitted

    def _make_place(self) -> None:
        """Where all places are taken and a tenant waits that has none, whoever has most gives up one, the youngest."""
        if len(self.running) < self.config.max_running or not len(self.waiting):
            return
        [first] = self.waiting.first(1)
        places = Counter(one.request.tenant for one in self.running)
        tenant, count = places.most_common(1)[0]
        if first.request.tenant in places or count < 2:
            return
        youngest = next(one for one in reversed(self.running) if one.request.tenant == tenant)
        if self.waiting.rank(youngest)[0] <= self.waiting.rank(first)[0]:
            return  # it would come first again
        self._give_up(youngest)
        self.waiting.put_back(youngest)

    def _comes_before(self, sequence: Sequence) -> bool:
        [first] = self.waiting.first(1)
        return self.waiting.rank(sequence)[0] <= self.waiting.rank(first)[0]

    def _next_waiting(self) -> Sequence | None:
        """Admit the first waiting sequence that fits; a few may be overtaken, each a bounded number of times."""
        if len(self.running) == self.config.max_running:
            return None
        overtaken: list[Sequence] = []
        for sequence in self.waiting.first(1 + self.config.skip_ahead):
            if self._admit(sequence):
                for other in overtaken:
                    other.skips += 1
                return sequence
            if sequence.skips == self.config.max_skips:
                return None
            overtaken.append(sequence)
        return None

    def _admit(self, sequence: Sequence) -> bool:
        """Move a waiting sequence to running, with its cached prefix, if all it knows has room."""
        if self.running and sequence.refused_at is not None and self.pool.num_available <= sequence.refused_at:
            return False  # nothing was freed since: spare the look at every block of its prefix
        chain = self.prefix.find(sequence.tokens, sequence.request.salt) if self.config.prefix_cache else []
        if sequence.num_scored < sequence.num_to_score:  # keys found in the cache come without logits
            chain = chain[: 1 + sequence.num_scored // self.config.block_size]
        found = [entry.block for entry in chain[1:]]
        needed = -(-(sequence.num_known + 1) // self.config.block_size) - len(found)
        revived = sum(self.pool.references(block) == 0 for block in found)
        if needed + revived > self.pool.num_available and self.running:
            sequence.refused_at = self.pool.num_available
            return False
        sequence.refused_at = None
        sequence.chain = chain
        for block in found:
            self.pool.share(block)
        sequence.blocks = found
        sequence.num_computed = len(found) * self.config.block_size
        drafted = next((at for at, entry in enumerate(chain[1:]) if not entry.is_drafted), len(found))
        sequence.num_draft_computed = drafted * self.config.block_size
        self.num_queried_tokens += sequence.num_known
        self.num_hit_tokens += sequence.num_computed
        self.waiting.remove(sequence)
        self._insert(sequence)
        return True

    def _insert(self, sequence: Sequence) -> None:
        """Keep ``running`` ordered by arrival, so that the youngest is preempted and the oldest always advances."""
        at = len(self.running)
        while at and self.running[at - 1].arrival_s > sequence.arrival_s:
            at -= 1
        self.running.insert(at, sequence)
