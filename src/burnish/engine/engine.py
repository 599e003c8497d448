"""The engine: schedule -> forward -> update, for all requests together. One thread at a time may call it."""

import math
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from typing import TYPE_CHECKING, Protocol, Union

from burnish.core.admission import Limits, admit
from burnish.core.errors import BadRequest, BurnishError, Overloaded
from burnish.core.profile import BATCH, FORWARD, SAMPLE, SCHEDULE, UPDATE
from burnish.core.types import Event, FinishEvent, FinishReason, Load, PromptEvent, Request, StartEvent, TokenEvent
from burnish.engine.batch import guided_rows, make_batch, state_of
from burnish.engine.blocks import BlockPool
from burnish.engine.config import EngineConfig, arena, resolve
from burnish.engine.costs import measure_costs
from burnish.engine.draft_model import DraftModel
from burnish.engine.guide import Compiling, Guide, Guides, Spelling
from burnish.engine.prefix import PrefixCache
from burnish.engine.recorder import Recorder, card_ranges
from burnish.engine.sampling import BatchState, Chosen, sample
from burnish.engine.scheduler import Schedule, Scheduler
from burnish.engine.scoring import take_scores
from burnish.engine.sequence import Sequence
from burnish.engine.speculative import Drafted, Speculation, settle
from burnish.engine.text import NoText, OutputText
from burnish.models.tokenizer import Pieces, TextStream
from burnish.plan.executor import make_executor
from burnish.plan.names import operation_names
from burnish.plan.ops import Floats, Plan

if TYPE_CHECKING:
    from burnish.models.decoder import Decoder

__all__ = ["Engine", "Model", "Plan", "Vocabulary", "plan_of"]

Model = Union[Plan, "Decoder"]
LEAST_READ = 32  # tokens of prompts in a step, for its speed to tell how fast prompts are read
COMPILED_S = 0.01  # that a step waits for a grammar where nothing else is to be done
PROMPT_TAIL = 8  # tokens: more than one character, so that output may begin in the middle of one


class Vocabulary(Pieces, Spelling, Protocol):
    """A tokenizer that knows which tokens end a generation."""


