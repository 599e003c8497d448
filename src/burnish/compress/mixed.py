"""Mixed precision: which format each group of layers takes, by what the model loses when only that group takes it.

The loss is measured, not estimated: the group is rounded, the rest of the model runs dense, and the KL divergence of
its predictions from the dense model's is taken on calibration data. Losses of groups are taken to add up, and an exact
search spends the budget accordingly. Layers that serve together stay together: q, k and v; gate and up.

What a format costs is bytes, or nanoseconds of its product (``latency.py``). A layer whose format is settled beforehand
is a group of its own with that one format.

Shapes: S samples, T tokens of a sample, E hidden width, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from burnish.compress.allocate import Option, allocate
from burnish.compress.calibration import Calibration
from burnish.compress.chain import HEAD, Part, decoder_chain
from burnish.compress.distill import divergence
from burnish.compress.fold import STORED
from burnish.compress.passes.choice import FormatChoice, dense_weight, refuse_packed
from burnish.compress.passes.grid import quantize
from burnish.compress.passes.imatrix import SHRINKS
from burnish.compress.statistics import Flow, batches, observe, through
from burnish.core.errors import BadSettings
from burnish.core.memory import give_back
from burnish.models.decoder import Decoder
from burnish.models.formats.base import WeightFormat, stored_bytes
from burnish.models.formats.dense import DENSE, Dense
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.table import integer_format
from burnish.models.layers.linear import Linear

SAMPLES = 16  # that losses are measured on

Progress = Callable[[int, int], None]
"""(groups measured, groups in all)"""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """What a model loses when only these layers are stored in each of the formats."""

    layers: tuple[str, ...]
    options: tuple[Option, ...]
    importance: Tensor  # (I,) of the inputs they read


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers that take one format, and those they can take."""

    layers: Mapping[str, Linear]
    formats: tuple[WeightFormat, ...]


Cost = Callable[[Group, WeightFormat], int]
"""What a group costs in a format, in what the budget is in."""


def groups_of(part: Part, choice: FormatChoice) -> list[Group]:
    """The groups of a part. Raises ``BadSettings`` for a layer that is packed or that none of the formats fits."""
    found, kept = list[Group](), choice.kept
    for shared in part.inputs:
        free = {name: part.layers[name] for name in shared.layers if name not in kept}
        fitting = tuple(one for one in choice.formats if all(_fits(*layer, one) for layer in free.items()))
        if not fitting:
            raise BadSettings(f"layers {', '.join(free)} fit none of the formats", remedy="Add int8")
        if free:
            found.append(Group(layers=free, formats=fitting))
        found += [
            Group(layers={name: part.layers[name]}, formats=(kept[name],)) for name in shared.layers if name in kept
        ]
    return found


@torch.no_grad()
def measure(
    decoder: Decoder,
    calibration: Calibration,
    choice: FormatChoice,
    *,
    cost: Cost | None = None,
    progress: Progress | None = None,
) -> list[Sensitivity]:
    """The sensitivity of every group of layers, the model left as it was. ``cost``: None for bytes.

    Raises ``BadSettings`` for a layer that is packed or that none of the formats fits.
    """
    probe, cost = _Probe(decoder, calibration), cost or group_bytes
    total = sum(len(groups_of(part, choice)) for part in probe.chain.parts)
    found: list[Sensitivity] = []
    for part in probe.chain.parts:
        inputs = observe(part, Flow(hidden=probe.hidden))
        for group in groups_of(part, choice):
            importance = inputs[next(iter(group.layers))].square
            options = [
                Option(one.name, cost(group, one), probe.loss(group.layers, one, importance)) for one in group.formats
            ]
            found.append(Sensitivity(layers=tuple(group.layers), options=tuple(options), importance=importance))
            if progress is not None:
                progress(len(found), total)
        probe.advance()
    return found


