"""Mixed precision: which format each group of layers takes, by what the model loses when only that group takes it.

The loss is measured, not estimated: the group is rounded, the rest of the model runs dense, and the KL divergence of
its predictions from the dense model's is taken on calibration data. Losses of groups are taken to add up, and an exact
search spends the budget accordingly. Layers that serve together stay together: q, k and v; gate and up.

Shapes: S samples, T tokens of a sample, E hidden width, V vocabulary.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from burnish.compress.allocate import Option, allocate
from burnish.compress.calibration import Calibration
from burnish.compress.chain import HEAD, decoder_chain
from burnish.compress.distill import divergence
from burnish.compress.passes.choice import dense_weight, refuse_packed
from burnish.compress.passes.grid import quantize
from burnish.compress.passes.imatrix import SHRINKS
from burnish.compress.statistics import Flow, batches, observe, through
from burnish.core.errors import BadSettings
from burnish.models.decoder import Decoder
from burnish.models.formats.base import stored_bytes
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


@torch.no_grad()
def measure(
    decoder: Decoder,
    calibration: Calibration,
    formats: Sequence[IntegerFormat],
    *,
    progress: Progress | None = None,
) -> list[Sensitivity]:
    """The sensitivity of every group of layers, the model left as it was.

    Raises ``BadSettings`` for a layer that is packed or that none of the formats fits.
    """
    probe = _Probe(decoder, calibration)
    total = sum(len(part.inputs) for part in probe.chain.parts)
    found: list[Sensitivity] = []
    for part in probe.chain.parts:
        inputs = observe(part, Flow(hidden=probe.hidden))
        for shared in part.inputs:
            layers = {name: part.layers[name] for name in shared.layers}
            fitting = [one for one in formats if all(_fits(*layer, one) for layer in layers.items())]
            if not fitting:
                raise BadSettings(f"layers {', '.join(layers)} fit none of the formats", remedy="Add int8")
            options = [
                Option(one.name, _cost(layers.values(), one), probe.loss(layers, one, inputs[shared.layers[0]].square))
                for one in fitting
            ]
            importance = inputs[shared.layers[0]].square
            found.append(Sensitivity(layers=shared.layers, options=tuple(options), importance=importance))
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
    return probe.loss_of([(name, layers[name], integer_format(chosen[name]), importance[name]) for name in importance])


def choose(sensitivities: Sequence[Sensitivity], bits: float, num_weights: int) -> dict[str, str]:
    """The format of every layer that loses least at ``bits`` per weight on average, scales included.

    Raises ``BadSettings`` when even the smallest formats take more.
    """
    found = allocate([one.options for one in sensitivities], int(bits * num_weights / 8))
    pairs = zip(sensitivities, found.formats, strict=True)
    return {name: chosen for one, chosen in pairs for name in one.layers}


def _fits(name: str, layer: Linear, target: IntegerFormat) -> bool:
    refuse_packed(name, layer)
    return target.group_size is None or layer.in_features % target.group_size == 0


def _cost(layers: Iterable[Linear], target: IntegerFormat) -> int:
    """Bytes of the layers' weights in a format."""
    return sum(stored_bytes(target, layer.out_features, layer.in_features) for layer in layers)


class _Probe:
    """A dense model, the data at the door of one of its parts, and what the model says of that data."""

    def __init__(self, decoder: Decoder, calibration: Calibration) -> None:
        self.chain, self._decoder, self._number = decoder_chain(decoder), decoder, 0
        self.hidden = self.chain.begin(calibration.tokens[:SAMPLES])
        self._wanted = self._logits()

    def loss(self, layers: Mapping[str, Linear], target: IntegerFormat, importance: Tensor) -> float:
        """KL divergence, nats per token, when only these layers of the part are rounded."""
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
        decoder, last = self._decoder, self.chain.parts[-1]
        return torch.cat([decoder.logits(decoder.norm(batch.flatten(0, 1))) for batch in batches(last, hidden)])
