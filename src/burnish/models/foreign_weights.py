"""Loading linear layers that a checkpoint stores in somebody else's layout: each becomes its native format."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from burnish.core.errors import BadCheckpoint
from burnish.models.families import Family
from burnish.models.formats.foreign import Error, Foreign, Native, to_native, total
from burnish.models.layers.linear import Linear
from burnish.models.tensor_names import Target

log = logging.getLogger(__name__)


class ForeignLayer(NamedTuple):
    """A linear layer and how its weight is stored under its name in the checkpoint."""

    theirs: str
    layer: Linear
    stored: Foreign


def refuse_fused(family: Family, layers: Iterable[ForeignLayer]) -> None:
    """Raise ``BadCheckpoint`` where a family's checkpoints hold several of our layers in one module."""
    if any(layers) and any(module.transposed or len(module.ours) > 1 for module in family.modules):
        raise BadCheckpoint(
            f"packed weights of family {family.model_type!r} are supported as burnish writes them only",
            remedy="Compress the dense model with burnish",
        )


def stored_targets(layers: Iterable[ForeignLayer], wanted: Mapping[str, Target]) -> dict[str, Target]:
    """``wanted`` with the tensors of foreign layers as they are stored instead of as we would write them."""
    targets = dict(wanted)
    for theirs, layer, stored in layers:
        for name in layer.packed():
            targets.pop(f"{theirs}.{name}")
        for name, spec in stored.layout(layer.out_features, layer.in_features).items():
            targets.setdefault(
                f"{theirs}.{name}", Target((), spec.shape, spec.dtype, False, optional=name in stored.optional)
            )
    return targets


def load_foreign(layer: ForeignLayer, read: Callable[[str], Tensor | None]) -> Native:
    """Convert one layer's weight and put it there; ``read`` finds a tensor by its full name.

    Raises ``BadCheckpoint`` naming the layer.
    """
    theirs, linear, stored = layer
    found = {name: read(f"{theirs}.{name}") for name in stored.layout(linear.out_features, linear.in_features)}
    tensors = {name: tensor for name, tensor in found.items() if tensor is not None}
    if linear.bias is None and "bias" in tensors and bool(tensors["bias"].any()):
        raise BadCheckpoint(f"{theirs} has a bias the family does not know", remedy="Correct config.json")
    try:
        native = to_native(stored.read(tensors))
    except BadCheckpoint as error:
        raise BadCheckpoint(f"{theirs}: {error.message}", remedy=error.remedy) from None
    if native.quantized.codes.shape != (linear.out_features, linear.in_features):
        shape = list(native.quantized.codes.shape)
        raise BadCheckpoint(
            f"{theirs}.weight_shape holds {shape}, expected {[linear.out_features, linear.in_features]}",
            remedy="Fetch the weights again",
        )
    own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in native.packed().items()}
    linear.store(native.weight_format, own)  # the file will be unmapped
    return native


class Conversions:
    """What converting a model's weights cost, told in one line."""

    def __init__(self) -> None:
        self._errors: dict[str, list[Error]] = {}

    def add(self, native: Native) -> None:
        """Count one weight; an exact one counts nothing."""
        if native.error is not None:
            self._errors.setdefault(native.weight_format.name, []).append(native.error)

    def report(self, model: str) -> str | None:
        """Log and return the line; None when everything is exact."""
        if not self._errors:
            return None
        parts = [
            f"{len(errors)} to {name} with relative error {total(errors).relative:.2g}"
            for name, errors in sorted(self._errors.items())
        ]
        line = f"{model}: weights that no native format holds exactly were rounded: {', '.join(parts)}"
        log.warning("%s", line)
        return line
