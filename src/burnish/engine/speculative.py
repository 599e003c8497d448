"""Speculative decoding (Leviathan et al. 2023): drafts are computed in one step with the token before them, and those
are kept that the model would have chosen itself.

The model chooses every token as ever, each by the request's own random number: a draft that equals it is kept, the
first that does not ends the step. So an answer is the same with and without drafts, to the last bit, sampled ones as
well: for a draft that is one token for certain, this is the rule of rejection and residual.

How many drafts a sequence gets follows from how often what was expected came and from what whole steps take: as many as
make tokens per second highest, none where none pay. What a text's own past expects costs nothing to judge, drafted or
not; a model must write to be judged, so where its drafts do not pay it tries again ever more rarely, then never.
"""

from collections.abc import Sequence as Items
from typing import NamedTuple

from burnish.engine.acceptance import BY_MODEL, Acceptance
from burnish.engine.costs import StepCosts
from burnish.engine.draft_model import DraftModel
from burnish.engine.lookup import Lookup
from burnish.engine.sampling import Chosen
from burnish.engine.scheduler import Chunk, Schedule
from burnish.engine.sequence import Sequence

MOST_DRAFTS = 8  # of a sequence in a step
MOST_ROWS = 64  # of all drafts of a step
LEAST_CHANCE = 0.1  # of a draft to be kept: below it none is weighed
WORTH = 1.05  # times as many tokens per second: less is within what costs are uncertain by
PAUSE, PROBES = 32, 3  # steps without a draft of the model's before it tries again, twice as many each time; how often
TRY_ANEW = 16  # requests of which one lets the model try, where it did not pay for those before
FORGET = 0.8  # of whether the model paid for a request, with each later one
SHARED_KEPT = 0.995
LOOKS, MOST_REST = 6, 8  # times that a text is looked at in vain before it is so half as often; steps between, at most
LEARNED = 8  # steps without drafts of which one's time is taken note of


class Drafted(NamedTuple):
    """Counts since the start."""

    drafts: int = 0  # tokens that were drafted
    kept: tuple[int, ...] = ()  # how many drafts were right at their place: first, second, ...
    steps: int = 0  # steps with drafts
    saved_s: float = 0.0  # what the tokens would have taken without drafts, by measured costs, less what they took


class Offer(NamedTuple):
    """A draft that could be computed."""

    chance: float  # of being kept
    place: int  # behind so many drafts of its sequence
    owner: int  # of the sequences
    by_model: bool


class _Text:
    """What is known of one sequence."""

    def __init__(self, shared: Acceptance, *, model_may: bool) -> None:
        self.lookup, self.acceptance = Lookup(), Acceptance(shared)
        self.due = self.looked_at = 0  # the step in which it is looked at again; the last in which it was
        self.num_looks = 0  # since it last got drafts
        self.model_may = model_may  # write drafts
        self.by_model = False  # the drafts of this step
        self.num_idle, self.pause = 0, PAUSE  # steps since the model's last draft; so many until it tries again
        self.model_paid = False


class _Step(NamedTuple):
    """A step with nothing but sequences that decode."""

    sequences: int
    drafts: int
    kept: int
    writing_s: float
    forward_s: float


