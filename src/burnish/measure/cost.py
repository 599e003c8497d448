"""What tokens cost: money and joules, of a machine that is paid by the hour whether it is busy or not.

    money per token read = price per second * seconds * (prefill_s / (prefill_s + decode_s)) / tokens read

and likewise of a token written with decode_s: each kind of token bears its measured share of the busy time, and idle
time is borne by both in that proportion. At full load the same machine would ask ``busy_share`` times as much.
"""

from dataclasses import dataclass
from typing import NamedTuple

from burnish.measure.energy import Energy
from burnish.measure.prices import Price

FORMULA = "price per hour / 3600 * seconds * share of busy time / tokens * 1,000,000"


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a machine did in ``seconds``: how long it computed prompts and outputs, and how many tokens of each.

    ``prefill_s + decode_s <= seconds``; a step that did both is divided between them.
    """

    seconds: float
    prefill_s: float
    decode_s: float
    input_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        assert min(self.prefill_s, self.decode_s, self.input_tokens, self.output_tokens) >= 0, self
        assert 0 < self.busy_s <= self.seconds * (1 + 1e-6), self

    @property
    def busy_s(self) -> float:
        """Seconds in which something was computed."""
        return self.prefill_s + self.decode_s

    @property
    def busy_share(self) -> float:
        """Of the time, in 0 .. 1."""
        return min(1.0, self.busy_s / self.seconds)


class PerToken(NamedTuple):
    """An amount for each kind of token; None of a kind there was none of."""

    input: float | None
    output: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Money in ``currency``; ``at_full_load`` were the machine as busy all the time."""

    machine: str
    currency: str
    price_per_hour: float
    busy_share: float
    per_million: PerToken
    per_million_at_full_load: PerToken
    formula: str = FORMULA


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyCost:
    """Joules, the tokens' shares as those of money; ``is_estimated``: no counter told all of them."""

    energy: Energy
    joules: float
    is_estimated: bool
    joules_per_token: PerToken


def cost_of(work: Work, machine: str, price: Price) -> Cost:
    """The money."""
    paid = price.price_per_hour / 3600 * work.seconds
    return Cost(
        machine=machine,
        currency=price.currency,
        price_per_hour=price.price_per_hour,
        busy_share=work.busy_share,
        per_million=_shared(paid * 1e6, work),
        per_million_at_full_load=_shared(paid * 1e6 * work.busy_share, work),
    )


def energy_cost_of(work: Work, energy: Energy) -> EnergyCost:
    """The joules."""
    return EnergyCost(
        energy=energy,
        joules=energy.joules,
        is_estimated=energy.is_estimated,
        joules_per_token=_shared(energy.joules, work),
    )


def _shared(amount: float, work: Work) -> PerToken:
    def each(seconds: float, tokens: int) -> float | None:
        return amount * seconds / work.busy_s / tokens if tokens else None

    return PerToken(each(work.prefill_s, work.input_tokens), each(work.decode_s, work.output_tokens))
