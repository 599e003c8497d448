"""Successive halving over candidates: many on little data, few on much, all of it really measured.

First every candidate reads a little of the text and serves once, what is predicted to be fastest first; those that are
shown to lose too much fall out, and of the others the better half goes on. They read more of it, all of it where less
does not tell whether they keep the loss, and serve in turn with the model itself, round by round. The best that keeps
the limits must then keep the loss on the half of the text that the search never looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import BurnishError, OutOfTime
from burnish.measure.intervals import Interval
from burnish.measure.limits import Limit
from burnish.measure.quality.gate import Verdict, judge_loss
from burnish.optimize.candidates import FREE, NO_DRAFTS, Candidate, Drafting, easier, settings
from burnish.optimize.shapes import Sized, promising
from burnish.optimize.weigh import (
    FIGURE_OF,
    TOLD_AS,
    Figures,
    Objective,
    Weighed,
    best,
    broken,
    distance,
    goodness,
    is_gain,
    medians,
    pareto,
    ratio,
)

ROUNDS = 5
LEAST_KEPT, LEAST_SAFE = 3, 2
SHAPES, SHRUNK = 3, 0.85  # shapes that are scored, and the share of the weights they have at most
HOPELESS = 1.25  # times as slow as the model itself, by prediction: not even made
NOTHING_LOST = Interval(0.0, 0.0, 0.0)


class Stages(NamedTuple):
    """Shares of the time: by then each stage must be done."""

    screened: float
    shaped: float
    set: float
    read: float


class Reach(IntEnum):
    """How much of the text is read: one of so many tokens, the first ones."""

    LITTLE = 16
    MORE = 4
    ALL = 1


QUICK, LEARNING = Stages(0.45, 0.45, 0.55, 0.65), Stages(0.35, 0.65, 0.7, 0.75)


class Steps(NamedTuple):
    """How much may still be ahead."""

    makes: int = 0
    reads: int = 0
    serves: int = 0


Told = Callable[[str, Steps], None]
"""What is done now, and what may still be ahead, itself included"""


class Split(Protocol):
    """The loss ratio of a candidate on one half of the text."""

    def __call__(self, losses: NDArray[np.float64], own: NDArray[np.float64]) -> Interval:
        """Perplexity over the model's own, minus 1, with its interval."""
        ...


class Lab(Protocol):
    """Makes and measures; what is found is kept. All raise ``BurnishError`` for a candidate that cannot be."""

    def make(self, candidate: Candidate) -> float:
        """Make the weights; megabytes of their files."""
        ...

    def losses(self, candidate: Candidate, reach: Reach) -> NDArray[np.float64]:
        """Losses of so many of the text's tokens."""
        ...

    def serve(self, candidate: Candidate, number: int) -> Figures:
        """Serve the situation for the round of that number."""
        ...

    def until(self, share: float) -> None:
        """What is made or read from now on must be done by this share of all the time."""
        ...

    def has_time(self) -> bool:
        """Whether there is time for one more."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is wanted."""

    objective: Objective
    max_loss: float
    limits: tuple[Limit, ...] = ()
    concurrency: int = 1
    cores: int = 1
    drafting: Drafting = NO_DRAFTS  # what is tried


