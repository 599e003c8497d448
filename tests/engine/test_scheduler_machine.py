"""Random arrivals, aborts, preemptions and sharing against the scheduler, the pool and the prefix cache.

No weights: a step "computes" a key by writing which prefix it belongs to into a simulated memory, and every
scheduled sequence first checks that each of its computed positions still holds its own prefix.
"""

from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from burnish.core.admission import Limits, admit
from burnish.core.types import Request, Sampling
from burnish.engine.blocks import BlockPool
from burnish.engine.config import EngineConfig
from burnish.engine.prefix import PrefixCache, sha256_key
from burnish.engine.scheduler import Schedule, Scheduler
from burnish.engine.sequence import Sequence
from burnish.engine.text import NoText, OutputText

PREFIXES = [(1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 9, 9, 9, 9, 9), (7,) * 9]


def colliding_key(parent: bytes, tokens: object) -> bytes:
    """A hash so bad that nearly everything collides: the exact comparison must save us."""
    return bytes([len(parent) % 2])


class SchedulerMachine(RuleBasedStateMachine):
    """One engine's bookkeeping under random load."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[str, Sequence] = {}
        self.count = 0
        self.now_s = 0.0

    @initialize(
        num_blocks=st.integers(3, 24),
        block_size=st.sampled_from([1, 2, 4]),
        max_running=st.integers(1, 6),
        step_tokens=st.integers(6, 20),
        prefix_cache=st.booleans(),
        collide=st.booleans(),
    )
    def start(
        self,
        num_blocks: int,
        block_size: int,
        max_running: int,
        step_tokens: int,
        prefix_cache: bool,
        collide: bool,
    ) -> None:
        config = EngineConfig(
            block_size=block_size,
            num_blocks=num_blocks,
            max_running=max_running,
            step_tokens=step_tokens,
            prefill_share=5,
            prefill_floor=2,
            prefix_cache=prefix_cache,
            skip_ahead=2,
            max_skips=3,
        )
        prefix = PrefixCache(block_size, colliding_key if collide else sha256_key)
        self.pool = BlockPool(num_blocks, on_evict=prefix.forget)
        self.scheduler = Scheduler(config, self.pool, prefix)
        self.limits = Limits(vocab_size=100, max_tokens=num_blocks * block_size)
        self.memory: dict[int, tuple[str, tuple[int, ...]]] = {}  # slot -> the prefix its key was computed from

    @rule(
        prefix=st.sampled_from(PREFIXES),
        length=st.integers(1, 9),
        own=st.lists(st.integers(0, 3), max_size=12),
        output=st.integers(1, 12),
        salt=st.sampled_from(["", "", "tenant"]),
        tenant=st.sampled_from(["", "a", "b"]),
        priority=st.sampled_from([0, 0, -2, 1]),
    )
    def arrive(
        self,
        prefix: tuple[int, ...],
        length: int,
        own: list[int],
        output: int,
        salt: str,
        tenant: str,
        priority: int,
    ) -> None:
        prompt = (*prefix[:length], *own)
        room = self.limits.max_tokens - len(prompt)
        if room < 1:
            return
        self.count += 1
        self.now_s += 1
        sampling = Sampling(max_tokens=min(output, room))
        request = Request(
            request_id=str(self.count), prompt=prompt, sampling=sampling, salt=salt, tenant=tenant, priority=priority
        )
        text = OutputText(NoText(), ())
        sequence = Sequence(request, max_output=admit(request, self.limits), arrival_s=self.now_s, text=text)
        self.live[request.request_id] = sequence
        self.scheduler.add(sequence)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.live)))
        self.scheduler.remove(self.live.pop(name))

    @precondition(lambda self: self.live)
    @rule(times=st.integers(1, 4))
    def step(self, times: int) -> None:
        for _ in range(times):
            if self.live:
                self._step()

    def _step(self) -> None:
        schedule = self.scheduler.schedule()
        assert sum(chunk.num_tokens for chunk in schedule.chunks) > 0, "work waits, so tokens must move"
        self._check_budget(schedule)
        for chunk in schedule.chunks:
            self._read(chunk.sequence)
        for chunk in schedule.chunks:
            self._write(chunk.sequence, chunk.num_tokens)
        ready = [chunk.sequence for chunk in schedule.chunks if chunk.is_last]
        for chunk in schedule.chunks:
            self.scheduler.advance(chunk)
        for sequence in ready:
            sequence.tokens.append((sum(sequence.tokens) + len(sequence.tokens)) % 5)
            if sequence.num_output == sequence.max_output:
                self.scheduler.remove(self.live.pop(sequence.request.request_id))

    def _check_budget(self, schedule: Schedule) -> None:
        decodes = [chunk for chunk in schedule.chunks if chunk.sequence.num_pending == 1]
        prefill = sum(chunk.num_tokens for chunk in schedule.chunks) - len(decodes)
        config = self.scheduler.config
        limit = max(config.step_tokens - len(decodes), config.prefill_floor)
        assert prefill <= limit
        assert len(self.scheduler.running) <= config.max_running
        assert len({chunk.sequence.request.request_id for chunk in schedule.chunks}) == len(schedule.chunks)

    def _slot(self, sequence: Sequence, position: int) -> int:
        size = self.scheduler.config.block_size
        return sequence.blocks[position // size] * size + position % size

    def _read(self, sequence: Sequence) -> None:
        for position in range(sequence.num_computed):
            expected = (sequence.request.salt, tuple(sequence.tokens[: position + 1]))
            assert self.memory[self._slot(sequence, position)] == expected, "somebody else's keys"

    def _write(self, sequence: Sequence, num_tokens: int) -> None:
        for position in range(sequence.num_computed, sequence.num_computed + num_tokens):
            key = (sequence.request.salt, tuple(sequence.tokens[: position + 1]))
            self.memory[self._slot(sequence, position)] = key

    @invariant()
    def blocks_are_conserved(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        assert pool.num_free + pool.num_cached + pool.num_used == pool.num_total
        held = Counter(block for sequence in self.live.values() for block in sequence.blocks)
        assert len(held) == pool.num_used
        assert all(pool.references(block) == count for block, count in held.items())
        load = self.scheduler.load()
        assert load.waiting + load.running == len(self.live)

    @invariant()
    def the_queue_knows_who_is_there(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        waiting = self.scheduler.waiting
        assert len(list(waiting)) == len(waiting)
        assert {id(one) for one in [*waiting, *self.scheduler.running]} == {id(one) for one in self.live.values()}
        for tenant in ("", "a", "b"):
            there = sum(one.request.tenant == tenant for one in self.live.values())
            assert waiting.num_open(tenant) == there

    @invariant()
    def waiting_sequences_hold_nothing(self) -> None:
        if hasattr(self, "scheduler"):
            assert all(not s.blocks and not s.num_computed for s in self.scheduler.waiting)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for _ in range(20_000):
            if not self.live:
                break
            self._step()
        assert not self.live, "everything admitted must finish"
        assert self.pool.num_used == 0
        assert self.pool.num_free + self.pool.num_cached == self.pool.num_total


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.slow
def test_a_million_operations() -> None:
    """The same machine for long."""
    SchedulerMachine.TestCase.settings = settings(max_examples=6_000, stateful_step_count=60, deadline=None)
    SchedulerMachine.TestCase().runTest()
