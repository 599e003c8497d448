"""Mixed precision, measured again: the losses of groups are taken to add up, which they do not quite.

The chosen formats are tried together. Where the model loses more than the sum of what its groups lose alone, formats
are exchanged: a group gets a better one, paid for by the groups that promise to miss what they give least. An exchange
stays if the model, measured again, loses less.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from burnish.compress.allocate import Option
from burnish.compress.mixed import Sensitivity

MARGIN = 1.05  # what is lost together may exceed the sum by so much
TRIES = 12  # exchanges measured

Measure = Callable[[Mapping[str, str]], float]
"""(format of every layer) -> what the model loses, nats per token"""


class Repaired(NamedTuple):
    """What was settled in the end, and how it went."""

    formats: dict[str, str]  # of every layer
    expected: float  # the sum of what the groups lose alone, as chosen first
    chosen_loss: float  # measured, as chosen first
    loss: float  # measured in the end
    num_tried: int
    num_kept: int


class _Exchange(NamedTuple):
    changes: Mapping[int, Option]  # by the number of the group
    promise: float  # less is lost, if losses add up


def repair(sensitivities: Sequence[Sensitivity], chosen: Mapping[str, str], budget: int, measure: Measure) -> Repaired:
    """Better formats than ``chosen`` where measuring shows that there are some; never worse, never above the budget.

    At most ``TRIES`` measurements beside the first.
    """
    options = [_option(one, chosen[one.layers[0]]) for one in sensitivities]
    expected = sum(option.loss for option in options)
    first = best = measure(_formats(sensitivities, options))
    tried: set[tuple[tuple[int, str], ...]] = set()
    num_kept = 0
    while best > MARGIN * expected and len(tried) < TRIES:
        exchange = next((one for one in _exchanges(sensitivities, options, budget) if _key(one) not in tried), None)
        if exchange is None:
            break
        tried.add(_key(exchange))
        changed = [exchange.changes.get(number, option) for number, option in enumerate(options)]
        loss = measure(_formats(sensitivities, changed))
        if loss < best:
            options, best, num_kept = changed, loss, num_kept + 1
    return Repaired(_formats(sensitivities, options), expected, first, best, len(tried), num_kept)


def _exchanges(sensitivities: Sequence[Sensitivity], options: Sequence[Option], budget: int) -> Iterator[_Exchange]:
    """Exchanges that keep the budget, those that promise most first."""
    free = budget - sum(option.cost for option in options)
    steps = [
        (number, wanted)
        for number, one in enumerate(sensitivities)
        for wanted in one.options
        if wanted.format != options[number].format
    ]
    givers = sorted(
        (step for step in steps if step[1].cost < options[step[0]].cost),
        key=lambda step: (step[1].loss - options[step[0]].loss) / (options[step[0]].cost - step[1].cost),
    )
    found = []
    for number, wanted in steps:
        price = wanted.cost - options[number].cost - free
        changes, promise = {number: wanted}, options[number].loss - wanted.loss
        for giver, given in givers if promise > 0 else []:
            if price <= 0:
                break
            if giver not in changes:
                changes[giver] = given
                price -= options[giver].cost - given.cost
                promise -= given.loss - options[giver].loss
        if price <= 0 and wanted.loss < options[number].loss:
            found.append(_Exchange(changes, promise))
    yield from sorted(found, key=lambda exchange: -exchange.promise)


def _key(exchange: _Exchange) -> tuple[tuple[int, str], ...]:
    return tuple(sorted((number, option.format) for number, option in exchange.changes.items()))


def _option(one: Sensitivity, name: str) -> Option:
    return next(option for option in one.options if option.format == name)


def _formats(sensitivities: Sequence[Sensitivity], options: Sequence[Option]) -> dict[str, str]:
    pairs = zip(sensitivities, options, strict=True)
    return {name: option.format for one, option in pairs for name in one.layers}
