"""Speculative decoding (Leviathan et al. 2023): drafts are computed in one step with the token before them, and those
are kept that the model would have chosen itself.

The model chooses every token as ever, each by the request's own random number: a draft that equals it is kept, the
first that does not ends the step. So an answer is the same with and without drafts, to the last bit, sampled ones as
well: for a draft that is one token for certain, this is the rule of rejection and residual.

How many drafts a sequence gets follows from how often its drafts were right and from what rows cost: as many as make
tokens per second highest, none where none pay.
"""

from collections.abc import Sequence as Items
from typing import NamedTuple

from burnish.engine.costs import StepCosts
from burnish.engine.draft_model import DraftModel
from burnish.engine.lookup import Lookup
from burnish.engine.sampling import Chosen
from burnish.engine.scheduler import Chunk, Schedule
from burnish.engine.sequence import Sequence

MOST_DRAFTS = 8  # of a sequence in a step
MOST_ROWS = 64  # of all drafts of a step
PRIOR, PRIOR_WEIGHT = 0.6, 2.0  # share of drafts that are right before anything is known, and its weight in drafts
FORGET = 0.9  # of what was learned, with each draft
PROBE = 32  # steps without a draft after which one is tried again
LOOKUP, MODEL = "lookup", "model"


class Drafted(NamedTuple):
    """Counts since the start."""

    drafts: int = 0  # tokens that were drafted
    kept: tuple[int, ...] = ()  # how many drafts were right at their place: first, second, ...
    steps: int = 0  # steps with drafts
    saved_s: float = 0.0  # what the tokens that were kept would have taken, less what drafts took, by measured costs


class Rate:
    """How often drafts are right, the latest counting most."""

    def __init__(self) -> None:
        self._right = self._tried = 0.0

    def value(self, prior: float) -> float:
        """The share, towards ``prior`` where little is known."""
        return (self._right + PRIOR_WEIGHT * prior) / (self._tried + PRIOR_WEIGHT)

    def learn(self, num_kept: int, num_drafted: int) -> None:
        """So many drafts were right before one was wrong."""
        self._right = FORGET * self._right + num_kept
        self._tried = FORGET * self._tried + min(num_kept + 1, num_drafted)


class _Text:
    """What is known of one sequence."""

    def __init__(self) -> None:
        self.lookup = Lookup()
        self.found: tuple[int, ...] = ()  # for the step to come
        self.source = LOOKUP
        self.rates = {LOOKUP: Rate(), MODEL: Rate()}
        self.num_idle = 0  # steps without a draft


