"""What flows into the layers of a part while calibration data runs through it.

Shapes: S samples, T tokens of a sample, E hidden width, I inputs of a layer, R rows kept.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from burnish.compress.chain import Part

NUMBERS_AT_ONCE = 2**24  # that the widest layer of a part gives out: 64 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """Calibration data at the door of a part."""

    hidden: Tensor  # (S, T, E), made by the parts before it, which are compressed
    original: Tensor | None = None  # (S, T, E) that came here in the uncompressed model, when a pass asks for it
    wanted: Tensor | None = None  # (S, T, E) that the part made of ``original`` before it was touched


@torch.no_grad()
def through(part: Part, hidden: Tensor) -> Tensor:
    """What a part, as it is now, makes of hidden (S, T, E)."""
    return torch.cat([part.run(batch) for batch in batches(part, hidden)])


@dataclass(kw_only=True, slots=True)
class Inputs:
    """What the inputs of layers were, all rows taken together."""

    num_rows: int
    absolute: Tensor  # (I,) mean of |x|
    square: Tensor  # (I,) mean of x²
    lowest: Tensor  # (I,) minimum of x
    highest: Tensor  # (I,) maximum of x
    second_moment: Tensor | None = None  # (I, I) mean of x xᵀ, when asked for
    rows: Tensor | None = None  # (R, I) some of the rows, evenly spread, when asked for

    @property
    def largest(self) -> Tensor:
        """Maximum of |x|, (I,)."""
        return torch.maximum(-self.lowest, self.highest)


def batches(part: Part, hidden: Tensor) -> Iterator[Tensor]:
    """As many samples at a time as keep what the layers give out small."""
    widest = max(max(layer.in_features, layer.out_features) for layer in part.layers.values())
    at_once = max(1, NUMBERS_AT_ONCE // (rows_per_sample(hidden) * widest))
    return iter(torch.split(hidden, at_once))


def rows_per_sample(hidden: Tensor) -> int:
    """Tokens of (S, T, E), places of (S, C, H, W), one of (S, E)."""
    if hidden.dim() == 4:
        return hidden.shape[2] * hidden.shape[3]
    return math.prod(hidden.shape[1:-1])


def observe(part: Part, flow: Flow, *, second_moment: bool = False, num_rows: int = 0) -> dict[str, Inputs]:
    """What flows into every layer of a part, which is run once; layers that share their input share the answer.

    ``num_rows``: how many rows to keep, at most.
    """
    total = len(flow.hidden) * rows_per_sample(flow.hidden)
    watches = [
        (shared.layers, _Watch(second_moment, -(-total // num_rows) if num_rows else 0)) for shared in part.inputs
    ]
    with ExitStack() as stack, torch.no_grad():
        for names, watch in watches:
            stack.enter_context(Hook(part.layers[names[0]], watch.see))
        for batch in batches(part, flow.hidden):
            part.run(batch)
    return {name: watch.result() for names, watch in watches for name in names}


class Hook:
    """Shows ``see`` the rows (R, I) on their way into a layer, as long as the block lasts."""

    def __init__(self, layer: nn.Module, see: Callable[[Tensor], None]) -> None:
        self._handle = layer.register_forward_pre_hook(lambda _, arguments: see(arguments[0]))

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


class _Watch:
    """Sums over the rows seen so far."""

    def __init__(self, second_moment: bool, every: int) -> None:
        self._wants_moment, self._every = second_moment, every
        self._count, self._kept = 0, list[Tensor]()
        self._absolute = self._square = self._moment = torch.zeros(())
        self._lowest, self._highest = torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def see(self, x: Tensor) -> None:
        """Rows (R, I) on their way into the layer."""
        self._absolute = self._absolute + x.abs().sum(0)
        self._square = self._square + x.square().sum(0)
        self._lowest, self._highest = torch.minimum(self._lowest, x.amin(0)), torch.maximum(self._highest, x.amax(0))
        if self._wants_moment:
            self._moment = x.T @ x if self._count == 0 else self._moment.addmm_(x.T, x)
        if self._every:
            self._kept.append(x[-self._count % self._every :: self._every].clone())
        self._count += len(x)

    def result(self) -> Inputs:
        """What was seen, per row."""
        return Inputs(
            num_rows=self._count,
            absolute=self._absolute / self._count,
            square=self._square / self._count,
            lowest=self._lowest,
            highest=self._highest,
            second_moment=self._moment.div_(self._count) if self._wants_moment else None,
            rows=torch.cat(self._kept) if self._every else None,
        )
