"""Any module of linear and convolutional layers as a chain: a part is one layer, in the order in which they run.

What flows into a layer is found by running the whole module up to it, whatever lies between the layers, so the layers
before it are the compressed ones. That costs a run of the data per layer, which networks for images can afford.

Shapes: S samples; hidden is (S, C, H, W) in front of a convolution, (S, ..., I) in front of a linear layer.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from burnish.compress.chain import Chain, Part, SharedInput
from burnish.models.layers.conv import Conv2d, Rows
from burnish.models.layers.linear import Linear

SAMPLES_AT_ONCE = 16
_LEFT_ALONE = (nn.MultiheadAttention, nn.TransformerEncoderLayer)


class _Layer(NamedTuple):
    """A layer: what is called, and the weight in it."""

    name: str  # of the weight
    module: nn.Module
    matrix: Linear


def wrap(module: nn.Module) -> nn.Module:
    """Put our layers in the place of torch's ``Linear`` and ``Conv2d``, with the same weights; returns the module.

    Convolutions in groups, or padded by anything but zeros, and torch's own attention, which reads the weights of its
    layers, stay what they are, and are not compressed.
    """
    if (ours := _ours(module)) is not None:
        return ours
    if not isinstance(module, _LEFT_ALONE):
        for name, child in module.named_children():
            setattr(module, name, wrap(child))
    return module


def _ours(module: nn.Module) -> nn.Module | None:
    if isinstance(module, nn.Linear):
        rows = Rows(Linear(module.in_features, module.out_features, bias=module.bias is not None))
        return _with_weights(rows, module.weight, module.bias)
    if isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros":
        if isinstance(module.padding, str):
            return None
        conv = Conv2d(
            module.in_channels,
            module.out_channels,
            kernel=_two(module.kernel_size),
            stride=_two(module.stride),
            padding=_two(module.padding),
            dilation=_two(module.dilation),
            bias=module.bias is not None,
        )
        return _with_weights(conv, module.weight.flatten(1), module.bias)
    return None


def _two(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return first, second


def _with_weights(module: Rows | Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Module:
    module.matrix.weight = nn.Parameter(weight.detach().float().clone(), requires_grad=False)
    if bias is not None:
        module.matrix.bias = nn.Parameter(bias.detach().float().clone(), requires_grad=False)
    return module


def module_chain(module: nn.Module, sample: Tensor) -> Chain:
    """The chain of a module, which ``sample`` (S, ...) is run through once to see the order of its layers.

    Layers that it does not reach are left out. Of one that runs several times, the first time counts.
    """
    layers = _order(module.eval(), _layers(module), sample)
    doors = _Doors(module, layers)
    return Chain(begin=doors.begin, parts=tuple(_part(layer) for layer in layers), door=doors.at)


def _layers(module: nn.Module) -> list[_Layer]:
    owners = {name: one for name, one in module.named_modules() if isinstance(one, Conv2d | Rows)}
    found = [_Layer(f"{name}.matrix" if name else "matrix", one, one.matrix) for name, one in owners.items()]
    owned = {id(layer.matrix) for layer in found}
    alone = [
        _Layer(name, one, one)
        for name, one in module.named_modules()
        if isinstance(one, Linear) and id(one) not in owned
    ]
    return found + alone


@torch.no_grad()
def _order(module: nn.Module, layers: list[_Layer], sample: Tensor) -> list[_Layer]:
    reached: dict[str, _Layer] = {}

    def note(layer: _Layer) -> None:
        reached.setdefault(layer.name, layer)

    handles = [
        layer.module.register_forward_pre_hook(lambda _module, _inputs, layer=layer: note(layer)) for layer in layers
    ]
    try:
        module(sample)
    finally:
        for handle in handles:
            handle.remove()
    return list(reached.values())


def _part(layer: _Layer) -> Part:
    return Part(
        name=layer.name,
        module=layer.module,
        layers={layer.name: layer.matrix},
        inputs=(SharedInput(layers=(layer.name,), source=None),),
        run=layer.module,
    )


class _Reached(Exception):
    """A run has come to the layer it was for."""


class _Doors:
    """What flows into every layer, the data being kept since the beginning."""

    def __init__(self, module: nn.Module, layers: list[_Layer]) -> None:
        self._module, self._layers = module, layers
        self._data: Tensor | None = None

    def begin(self, data: Tensor) -> Tensor:
        """Data (S, ...) as the module takes it -> what flows into the first layer."""
        self._data = data
        return self.at(0)

    def at(self, number: int) -> Tensor:
        """What flows into the layer of that number, all before it being as they are now."""
        assert self._data is not None
        seen: list[Tensor] = []

        def look(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            [given] = (*inputs, *named.values())
            seen.append(given.detach().clone())
            raise _Reached

        handle = self._layers[number].module.register_forward_pre_hook(look, with_kwargs=True)
        try:
            for batch in torch.split(self._data, SAMPLES_AT_ONCE):
                self._run(batch)
        finally:
            handle.remove()
        return torch.cat(seen)

    @torch.no_grad()
    def _run(self, batch: Tensor) -> None:
        try:
            self._module(batch)
        except _Reached:
            return
        raise AssertionError("the layer was reached when the order was looked for")