@dataclass(slots=True)
class Tried:
    """A candidate and what was found of it."""

    candidate: Candidate
    size_mb: float = 0.0
    reach: Reach = Reach.LITTLE  # of the text that was read
    loss: Interval | None = None  # on the half that the search looks at
    confirmed: Interval | None = None  # on the other
    rounds: list[Figures] = field(default_factory=list)
    verdict: Verdict | None = None
    reason: str = ""  # why it fell out; empty: it did not

    @property
    def name(self) -> str:
        """Of the candidate."""
        return self.candidate.name


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the search came to."""

    own: Weighed
    tried: tuple[Tried, ...]
    weighed: tuple[Weighed, ...]  # all that were timed to the end
    pareto: tuple[str, ...]
    chosen: str | None  # None: nothing keeps the limits
    reason: str
    nearest: str | None = None  # where nothing keeps the limits
    unmet: tuple[Limit, ...] = ()  # by the nearest


class Search:
    """One search. ``halves``: how losses are compared on the half that is searched and on the one that is kept."""

    def __init__(self, lab: Lab, asked: Asked, halves: tuple[Split, Split], told: Told = lambda *_: None) -> None:
        self._lab, self._asked, self._told = lab, asked, told
        self._searched, self._kept = halves
        self._own = Tried(Candidate(recipe=None), loss=NOTHING_LOST, confirmed=NOTHING_LOST, verdict="pass")
        self._tried: list[Tried] = []
        self._is_short = False  # of time: something was not tried

    def run(
        self,
        candidates: Sequence[Candidate],
        known: Sequence[Sized] = (),
        predicted: Mapping[str, float] = MappingProxyType({}),
    ) -> Outcome:
        """Try them all, as far as there is time, then smaller shapes among the ``known``.

        ``predicted``: times of recipes over the model's own. Raises what measuring the model itself raises.
        """
        own, stages = self._own, LEARNING if known else QUICK
        own.size_mb = self._lab.make(own.candidate)
        own.rounds.append(self._lab.serve(own.candidate, 0))
        self._lab.until(stages.screened)
        screened = self._screen_all(candidates, predicted)
        self._lab.until(stages.shaped)
        if not self._is_short:  # of time: what is made at once comes before what must learn
            screened += self._shrunk(known)
        better = self._better_half(screened)
        self._lab.until(stages.set)
        passed = [one for one in better if one.verdict == "pass"]
        better += self._around((passed or better or [own])[0])
        self._lab.until(stages.read)
        finalists = [one for one in better if self._reads_enough(one)]
        self._lab.until(1.0)
        if finalists:
            self._serve_in_turn(finalists)
        return self._decide(finalists)

    def _screen_all(self, candidates: Sequence[Candidate], predicted: Mapping[str, float]) -> list[Tried]:
        """Those that do not fall out. What is predicted or known to be hopeless is not made."""
        screened = []
        for number, candidate in enumerate(candidates):
            times = predicted.get(candidate.recipe or "", 0.0) if self._asked.objective != "memory" else 0.0
            failed = [one.name for one in self._tried if one.verdict == "fail" and one.name in easier(candidate)]
            if failed:
                self._tried.append(Tried(candidate, reason=f"{failed[0]} loses too much already, and this loses more"))
            elif times > HOPELESS and candidate.recipe not in FREE:  # a busy moment makes predictions wrong, too
                self._tried.append(Tried(candidate, reason=f"predicted to take {times:.2f} times as long"))
            elif not (found := self._screen(candidate, left=len(candidates) - number)).reason:
                screened.append(found)
        return screened

    def _screen(self, candidate: Candidate, *, left: int = 1, anyway: bool = False) -> Tried:
        """Make a candidate, read a part of the text, serve once; ``anyway``: even when it loses too much."""
        found = Tried(candidate)
        self._tried.append(found)
        if not self._lab.has_time():
            found.reason, self._is_short = "no time was left", True
            return found
        self._told(f"Trying {found.name}", self._ahead(left))
        try:
            found.size_mb = self._lab.make(candidate)
            self._judge(found, Reach.LITTLE)
            if anyway or not found.reason:
                found.rounds.append(self._lab.serve(candidate, 0))
        except BurnishError as error:
            found.reason = error.message
            self._is_short |= isinstance(error, OutOfTime)
        return found

    def _ahead(self, left: int) -> Steps:
        """With so many to screen: they, settings around one of them, and the finals of half of all."""
        around = len(self._settings(self._own.candidate))
        finalists = max(LEAST_KEPT, (len(self._tried) + left) // 2)
        return Steps(left, left + around + finalists, left + around + ROUNDS * (finalists + 1))

    def _shrunk(self, known: Sequence[Sized]) -> list[Tried]:
        """Of shapes that are faster and keep the limits the one that loses least before it learned, after it learned;
        nothing where that keeps no loss.
        """
        scored = []
        for shape in promising(known, SHRUNK, SHAPES):
            found = self._screen(shape.plain(), anyway=True)
            if found.loss is None or not found.rounds:
                continue
            gain = self._goodness(found)
            found.reason = f"scored only: {gain:.2f} times as good, loses {found.loss.value:.0%} before it learned"
            if gain > 1 and not broken(self._asked.limits, self._figures(found)):
                scored.append((found.loss.value, shape))
        if not scored:
            return []
        least = min(scored, key=lambda pair: pair[0])[1]
        taught = self._screen(least.taught())
        return [] if taught.reason else [taught]

    def _judge(self, found: Tried, reach: Reach) -> None:
        found.loss = self._searched(*self._both(found, reach))
        found.reach = reach
        found.verdict = judge_loss(found.loss, self._asked.max_loss)
        if found.verdict == "fail":
            found.reason = f"loses {found.loss.low:.2%} to {found.loss.high:.2%}"

    def _both(self, one: Tried, reach: Reach) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The losses of a candidate and of the model itself."""
        return self._lab.losses(one.candidate, reach), self._lab.losses(self._own.candidate, reach)

    def _better_half(self, screened: list[Tried]) -> list[Tried]:
        """The better half by the limits, then by the objective; the rest falls out.

        Some of what is left is shown to keep the loss already: with more text the others may turn out not to.
        """
        ordered = sorted(screened, key=self._rank)
        count = max(LEAST_KEPT, -(-len(ordered) // 2))
        better = ordered[:count]
        missing = max(0, LEAST_SAFE - sum(one.verdict == "pass" for one in better))
        better += [one for one in ordered[count:] if one.verdict == "pass"][:missing]
        for one in ordered:
            if one in better:
                continue
            unmet = broken(self._asked.limits, self._figures(one))
            worse = "larger at first sight" if self._asked.objective == "memory" else "slower in the first round"
            one.reason = f"breaks {unmet[0]} in the first round" if unmet else worse
        return better

    def _around(self, base: Tried) -> list[Tried]:
        """Other settings of the engine for the same weights that look better at first sight."""
        screened = [one for one in map(self._screen, self._settings(base.candidate)) if not one.reason]
        for one in screened:
            if self._rank(one) >= self._rank(base):
                one.reason = f"no better than {base.name}"
        return [one for one in screened if not one.reason]

    def _settings(self, base: Candidate) -> list[Candidate]:
        asked = self._asked
        return settings(base, cores=asked.cores, concurrency=asked.concurrency, drafting=asked.drafting)

    def _rank(self, one: Tried) -> tuple[float, float]:
        """The lower, the better: how far it is from the limits, then the objective."""
        return distance(self._asked.limits, self._figures(one)), -self._goodness(one)

    def _reads_enough(self, one: Tried) -> bool:
        """Whether a candidate is shown to keep the loss, by as much of the text as that takes and there is time for."""
        for reach in (Reach.MORE, Reach.ALL):
            try:
                self._judge(one, reach)
            except OutOfTime:
                break  # what was read before counts
            except BurnishError as error:
                one.reason = error.message
            if one.verdict != "needs more data" or one.reason:
                break
        if one.verdict == "needs more data" and not one.reason:
            assert one.loss is not None
            one.reason = f"may lose {one.loss.high:.2%}: more text is needed to show that it does not"
        return not one.reason

    def _serve_in_turn(self, finalists: list[Tried]) -> None:
        """Every finalist and the model itself in turn, so that a slow moment meets them all.

        A round that could not be finished counts for nobody.
        """
        everyone = [self._own, *finalists]
        for number in range(1, ROUNDS + 1):
            rounds = Steps(serves=(ROUNDS - number + 1) * len(everyone))
            self._told(f"Timing {len(finalists)} of them, round {number} of {ROUNDS}", rounds)
            first = number % len(everyone)  # each round begins with another: a drift within rounds meets them all
            figures = []
            try:
                for one in everyone[first:] + everyone[:first]:
                    figures.append((one, self._lab.serve(one.candidate, number)))
            except BurnishError as error:  # the rounds before it count, or the first one alone
                self._told(error.message, Steps())
                return
            for one, found in figures:
                one.rounds.append(found)

    def _ratio(self, one: Tried) -> Interval:
        """Over the model itself, in the rounds in turn; in the first one alone before there are any."""
        rounds, own = _in_turn(one), _in_turn(self._own)
        return ratio(rounds, own[: len(rounds)], FIGURE_OF[self._asked.objective])

    def _goodness(self, one: Tried) -> float:
        return goodness(self._ratio(one), self._asked.objective)

    def _figures(self, one: Tried) -> dict[str, float]:
        assert one.loss is not None
        return medians(_in_turn(one)) | {"size_mb": one.size_mb, "loss_ratio": one.loss.value}

    def _weigh(self, one: Tried) -> Weighed:
        return Weighed(one.name, self._figures(one), self._ratio(one), tuple(_in_turn(one)))

    def _decide(self, finalists: list[Tried]) -> Outcome:
        """The best of those that keep the limits and, on text that was not looked at, the loss."""
        by_name = {one.name: one for one in (self._own, *finalists)}
        weighed = [self._weigh(one) for one in by_name.values()]
        left = list(weighed)
        while kept := [one for one in left if not broken(self._asked.limits, one.figures)]:
            chosen = best(kept, self._asked.objective)
            if self._is_confirmed(by_name[chosen.name]):
                return self._outcome(weighed, chosen=chosen.name, reason=self._reason(chosen))
            left.remove(chosen)
        served = [self._weigh(one) for one in (self._own, *self._tried) if one.rounds and one.verdict != "fail"]
        near = min(served, key=lambda one: distance(self._asked.limits, one.figures))
        unmet = tuple(broken(self._asked.limits, near.figures))
        told = ", ".join(f"{limit} ({near.figures[limit.name]:.4g} at best)" for limit in unmet)
        reason = f"nothing keeps {told}; {near.name} comes nearest"
        return self._outcome(weighed, chosen=None, reason=reason, nearest=near.name, unmet=unmet)

    def _is_confirmed(self, one: Tried) -> bool:
        if one.confirmed is None:
            one.confirmed = self._kept(*self._both(one, one.reach))
            if one.reach != Reach.ALL and judge_loss(one.confirmed, self._asked.max_loss) == "needs more data":
                with suppress(BurnishError):  # what less of the text told stands
                    one.confirmed = self._kept(*self._both(one, Reach.ALL))
        if judge_loss(one.confirmed, self._asked.max_loss) == "pass":
            return True
        one.reason = f"loses up to {one.confirmed.high:.2%} on text the search had not seen"
        return False

    def _reason(self, chosen: Weighed) -> str:
        """Why it was chosen; a gain is told only where it is shown."""
        figure = TOLD_AS[self._asked.objective]
        gain, kept = goodness(chosen.ratio, self._asked.objective), f"a loss of {self._asked.max_loss:.2%}"
        if chosen.name == self._own.name:
            return f"nothing that keeps {kept} is shown to have a better {figure}"
        if is_gain(chosen.ratio, self._asked.objective):
            return f"{chosen.name} has the best {figure} of what keeps {kept}: {gain:.2f} times as good as before"
        return f"{chosen.name} keeps {kept} and is the smallest; no better {figure} is shown"

    def _outcome(
        self,
        weighed: list[Weighed],
        *,
        chosen: str | None,
        reason: str,
        nearest: str | None = None,
        unmet: tuple[Limit, ...] = (),
    ) -> Outcome:
        return Outcome(
            own=weighed[0],
            tried=(self._own, *self._tried),
            weighed=tuple(weighed),
            pareto=tuple(pareto(weighed)),
            chosen=chosen,
            reason=reason,
            nearest=nearest,
            unmet=unmet,
        )


def _in_turn(one: Tried) -> list[Figures]:
    """The rounds that were served in turn; the first alone where there were none."""
    return one.rounds[1:] or one.rounds