class Engine:
    """Continuous batching over a block pool.

    ``add`` and ``abort`` change the queue, ``step`` computes one batch and returns what happened. A decoder is lowered
    to a plan first.
    """

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary | None,
        config: EngineConfig,
        *,
        draft: Model | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``draft``: a smaller model of the same vocabulary that writes drafts. Raises ``BadSettings``."""
        plan = plan_of(model)
        self.config = resolve(config, plan.shape)
        assert self.config.num_blocks is not None
        prefix = PrefixCache(self.config.block_size)
        pool = BlockPool(self.config.num_blocks, on_evict=prefix.forget)
        self.limits = Limits(
            plan.shape.vocab_size,
            min(plan.shape.max_positions, self.config.num_blocks * self.config.block_size),
        )
        self._scheduler = Scheduler(self.config, pool, prefix)
        self._forward = make_executor(plan, arena(self.config), self.config.backend)
        self._vocabulary, self._clock = vocabulary, clock
        self._eos = vocabulary.eos_token_ids if vocabulary else frozenset[int]()
        self._guides = None if vocabulary is None else Guides(vocabulary, plan.shape.vocab_size)
        self._compiling: dict[Sequence, Compiling] = {}  # sequences that wait for their grammar
        self._sequences: dict[str, Sequence] = {}
        self._outbox: list[Event] = []  # survives a step that raises half-way
        self._num_steps = self._num_not_numbers = 0
        self.forward_s = 0.0  # seconds inside the executor: the rest of a step is Python's
        self._read_per_s = 0.0  # tokens of prompts, in the last step; 0 of one that read few
        self._started_s = self._step_s = 0.0  # when the step began; of the last one's forward pass
        self._speculation = self._speculate(plan, draft)
        self._operations = operation_names(plan)
        self._recorder: Recorder | None = None

    def _speculate(self, plan: Plan, draft: Model | None) -> Speculation | None:
        if draft is None and not self.config.lookup:
            return None
        room = arena(self.config)
        vocab_size = plan.shape.vocab_size
        model = None if draft is None else DraftModel(plan_of(draft), room, self.config.backend, vocab_size)
        return Speculation(measure_costs(self._forward, room), looks_up=self.config.lookup, model=model)

    @property
    def has_work(self) -> bool:
        """Whether a step would compute something."""
        return bool(self._sequences)

    @property
    def drafted(self) -> Drafted:
        """What came of drafts so far."""
        return Drafted() if self._speculation is None else self._speculation.counts

    def add(self, request: Request) -> None:
        """Queue a request with n = 1.

        Raises ``BadRequest`` when it can never fit, ``Overloaded`` when too many wait already.
        """
        max_output = admit(request, self.limits)
        if len(self._scheduler.waiting) + len(self._compiling) >= self.config.max_waiting:
            raise Overloaded(f"{self.config.max_waiting} requests are waiting", remedy="Send the request again later")
        if request.tenant and self._scheduler.waiting.num_open(request.tenant) >= self.config.max_queued:
            told = f"{self.config.max_queued} requests of this tenant wait or run"
            raise Overloaded(told, remedy="Send the request again later")
        if request.request_id in self._sequences:
            raise BadRequest(f"request id {request.request_id!r} is in use", remedy="Choose another")
        tail = request.prompt[-PROMPT_TAIL:]
        stream = TextStream(self._vocabulary, tail) if self._vocabulary else NoText()
        text = OutputText(stream, request.sampling.stop)
        sequence = Sequence(request, max_output=max_output, arrival_s=self._clock(), text=text)
        compiling = self._compile(request)
        self._sequences[request.request_id] = sequence
        if compiling is None:
            self._scheduler.add(sequence)
        else:
            self._compiling[sequence] = compiling

    def _compile(self, request: Request) -> Compiling | None:
        if request.sampling.grammar is None:
            return None
        if self._guides is None:
            raise BadRequest("the model has no tokenizer to follow a grammar with", remedy="Ask for any text")
        return self._guides.begin(request.sampling.grammar)

    def abort(self, request_id: str) -> list[Event]:
        """Stop a request and free its blocks at once; an unknown id is one that has finished already."""
        sequence = self._sequences.get(request_id)
        return [] if sequence is None else [self._finish(sequence, "abort")]

    def fail(self, error: str) -> list[Event]:
        """End everything that runs after a step that raised; what waits is not touched."""
        for sequence in list(self._scheduler.running):
            self._outbox.append(self._finish(sequence, "error", error))
        return self._take_events()

    def step(self) -> list[Event]:
        """Compute one batch: schedule, forward, update."""
        if not self.has_work or not self._take_compiled():
            return self._take_events()
        self._begin(SCHEDULE)
        begun_s, schedule = self._clock(), self._schedule()
        logits = self._compute(schedule)
        scored = take_scores(schedule.chunks, logits)
        chosen = settle(sample(scored.rest, self._state(schedule)), schedule.chunks)
        self._num_steps += 1
        self._update(begun_s, schedule, scored.events, chosen)
        return self._take_events()

    def _take_compiled(self) -> bool:
        """Queue whoever's grammar is ready, end whoever's is none. Whether there is something to compute."""
        if not self._compiling:
            return True
        idle = len(self._compiling) == len(self._sequences)
        if idle:
            wait([one.future for one in self._compiling.values()], timeout=COMPILED_S, return_when=FIRST_COMPLETED)
        for sequence, compiling in list(self._compiling.items()):
            if not compiling.is_over:
                continue
            try:
                sequence.guide = compiling.guide()
            except BurnishError as error:
                self._outbox.append(self._finish(sequence, "error", str(error), is_refused=True))
                continue
            del self._compiling[sequence]
            self._scheduler.add(sequence)
        return len(self._compiling) < len(self._sequences)

    def _state(self, schedule: Schedule) -> BatchState:
        """What tokens are chosen by; where there is a grammar, among those it allows."""
        state, guided = state_of(schedule.chunks), guided_rows(schedule.chunks)
        if not guided:
            return state
        assert self._guides is not None
        rows, changed = [row for one in guided for row in one.rows], list(state)
        for row, allowed in zip(rows, self._guides.allowed([one.asked for one in guided]), strict=True):
            changed[row] = changed[row]._replace(allowed=allowed)
        return tuple(changed)

    def load(self) -> Load:
        """Counts for the outside."""
        drafts, kept, _, saved_s = self.drafted
        counts = self._scheduler.load()._replace(steps=self._num_steps, read_per_s=self._read_per_s)
        return counts._replace(drafts=drafts, kept_drafts=kept, saved_s=saved_s, not_numbers=self._num_not_numbers)

    def record(self, num_steps: int) -> Recorder:
        """Record the next steps. Only one recorder at a time is told; ``stop_recording`` ends it."""
        self._recorder = Recorder(self._operations, num_steps, clock=self._clock, ranges=card_ranges())
        return self._recorder

    def stop_recording(self) -> None:
        """Nothing is timed any more."""
        self._recorder = None
        self._forward.profile(False)

    def _begin(self, phase: str) -> None:
        if self._recorder is not None:
            self._recorder.begin(phase)

    def _schedule(self) -> Schedule:
        """The next step, with drafts where they pay."""
        self._started_s = time.perf_counter()
        if self._speculation is None or self._speculation.rests():
            return self._scheduler.schedule()
        return self._speculation.write(self._scheduler.schedule(self._speculation.lengths))

    def _compute(self, schedule: Schedule) -> Floats:
        if self._recorder is not None:
            self._recorder.see(schedule)
            self._forward.profile(True)  # from zero
        self._begin(BATCH)
        inputs = make_batch(schedule.chunks, self.config.block_size)
        self._begin(FORWARD)
        begun_s = time.perf_counter()
        logits = self._forward(inputs)
        self._step_s = time.perf_counter() - begun_s
        self.forward_s += self._step_s
        self._begin(SAMPLE)
        return logits

    def _update(
        self, begun_s: float, schedule: Schedule, scored: list[PromptEvent], chosen: list[list[Chosen]]
    ) -> None:
        """Book what was computed, tell what was scored, append what was chosen, chunk by chunk."""
        self._begin(UPDATE)
        for started in schedule.started:
            queue_s = begun_s - started.arrival_s
            self._outbox.append(StartEvent(request_id=started.request.request_id, queue_s=queue_s))
        num_kept = [max(0, len(own) - 1) for own in chosen]  # of the drafts
        if self._speculation is not None:
            self._speculation.learn(schedule.chunks, num_kept, self._step_s)
        for chunk, count in zip(schedule.chunks, num_kept, strict=True):
            self._scheduler.advance(chunk, count)
        for event in scored:
            is_number = not any(math.isnan(token.logprob) for token in event.logprobs)
            self._outbox.append(event if is_number else self._no_numbers(self._sequences[event.request_id]))
        for chunk, own in zip(schedule.chunks, chosen, strict=True):
            for choice in own:
                if chunk.sequence.request.request_id in self._sequences:
                    self._append(chunk.sequence, choice)
        took_s = time.perf_counter() - self._started_s
        if self._speculation is not None:
            self._speculation.took(took_s)
        read = sum(chunk.num_tokens for chunk in schedule.chunks if chunk.num_tokens > 1)
        self._read_per_s = read / took_s if read >= LEAST_READ else 0.0
        if self._recorder is not None:
            chunks = zip(schedule.chunks, chosen, strict=True)
            written = [len(own) if chunk.sequence.max_output else 0 for chunk, own in chunks]
            self._recorder.end(self._forward.seconds(), written)

    def _append(self, sequence: Sequence, choice: Chosen) -> None:
        """One new token, and the finish if it is the last."""
        if choice.token_id is None:
            self._outbox.append(self._no_numbers(sequence))
            return
        if sequence.max_output == 0:
            self._outbox.append(self._finish(sequence, "length"))
            return
        sequence.tokens.append(choice.token_id)
        sequence.use_up(1)
        is_end = self._ends(sequence, choice.token_id)
        if sequence.guide is not None and (why := self._astray(sequence.guide, choice.token_id, is_end=is_end)):
            told = f"the grammar cannot be followed: {why}"
            self._outbox.append(self._finish(sequence, "error", told, is_refused=True))
            return
        text = "" if is_end else sequence.text.push(choice.token_id)
        reason = self._reason(sequence, is_end)
        if reason is not None and not sequence.text.stopped:
            text += sequence.text.finish()
        token = TokenEvent(
            request_id=sequence.request.request_id,
            token_ids=(choice.token_id,),
            text=text,
            logprobs=None if choice.logprobs is None else (choice.logprobs,),
        )
        self._outbox.append(token)
        if reason is not None:
            self._outbox.append(self._finish(sequence, reason))

    def _take_events(self) -> list[Event]:
        events, self._outbox = self._outbox, []
        return events

    def _ends(self, sequence: Sequence, token_id: int) -> bool:
        """Whether the token itself ends the generation: its text is not shown."""
        sampling = sequence.sampling
        return token_id in sampling.stop_token_ids or (token_id in self._eos and not sampling.ignore_eos)

    def _reason(self, sequence: Sequence, is_end: bool) -> FinishReason | None:
        if is_end or sequence.text.stopped or (sequence.guide is not None and sequence.guide.is_complete):
            return "stop"
        return "length" if sequence.num_output == sequence.max_output else None

    def _astray(self, guide: Guide, token_id: int, *, is_end: bool) -> str:
        """Why a guide lost its way; empty while it knows it. One that cannot tell what is allowed allows the end."""
        return guide.error if is_end or not guide.take(token_id) else ""

    def _no_numbers(self, sequence: Sequence) -> FinishEvent:
        self._num_not_numbers += 1
        return self._finish(sequence, "error", "the model's logits are not numbers")

    def _finish(
        self, sequence: Sequence, reason: FinishReason, error: str | None = None, *, is_refused: bool = False
    ) -> FinishEvent:
        compiling = self._compiling.pop(sequence, None)
        if compiling is None:
            self._scheduler.remove(sequence)
        else:
            compiling.future.cancel()
        del self._sequences[sequence.request.request_id]
        if self._speculation is not None:
            self._speculation.forget(sequence)
        request_id = sequence.request.request_id
        return FinishEvent(
            request_id=request_id, reason=reason, usage=sequence.usage, error=error, is_refused=is_refused
        )


def plan_of(model: Model) -> Plan:
    """The model itself if it is a plan, else its plan; only then is torch loaded."""
    if isinstance(model, Plan):
        return model
    from burnish.plan.lower import lower

    return lower(model)