class Speculation:
    """Decides who gets how many drafts, has them written, and learns how they did."""

    def __init__(self, costs: StepCosts, *, looks_up: bool, model: DraftModel | None) -> None:
        self._costs, self._looks_up, self._model = costs, looks_up, model
        self._texts: dict[Sequence, _Text] = {}
        self._shared = {
            drawn: Acceptance(kept=SHARED_KEPT) for drawn in (False, True)
        }  # what a new request begins with
        self._num_texts, self._model_worth = 0, 1.0
        self._kept = [0] * MOST_DRAFTS
        self._drafts = self._steps = 0
        self._saved_s = self._writing_s = 0.0
        self._is_plain = self._is_drafted = False  # the step: nothing but decoding; with drafts
        self._num_plain = self._number = 0  # of the step
        self._due = 0  # the step in which some text is looked at again
        self._step: _Step | None = None

    @property
    def counts(self) -> Drafted:
        """What came of it so far."""
        return Drafted(self._drafts, tuple(self._kept), self._steps, self._saved_s)

    def rests(self) -> bool:
        """Whether nobody's text is to be looked at for the next step."""
        self._number += 1
        self._is_plain = self._is_drafted = False
        return self._number < self._due

    def lengths(self, sequences: list[Sequence], rows: int, spare: int) -> dict[str, int]:
        """Drafts of each sequence that gets any, by request, in a step of so many rows anyway, and so many left."""
        offers = list[Offer]()
        for owner, sequence in enumerate(sequences):
            text = self._texts.get(sequence) or self._begin(sequence)
            if text.due > self._number:
                continue
            if self._looks_up:
                text.lookup.follow(sequence.tokens, text.acceptance.learn)
            if text.lookup.run or text.model_may:
                self._offer(sequence, text, owner, offers)
            text.num_looks += 1
            text.looked_at = self._number
            rest = min(1 << text.num_looks // LOOKS, MOST_REST)
            text.due = (self._number // rest + 1) * rest  # texts that rest alike are looked at in the same step
        self._due = min((self._texts[sequence].due for sequence in sequences), default=0)
        self._is_plain = rows == len(sequences)
        found = [0] * len(sequences)
        if offers and spare:
            round_s, most = 0.0 if self._model is None else self._model.round_s, min(spare, MOST_ROWS)
            found = best_lengths(offers, self._costs, rows, len(sequences), most=most, round_s=round_s)
        if self._model is not None:
            self._probe(sequences, found, spare)
        elif not offers:
            return {}
        given = {}
        for sequence, count in zip(sequences, found, strict=True):
            if count:
                given[sequence.request.request_id] = count
                text = self._texts[sequence]
                text.num_looks = text.due = self._due = 0
        return given

    def _offer(self, sequence: Sequence, text: _Text, owner: int, offers: list[Offer]) -> None:
        """Every draft that there could be of a sequence."""
        run, most, chance = text.lookup.run, MOST_DRAFTS, 1.0
        room = 0 if self._model is None else self._model.max_positions - sequence.num_known
        may = text.model_may and room > 0
        text.by_model = may and (not run or text.acceptance.share(run) < text.acceptance.share(BY_MODEL))
        if text.by_model:
            most = min(most, room)
        elif not run:
            return
        for place in range(most):
            chance *= text.acceptance.share(BY_MODEL if text.by_model else run + place)
            if chance < LEAST_CHANCE:
                return
            offers.append(Offer(chance, place, owner, text.by_model))

    def _probe(self, sequences: list[Sequence], found: list[int], spare: int) -> None:
        """Let the model try again where it has not for a while."""
        for index, sequence in enumerate(sequences):
            text = self._texts[sequence]
            if not text.by_model or text.looked_at != self._number:
                continue
            if found[index]:
                text.model_paid, text.num_idle = True, 0
                continue
            text.num_idle += 1
            if text.num_idle >= text.pause and sum(found) < spare:
                found[index], text.num_idle = 1, 0

    def write(self, schedule: Schedule) -> Schedule:
        """The schedule with drafts wherever there is room for them."""
        drafts: dict[int, tuple[int, ...]] = {}
        by_model = []
        self._writing_s = 0.0
        for index, chunk in enumerate(schedule.chunks):
            if not chunk.room:
                continue
            text = self._texts[chunk.sequence]
            if text.by_model:
                by_model.append(index)
            else:
                drafts[index] = text.lookup.expected(chunk.sequence.tokens, chunk.room)
        if by_model and self._model is not None:
            chosen = [schedule.chunks[index] for index in by_model]
            written = self._model.write([one.sequence for one in chosen], [one.room for one in chosen])
            drafts |= dict(zip(by_model, written, strict=True))
            self._writing_s = self._model.last_s
        self._is_drafted = bool(drafts)
        if not drafts:
            return schedule
        chunks = tuple(
            Chunk(chunk.sequence, chunk.num_tokens, chunk.room, drafts.get(index, ()))
            for index, chunk in enumerate(schedule.chunks)
        )
        return Schedule(chunks, schedule.started)

    def learn(self, chunks: Items[Chunk], kept: Items[int], forward_s: float) -> None:
        """So many drafts of each chunk were kept, in a step whose forward pass took so long."""
        drafted = sum(len(chunk.draft) for chunk in chunks) if self._is_drafted else 0
        self._step = None
        self._num_plain += self._is_plain
        if self._is_plain and (drafted or self._num_plain % LEARNED == 0):
            self._step = _Step(len(chunks), drafted, sum(kept), self._writing_s, forward_s)
        if not drafted:
            return
        self._drafts += drafted
        self._steps += 1
        for chunk, count in zip(chunks, kept, strict=True):
            if not chunk.draft:
                continue
            for at in range(count):
                self._kept[at] += 1
            text = self._texts[chunk.sequence]
            if text.by_model and self._model is not None:
                self._model.learn(chunk.sequence, chunk.draft, count)
                self._judge_model(text, count, len(chunk.draft))

    def _judge_model(self, text: _Text, num_kept: int, num_drafted: int) -> None:
        for _ in range(num_kept):
            text.acceptance.learn(BY_MODEL, True)
        if num_kept < num_drafted:
            text.acceptance.learn(BY_MODEL, False)
        text.pause = 1 if num_kept else 2 * max(text.pause, PAUSE)
        text.model_may = text.pause < PAUSE << PROBES

    def took(self, seconds: float) -> None:
        """The step that was learned from took so long, from its schedule to the last of its tokens."""
        if self._step is None:
            return
        sequences, drafts, kept, writing_s, forward_s = self._step
        if drafts:
            self._saved_s += self._costs.plain_s(sequences, sequences) * (1 + kept / sequences) - seconds
        self._costs.learn(sequences, drafts, forward_s, seconds - writing_s)

    def forget(self, sequence: Sequence) -> None:
        """The request ended."""
        text = self._texts.pop(sequence, None)
        if text is not None and self._model is not None:
            self._model_worth = FORGET * self._model_worth + (1 - FORGET) * text.model_paid

    def _begin(self, sequence: Sequence) -> _Text:
        self._num_texts += 1
        may = self._model is not None and (self._model_worth > 1 / TRY_ANEW or self._num_texts % TRY_ANEW == 0)
        text = _Text(self._shared[sequence.sampling.temperature > 0], model_may=may)
        self._texts[sequence] = text
        return text


def best_lengths(
    offers: list[Offer], costs: StepCosts, rows: int, sequences: int, *, most: int, round_s: float
) -> list[int]:
    """How many drafts of each sequence make tokens per second highest, ``most`` of all together.

    ``rows``: of the step without drafts. ``round_s``: what a model takes for one more token of every draft it writes.
    """
    offers.sort(key=lambda offer: (-offer.chance, offer.place))
    tokens, rounds, plain_s = float(sequences), 0, costs.plain_s(rows, sequences)
    best, taken = WORTH * tokens / plain_s, 0
    for number, offer in enumerate(offers[:most], 1):
        tokens += offer.chance
        rounds = max(rounds, offer.place + 1) if offer.by_model else rounds
        rate = tokens / (plain_s + costs.drafts_s(rows, number) + rounds * round_s)
        if rate > best:
            best, taken = rate, number
    found = [0] * sequences
    for offer in offers[:taken]:
        found[offer.owner] += 1
    return found


def settle(chosen: list[Chosen], chunks: Items[Chunk]) -> list[list[Chosen]]:
    """What counts of the tokens that were chosen, chunk by chunk; of one that is not the last of what is known none.

    Behind a known token and each of its drafts one was chosen: up to the first that differs from its draft.
    """
    found, first = list[list[Chosen]](), 0
    for chunk in chunks:
        own = chosen[first : first + 1 + len(chunk.draft)] if chunk.is_last else []
        right = next((at for at, token in enumerate(chunk.draft) if own[at].token_id != token), len(chunk.draft))
        found.append(own[: right + 1])
        first += len(own)
    return found
