"""Which integer format a layer takes, and the storing of what a pass chose for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from burnish.compress.chain import HEAD
from burnish.compress.finite import refuse_not_finite
from burnish.core.errors import BadSettings
from burnish.core.records import LayerRecord
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.dense import DENSE, Dense
from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.layers.linear import Linear

EIGHT_BITS = IntegerFormat("int8", 8, None)


@dataclass(frozen=True)
class FormatChoice:
    """Each layer takes the first of ``formats`` whose groups divide its inputs, the output head ``head``.

    The head is the largest matrix of a small model, and what is rounded there costs most: it takes eight bits.
    """

    formats: tuple[IntegerFormat, ...]
    head: IntegerFormat = EIGHT_BITS
    assigned: Mapping[str, IntegerFormat] = field(default_factory=dict)  # layers whose format is settled, by name
    dense: frozenset[str] = frozenset()  # layers that stay as they are, by name

    @property
    def all(self) -> tuple[IntegerFormat, ...]:
        """Every format that a layer may take, each once."""
        return tuple(dict.fromkeys((*self.formats, self.head, *self.assigned.values())))

    def check(self, name: str, layer: Linear) -> None:
        """Raise ``BadSettings`` for a layer that is not dense or fits none of the formats."""
        refuse_packed(name, layer)
        if name not in self.dense:
            self.find(name, layer)

    def settled(self, formats: Mapping[str, WeightFormat]) -> "FormatChoice":
        """The same with the formats of these layers, by name, settled."""
        integers = {name: chosen for name, chosen in formats.items() if isinstance(chosen, IntegerFormat)}
        return replace(
            self, assigned={**self.assigned, **integers}, dense=self.dense | (formats.keys() - integers.keys())
        )

    @property
    def kept(self) -> dict[str, WeightFormat]:
        """The layers whose format is settled."""
        return {**self.assigned, **dict.fromkeys(sorted(self.dense), DENSE)}

    def find(self, name: str, layer: Linear) -> IntegerFormat:
        """The format of a layer that does not stay dense. Raises ``BadSettings`` when none fits."""
        if name in self.assigned:
            if not self.assigned[name].fits(layer.in_features):
                raise BadSettings(
                    f"layer {name} has {layer.in_features} inputs, no whole number of groups of "
                    f"{self.assigned[name].name}",
                    remedy="Keep it in int8",
                )
            return self.assigned[name]
        for candidate in (self.head,) if name == HEAD else self.formats:
            if candidate.fits(layer.in_features):
                return candidate
        names = ", ".join(candidate.name for candidate in self.formats)
        raise BadSettings(
            f"layer {name} has {layer.in_features} inputs, no whole number of groups of {names}",
            remedy="Take recipe int4, which falls back to smaller groups and int8",
        )


def refuse_packed(name: str, layer: Linear) -> None:
    """Raise ``BadSettings`` for a layer that is not dense."""
    if not isinstance(layer.format, Dense):
        raise BadSettings(f"layer {name} is stored as {layer.format.name} already", remedy="Compress the dense parent")


def dense_weight(name: str, layer: Linear) -> Tensor:
    """The weight (O, I) that a pass is to store otherwise. Raises ``BadRequest`` for one that holds no numbers."""
    weight = layer.dense_weight().detach()
    refuse_not_finite(f"layer {name}", weight)
    return weight


def store(
    name: str, layer: Linear, target: IntegerFormat, quantized: Quantized, *, rows: Tensor | None = None
) -> LayerRecord:
    """Put a quantized weight in the place of the layer's own; ``rows`` (R, I) are inputs to compare outputs on."""
    weight = layer.dense_weight().detach()
    layer.store(target, target.pack(quantized))
    return change_record(name, layer, weight, quantized.dequantize(), rows=rows)


def change_record(
    name: str, layer: Linear, weight: Tensor, changed: Tensor, *, rows: Tensor | None = None
) -> LayerRecord:
    """What a pass did to the layer, which holds its result: of the weight (O, I) it made what computes as ``changed``.

    ``rows`` (R, I) are inputs to compare outputs on.
    """
    change, bytes_after = changed - weight, sum(tensor.nbytes for tensor in layer.packed().values())
    return LayerRecord(
        name=name,
        format=layer.format.name,
        bits=8 * bytes_after / weight.numel(),
        bytes_before=4 * weight.numel(),
        bytes_after=bytes_after,
        relative_error=_ratio(change, weight),
        output_error=None if rows is None else _ratio(rows @ change.T, rows @ weight.T),
        zeros=float((changed == 0).float().mean()),
    )


def _ratio(change: Tensor, whole: Tensor) -> float:
    return float(change.norm() / whole.norm().clamp(min=1e-30))
