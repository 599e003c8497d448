"""Moving a scale per column from the rows that flow into layers to the layers' weights: the model stays the same.

Shapes: I columns of the rows.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from burnish.models.layers.linear import Linear
from burnish.models.layers.norm import LayerNorm, RMSNorm

STORED = torch.bfloat16  # what an artifact stores norms in


@torch.no_grad()
def fold(source: nn.Module, layers: Iterable[Linear], scales: Tensor, *, stored: torch.dtype | None = None) -> Tensor:
    """Divide what ``source`` gives by scales (I,), multiply the layers' columns by them -> the scales really used.

    ``stored``: the type a norm's weight will be stored in. The scales are bent until the divided weight is one of its
    numbers, or storing it would undo a part of what the layers make up for.
    """
    if isinstance(source, Linear):
        set_parameter(source, "weight", source.weight / scales.unsqueeze(1))
        if source.bias is not None:
            set_parameter(source, "bias", source.bias / scales)
    else:
        assert isinstance(source, RMSNorm | LayerNorm)
        scales = _divide_norm(source, scales, stored)
    for layer in layers:
        set_parameter(layer, "weight", layer.weight * scales)
    return scales


def _divide_norm(norm: RMSNorm | LayerNorm, scales: Tensor, stored: torch.dtype | None) -> Tensor:
    offset = norm.offset if isinstance(norm, RMSNorm) else 0.0
    whole = norm.weight + offset
    divided = whole / scales - offset
    if stored is not None:
        divided = divided.to(stored).to(divided.dtype)
        left = divided + offset
        # where nothing is left, or nothing was, the scale is one
        is_usable = (left != 0) & (whole != 0) & (whole / left).isfinite()
        divided = torch.where(is_usable, divided, norm.weight)
        scales = torch.where(is_usable, whole / (divided + offset), 1.0)
    set_parameter(norm, "weight", divided)
    if isinstance(norm, LayerNorm):
        set_parameter(norm, "bias", norm.bias / scales)
    return scales


def set_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a value in the place of a module's parameter; it does not learn."""
    setattr(module, name, nn.Parameter(value, requires_grad=False))
