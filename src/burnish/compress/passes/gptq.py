"""GPTQ (Frantar et al. 2022): column by column, each rounding's error made up for by the columns still to come.

Shapes: O outputs, I inputs, K inputs of a group.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from burnish.compress.chain import Part
from burnish.compress.passes.base import IntegerRounding, Needs
from burnish.compress.passes.choice import dense_weight, store
from burnish.compress.passes.grid import Grid, fit, quantize
from burnish.compress.passes.imatrix import SHRINKS
from burnish.compress.statistics import Flow, observe
from burnish.core.records import LayerRecord
from burnish.models.formats.integer import IntegerFormat, Quantized

Order = Literal["natural", "static", "grouped"]
BLOCK = 128  # columns whose errors reach those behind them in one product
DAMPS = tuple(10 ** (half / 2) for half in range(-4, 1))  # 0.01 to 1 of the mean of the diagonal, tried in turn
ROWS = 256


@dataclass(frozen=True)
class Gptq(IntegerRounding):
    """Rounds each layer so that its outputs, not its weights, stay what they were.

    ``order``: which column is rounded first. "natural": as they come. "static": those of the largest inputs, with the
    scales found before anything moves. "grouped": the largest inputs of a group first, and the groups likewise, each
    group's scale found when it is reached. No order changes what is stored or how fast it runs.
    """

    order: Order = "grouped"
    needs: ClassVar[Needs] = Needs(data=True, moments=True)

    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Round the weights and store them packed."""
        assert flow is not None
        inputs = observe(part, flow, second_moment=True, num_rows=ROWS)
        for name, layer in part.layers.items():
            seen, target = inputs[name], self.choice.find(name, layer)
            assert seen.second_moment is not None
            chosen = gptq(dense_weight(name, layer), seen.second_moment, target, order=self.order)
            yield store(name, layer, target, chosen, rows=seen.rows)


def gptq(weight: Tensor, second_moment: Tensor, target: IntegerFormat, *, order: Order = "grouped") -> Quantized:
    """Codes and scales of a weight (O, I) under the mean of x xᵀ (I, I) of its inputs.

    Columns whose input was always zero are rounded to nearest: nothing is known of them. Weights that are zero stay
    zero. A moment that has no inverse is damped until it has one; where that takes more than its own mean, the whole
    weight is rounded by importance.
    """
    importance = second_moment.diagonal()
    size = target.group_size or weight.shape[1]
    permutation = _permutation(importance, size, order)
    factor = inverse_factor(second_moment[permutation][:, permutation])
    if factor is None:
        return quantize(weight, target, importance=importance, shrinks=SHRINKS, refit=True)
    rounder = _GroupRounder(target, size, permutation, factor.diagonal() ** -2, is_zero=weight == 0)
    if order == "static":
        rounder.fit_all(weight)
    compensate(weight[:, permutation], factor, rounder)
    return rounder.result()


def _permutation(importance: Tensor, size: int, order: Order) -> Tensor:
    """The order of columns (I,), those of a group together unless the order is static."""
    if order == "natural":
        return torch.arange(len(importance))
    if order == "static":
        return importance.argsort(descending=True, stable=True)
    within = importance.view(-1, size).sort(descending=True, stable=True)
    groups = within.values[:, 0].argsort(descending=True, stable=True)
    starts = torch.arange(0, len(importance), size).unsqueeze(1)
    return (within.indices + starts)[groups].flatten()


def inverse_factor(second_moment: Tensor) -> Tensor | None:
    """The upper factor U with Uᵀ U the inverse of the damped moment (I, I); None when damping does not make it one."""
    diagonal = second_moment.diagonal()
    mean = float(diagonal.mean())
    for damp in DAMPS if mean > 0 else ():
        damped = second_moment.clone()
        damped.diagonal().add_(damp * mean)
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper: Tensor
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed and upper.isfinite().all():
                return upper
    return None


class Rounder(Protocol):
    """Chooses what stands in the place of a column."""

    def begin(self, weight: Tensor, first: int, last: int) -> None:
        """Columns ``first`` to ``last`` of the weight (O, I) are next."""
        ...

    def column(self, weight: Tensor, index: int) -> Tensor:
        """The values (O,) for column ``index`` of the weight (O, I) as it is now."""
        ...


def compensate(weight: Tensor, factor: Tensor, rounder: Rounder) -> None:
    """Round the columns of a weight (O, I), in order; it is used up. ``factor`` as ``inverse_factor`` makes it."""
    columns = weight.shape[1]
    for first in range(0, columns, BLOCK):
        last = min(first + BLOCK, columns)
        rounder.begin(weight, first, last)
        errors = torch.empty(weight.shape[0], last - first, dtype=weight.dtype)
        for index in range(first, last):
            error = (weight[:, index] - rounder.column(weight, index)) / factor[index, index]
            weight[:, index + 1 : last] -= error.outer(factor[index, index + 1 : last])
            errors[:, index - first] = error
        weight[:, last:] -= errors @ factor[first:last, last:]


class _GroupRounder:
    """Rounds to the grid of each column's group, found when the group's first column comes.

    ``is_zero`` (O, I), in the weight's own order: what was pruned before, and stays zero.
    """

    def __init__(
        self, target: IntegerFormat, size: int, permutation: Tensor, importance: Tensor, *, is_zero: Tensor
    ) -> None:
        self._target, self._size, self._importance, self._is_zero = target, size, importance, is_zero
        self._columns = permutation.tolist()
        self._grids: dict[int, Grid] = {}
        self._codes: Tensor | None = None

    def fit_all(self, weight: Tensor) -> None:
        """Find every group's grid from the weight (O, I) in its own order."""
        importance = torch.empty_like(self._importance)
        importance[self._columns] = self._importance
        for group in range(weight.shape[1] // self._size):
            span = slice(group * self._size, (group + 1) * self._size)
            self._grids[group] = self._fit(weight[:, span], importance[span])

    def begin(self, weight: Tensor, first: int, last: int) -> None:
        """Make room for the codes. Groups are found column by column."""
        if self._codes is None:
            self._codes = torch.empty(weight.shape, dtype=torch.int8)

    def column(self, weight: Tensor, index: int) -> Tensor:
        """The nearest values of the column's grid."""
        assert self._codes is not None
        original = self._columns[index]
        group = original // self._size
        if group not in self._grids:
            span = slice(index, index + self._size)
            self._grids[group] = self._fit(weight[:, span], self._importance[span])
        grid = self._grids[group]
        values = weight[:, index].masked_fill(self._is_zero[:, original], 0.0)
        codes = grid.codes(values[:, None, None], self._target)
        self._codes[:, original] = codes[:, 0, 0].to(torch.int8)
        return grid.values(codes)[:, 0, 0]

    def result(self) -> Quantized:
        """Everything that was chosen, in the weight's own order."""
        assert self._codes is not None
        grids = [self._grids[group] for group in range(len(self._grids))]
        zeros = [grid.zeros for grid in grids if grid.zeros is not None]
        return Quantized(
            self._codes,
            torch.cat([grid.scales for grid in grids], 1),
            torch.cat(zeros, 1).to(torch.int8) if zeros else None,
        )

    def _fit(self, columns: Tensor, importance: Tensor) -> Grid:
        """The grid of one group's columns (O, K)."""
        return fit(columns.unsqueeze(1), self._target, importance=importance.unsqueeze(0), shrinks=SHRINKS, refit=True)