@torch.no_grad()
def measure_together(
    decoder: Decoder, calibration: Calibration, sensitivities: Sequence[Sensitivity], chosen: Mapping[str, str]
) -> float:
    """What the model loses when every layer is stored as chosen: KL divergence, nats per token.

    The model is left as it was. Layers are rounded as sensitivities are measured.
    """
    probe = _Probe(decoder, calibration)
    layers = probe.chain.layers
    importance = {name: one.importance for one in sensitivities for name in one.layers}
    rounded = [name for name in importance if chosen[name] != DENSE.name]
    return probe.loss_of([(name, layers[name], integer_format(chosen[name]), importance[name]) for name in rounded])


def choose_within(sensitivities: Sequence[Sensitivity], budget: int) -> dict[str, str]:
    """The format of every layer that loses least within what all may cost.

    Raises ``BadSettings`` when even the cheapest formats take more.
    """
    found = allocate([one.options for one in sensitivities], budget)
    pairs = zip(sensitivities, found.formats, strict=True)
    return {name: chosen for one, chosen in pairs for name in one.layers}


def choose(sensitivities: Sequence[Sensitivity], bits: float, num_weights: int) -> dict[str, str]:
    """The format of every layer that loses least at ``bits`` per weight on average, scales included.

    Raises ``BadSettings`` when even the smallest formats take more.
    """
    return choose_within(sensitivities, int(bits * num_weights / 8))


def _fits(name: str, layer: Linear, target: IntegerFormat) -> bool:
    refuse_packed(name, layer)
    return target.fits(layer.in_features)


def group_bytes(group: Group, target: WeightFormat) -> int:
    """Bytes of a group's weights in a format."""
    shapes = [(layer.out_features, layer.in_features) for layer in group.layers.values()]
    if isinstance(target, Dense):
        return sum(STORED.itemsize * outputs * inputs for outputs, inputs in shapes)
    return sum(stored_bytes(target, *shape) for shape in shapes)


class _Probe:
    """A dense model, the data at the door of one of its parts, and what the model says of that data."""

    def __init__(self, decoder: Decoder, calibration: Calibration) -> None:
        self.chain, self._decoder, self._number = decoder_chain(decoder), decoder, 0
        self.hidden = self.chain.begin(calibration.tokens[:SAMPLES])
        self._wanted = self._logits()

    def loss(self, layers: Mapping[str, Linear], target: WeightFormat, importance: Tensor) -> float:
        """KL divergence, nats per token, when only these layers of the part are rounded; none if they stay dense."""
        if not isinstance(target, IntegerFormat):
            return 0.0
        return self.loss_of([(name, layer, target, importance) for name, layer in layers.items()])

    def loss_of(self, chosen: Sequence[tuple[str, Linear, IntegerFormat, Tensor]]) -> float:
        """The same when each layer of this part and those behind is rounded to a format of its own."""
        kept = [(layer, layer.weight) for _, layer, _, _ in chosen]
        try:
            for name, layer, target, importance in chosen:
                weight = dense_weight(name, layer)
                rounded = quantize(weight, target, importance=importance, shrinks=SHRINKS, refit=True)
                layer.weight = nn.Parameter(rounded.dequantize(), requires_grad=False)
            return float(divergence(self._logits(), self._wanted))
        finally:
            for layer, weight in kept:
                layer.weight = weight

    def advance(self) -> None:
        """On to the next part."""
        part = self.chain.parts[self._number]
        if part.name != HEAD:
            self.hidden = through(part, self.hidden)
        self._number += 1

    def _logits(self) -> Tensor:
        """Logits (S * T, V)."""
        hidden = self.hidden
        for part in self.chain.parts[self._number :]:
            if part.name != HEAD:
                hidden = through(part, hidden)
        give_back()  # or what the parts have freed is held beside the distributions
        decoder, last = self._decoder, self.chain.parts[-1]
        return torch.cat([decoder.logits(decoder.norm(batch.flatten(0, 1))) for batch in batches(last, hidden)])
