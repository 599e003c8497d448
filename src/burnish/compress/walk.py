"""The walk over a model's parts that applies a recipe.

Each part is compressed with the data that the parts before it, compressed already, let through. So what one layer lost
the next can make up for, and only one part's statistics are held at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from burnish.compress.calibration import Calibration
from burnish.compress.chain import HEAD, Chain, Part
from burnish.compress.journal import Journal
from burnish.compress.recipe import Recipe, pass_name
from burnish.compress.statistics import Flow, through
from burnish.core.errors import BadSettings
from burnish.core.memory import give_back
from burnish.core.records import LayerRecord

Progress = Callable[[int, int], None]
"""(layers done, layers in all)"""


def compress(
    chain: Chain,
    recipe: Recipe,
    calibration: Calibration | None = None,
    *,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> list[LayerRecord]:
    """Apply what a recipe does part after part to every part, in place.

    With a journal, parts it has finished are taken from there. Raises ``BadSettings`` before anything is changed when
    a layer does not fit, or data is needed and not given.
    """
    check(chain, recipe, has_data=calibration is not None)
    flow, records, first = None, list[LayerRecord](), 0
    if calibration is not None:
        flow = _begin(chain, calibration, recipe)
    if journal is not None:
        first, records, flow = journal.restore(chain.parts, flow)
    total = len(chain.layers)
    for number, part in enumerate(chain.parts[first:], first):
        if flow is not None and flow.original is not None and part.name != HEAD:
            flow = replace(flow, wanted=through(part, flow.original))
        fresh: list[LayerRecord] = []
        for record in _apply(part, recipe, flow):
            fresh.append(record)
            if progress is not None:
                progress(len({one.name for one in (*records, *fresh)}), total)
        if flow is not None:
            flow = _next(chain, number, flow) if part is not chain.parts[-1] else None
        if journal is not None:
            journal.save(number, part, fresh, flow)
        give_back()  # or what a part has freed is held beside what the next one takes
        records += fresh
    return records


def check(chain: Chain, recipe: Recipe, *, has_data: bool) -> None:
    """Raise ``BadSettings`` when the recipe cannot be applied; nothing is changed."""
    check_data(recipe, has_data=has_data)
    if recipe.whole:
        name = pass_name(recipe.whole[0])
        raise BadSettings(f"recipe {recipe.name!r}: {name} works on whole models", remedy="Leave that pass out")
    for step in recipe.walked:
        for name, layer in chain.layers.items():
            step.check(name, layer)


def check_data(recipe: Recipe, *, has_data: bool) -> None:
    """Raise ``BadSettings`` when calibration data is needed and not there, or there in vain."""
    if recipe.needs.data and not has_data:
        raise BadSettings(f"recipe {recipe.name!r} needs calibration data", remedy="Give a text with --calibration")
    if has_data and not recipe.needs.data:
        raise BadSettings(f"recipe {recipe.name!r} uses no calibration data", remedy="Leave --calibration out")


@torch.no_grad()
def _apply(part: Part, recipe: Recipe, flow: Flow | None) -> Iterator[LayerRecord]:
    for step in recipe.walked:
        seen = step.sees(part)
        if seen.layers:
            yield from step.apply(seen, flow)


@torch.no_grad()
def _begin(chain: Chain, calibration: Calibration, recipe: Recipe) -> Flow:
    hidden = chain.begin(calibration.tokens)
    return Flow(hidden=hidden, original=hidden if recipe.needs.original else None)


def _next(chain: Chain, number: int, flow: Flow) -> Flow:
    """The data behind a part that is finished, at the door of the next."""
    if chain.door is None:
        return Flow(hidden=through(chain.parts[number], flow.hidden), original=flow.wanted)
    hidden = chain.door(number + 1)
    return Flow(hidden=hidden, original=None if flow.original is None else hidden)
