"""Where the grid of an integer format is laid over a group of weights.

Symmetric integers reach one step further down than up. A group whose value of largest magnitude is positive
therefore gets a negative scale, so that this value lands on the spare lowest code ("full range", AutoRound;
llama.cpp's Q4_0 does the same). Around that scale smaller ones are tried, which clip the largest values to
round all others more finely; the least squared error wins, group by group. With weights on the columns, the error
counts where the inputs are large (llama.cpp's importance matrix).

Shapes: O outputs, I inputs, N groups, K inputs of a group.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from burnish.core.errors import BadRequest
from burnish.models.formats.integer import IntegerFormat, Quantized

# Clipping further lowers the squared error still, yet raised perplexity at the widest groups of both models tried.
SHRINKS = (1.0, 0.97, 0.94)
NUMBERS_AT_ONCE = 2**21  # weights whose scales are searched together: what they need stays near the cores
LEAST_IMPORTANCE = 1e-8  # of the mean: a column that is never used must not leave a group without a scale


class Grid(NamedTuple):
    """Scales and, if the format has them, zero points of groups, as they will be stored."""

    scales: Tensor  # (O, N)
    zeros: Tensor | None  # (O, N), whole numbers as floats

    def codes(self, groups: Tensor, target: IntegerFormat) -> Tensor:
        """The nearest codes of groups (O, N, K), as floats."""
        codes = (groups / self.scales.unsqueeze(-1)).round_()
        if self.zeros is not None:
            codes += self.zeros.unsqueeze(-1)
        return codes.clamp_(target.lowest, target.highest)

    def values(self, codes: Tensor) -> Tensor:
        """What codes (O, N, K) stand for."""
        raised = codes if self.zeros is None else codes - self.zeros.unsqueeze(-1)
        return raised * self.scales.unsqueeze(-1)


def quantize(
    weight: Tensor,
    target: IntegerFormat,
    *,
    importance: Tensor | None = None,
    shrinks: tuple[float, ...] = SHRINKS,
    refit: bool = False,
) -> Quantized:
    """Codes and scales of a weight (O, I); arguments as for ``fit``, ``importance`` (I,).

    Raises ``BadRequest`` for a weight that holds no numbers.
    """
    refuse_no_numbers(weight)
    found = []
    for rows in torch.split(weight, max(1, NUMBERS_AT_ONCE // weight.shape[1])):
        groups = rows.reshape(len(rows), target.num_groups(weight.shape[1]), -1)
        by_group = None if importance is None else importance.view(groups.shape[1:])
        grid = fit(groups, target, importance=by_group, shrinks=shrinks, refit=refit)
        found.append(quantized(grid, grid.codes(groups, target), target))
    codes, scales, zeros = zip(*found, strict=True)
    return Quantized(torch.cat(codes), torch.cat(scales), torch.cat(zeros) if target.asymmetric else None)


def quantized(grid: Grid, codes: Tensor, target: IntegerFormat) -> Quantized:
    """Codes (O, N, K) of a grid as a format stores them."""
    zeros = None if grid.zeros is None else grid.zeros.to(torch.int8)
    return Quantized(codes.to(torch.int8).flatten(1), grid.scales, zeros)


def refuse_no_numbers(weight: Tensor) -> None:
    """Raise ``BadRequest`` for a weight that holds infinities or what is no number."""
    if not weight.isfinite().all():
        raise BadRequest("a weight holds infinities or what is no number", remedy="Fetch the weights again")


def fit(
    groups: Tensor,
    target: IntegerFormat,
    *,
    importance: Tensor | None = None,
    shrinks: tuple[float, ...] = SHRINKS,
    refit: bool = False,
) -> Grid:
    """The grid with the least squared error over groups (O, N, K) among those tried.

    ``importance`` (N, K) or (O, N, K) weighs the errors. ``refit``: of every scale tried, also try the one that fits
    its codes best in the sense of least squares.
    """
    weights = torch.ones(()) if importance is None else importance + LEAST_IMPORTANCE * importance.mean() + 1e-30
    best = torch.full(groups.shape[:2], float("inf"))
    chosen = None
    for shrink in shrinks:
        tried = _grid(groups, target, shrink)
        candidates = [tried, _refitted(groups, tried, target, weights)] if refit else [tried]
        for grid in candidates:
            error = (weights * (grid.values(grid.codes(groups, target)) - groups).square_()).sum(-1)
            chosen = grid if chosen is None else _pick(error < best, grid, chosen)
            best = torch.minimum(error, best)
    assert chosen is not None
    return chosen


def _pick(is_better: Tensor, new: Grid, old: Grid) -> Grid:
    zeros = None
    if new.zeros is not None and old.zeros is not None:
        zeros = torch.where(is_better, new.zeros, old.zeros)
    return Grid(torch.where(is_better, new.scales, old.scales), zeros)


def _grid(groups: Tensor, target: IntegerFormat, shrink: float) -> Grid:
    """The grid over ``shrink`` of each group's range."""
    low, high = groups.amin(-1) * shrink, groups.amax(-1) * shrink
    if not target.asymmetric:
        full = torch.where(high > -low, -high, -low) / -target.lowest  # of the sign that spends the lowest code
        return Grid(storable(full.masked_fill(full == 0, 1.0), target), None)
    low, high = low.clamp(max=0), high.clamp(min=0)  # zero is on every grid
    steps = target.highest - target.lowest
    scales = ((high - low) / steps).masked_fill(high == low, 1.0)
    scales = storable(scales, target)
    return Grid(scales, (target.lowest - low / scales).round_().clamp_(target.lowest, target.highest))


def _refitted(groups: Tensor, grid: Grid, target: IntegerFormat, weights: Tensor) -> Grid:
    """The scale of least squares for the grid's codes; where there is none, the grid's own."""
    codes = grid.codes(groups, target)
    if grid.zeros is not None:
        codes -= grid.zeros.unsqueeze(-1)
    weighed = weights * codes
    norms = (weighed * codes).sum(-1)
    scales = (weighed * groups).sum(-1) / norms
    is_usable = (norms > 0) & scales.isfinite() & (scales != 0)
    return Grid(storable(torch.where(is_usable, scales, grid.scales), target), grid.zeros)


def storable(scales: Tensor, target: IntegerFormat) -> Tensor:
    """Scales as float16 holds them where the kernels' layout does; a single one per output without a zero point, and
    whatever float16 has no room for, stay as they are.
    """
    half = torch.finfo(torch.float16)
    is_storable = (scales.abs() >= half.smallest_normal) & (scales.abs() <= half.max)
    in_layout = target.group_size is not None or target.asymmetric
    return torch.where(is_storable & in_layout, scales.half().float(), scales)