class Speculation:
    """Decides who gets how many drafts, has them written, and learns how they did."""

    def __init__(self, costs: StepCosts, *, looks_up: bool, model: DraftModel | None) -> None:
        self._costs, self._looks_up, self._model = costs, looks_up, model
        self._texts: dict[str, _Text] = {}
        self._rates = {LOOKUP: Rate(), MODEL: Rate()}  # of all requests: what a new one begins with
        self._kept = [0] * MOST_DRAFTS
        self._drafts = self._steps = 0
        self._saved_s = 0.0

    @property
    def counts(self) -> Drafted:
        """What came of it so far."""
        return Drafted(self._drafts, tuple(self._kept), self._steps, self._saved_s)

    def lengths(self, sequences: list[Sequence], rows: int, spare: int) -> list[int]:
        """How many drafts each sequence gets in a step that has so many rows anyway, and so many left."""
        most = [self._most(sequence) for sequence in sequences]
        rates = [self._rate(sequence) for sequence in sequences]
        found = best_lengths(
            [[rate ** (at + 1) for at in range(count)] for rate, count in zip(rates, most, strict=True)],
            [self._text(sequence).source == MODEL for sequence in sequences],
            self._costs,
            rows,
            min(spare, MOST_ROWS),
            round_s=0.0 if self._model is None else self._model.round_s,
        )
        for index, sequence in enumerate(sequences):
            text = self._text(sequence)
            text.num_idle = 0 if found[index] else text.num_idle + 1
            if text.num_idle >= PROBE and most[index] and sum(found) < spare:
                found[index], text.num_idle = 1, 0
        return found

    def write(self, schedule: Schedule) -> Schedule:
        """The schedule with drafts wherever there is room for them."""
        drafts: dict[int, tuple[int, ...]] = {}
        by_model = []
        for index, chunk in enumerate(schedule.chunks):
            if not chunk.room:
                continue
            text = self._text(chunk.sequence)
            if text.source == LOOKUP:
                drafts[index] = text.found[: chunk.room]
            else:
                by_model.append(index)
        if by_model and self._model is not None:
            chosen = [schedule.chunks[index] for index in by_model]
            written = self._model.write([one.sequence for one in chosen], [one.room for one in chosen])
            drafts |= dict(zip(by_model, written, strict=True))
        if not drafts:
            return schedule
        chunks = tuple(
            Chunk(chunk.sequence, chunk.num_tokens, chunk.room, drafts.get(index, ()))
            for index, chunk in enumerate(schedule.chunks)
        )
        return Schedule(chunks, schedule.started)

    def learn(self, chunks: Items[Chunk], kept: Items[int], seconds: float) -> None:
        """So many drafts of each chunk were kept, in a step whose forward pass took so long."""
        rows = sum(chunk.num_tokens for chunk in chunks)
        drafted = sum(len(chunk.draft) for chunk in chunks)
        if all(chunk.sequence.num_pending == 1 for chunk in chunks):
            self._costs.learn(rows + drafted, seconds)
        if not drafted:
            return
        rounds = 0
        for chunk, count in zip(chunks, kept, strict=True):
            if not chunk.draft:
                continue
            text = self._text(chunk.sequence)
            for rate in (text.rates[text.source], self._rates[text.source]):
                rate.learn(count, len(chunk.draft))
            for at in range(count):
                self._kept[at] += 1
            if text.source == MODEL and self._model is not None:
                self._model.learn(chunk.sequence, chunk.draft, count)
                rounds = max(rounds, len(chunk.draft))
        self._drafts += drafted
        self._steps += 1
        alone = self._costs.seconds(rows)
        extra = self._costs.seconds(rows + drafted) - alone + rounds * (self._model.round_s if self._model else 0.0)
        self._saved_s += alone * sum(kept) / max(1, rows) - extra

    def forget(self, request_id: str) -> None:
        """The request ended."""
        self._texts.pop(request_id, None)

    def _text(self, sequence: Sequence) -> _Text:
        return self._texts.setdefault(sequence.request.request_id, _Text())

    def _most(self, sequence: Sequence) -> int:
        """Drafts that there can be: found in the text, else by the model."""
        text = self._text(sequence)
        text.found = text.lookup.find(sequence.tokens, MOST_DRAFTS) if self._looks_up else ()
        text.source = LOOKUP if text.found or self._model is None else MODEL
        if text.source == LOOKUP:
            return len(text.found)
        assert self._model is not None
        return max(0, min(MOST_DRAFTS, self._model.max_positions - sequence.num_known))

    def _rate(self, sequence: Sequence) -> float:
        text = self._text(sequence)
        return text.rates[text.source].value(self._rates[text.source].value(PRIOR))


def best_lengths(
    gains: list[list[float]], by_model: list[bool], costs: StepCosts, rows: int, spare: int, *, round_s: float
) -> list[int]:
    """How many drafts of each sequence make tokens per second highest.

    ``gains``: chances that the first, second, ... draft of each is kept, falling; ``round_s``: what a model takes for
    one more token of every draft it writes.
    """
    offers = [(gain, index, at) for index, own in enumerate(gains) for at, gain in enumerate(own)]
    offers.sort(key=lambda offer: (-offer[0], offer[2]))
    tokens, rounds = float(len(gains)), 0
    best, taken = tokens / costs.seconds(rows), 0
    for number, (gain, index, at) in enumerate(offers[:spare], 1):
        tokens += gain
        rounds = max(rounds, at + 1) if by_model[index] else rounds
        rate = tokens / (costs.seconds(rows + number) + rounds * round_s)
        if rate > best:
            best, taken = rate, number
    found = [0] * len(gains)
    for _, index, at in offers[:taken]:
        found[index] = max(found[index], at + 1)
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
