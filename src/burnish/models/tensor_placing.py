"""Stored tensors put into the places of a model, after every name, shape and type was held against it."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from burnish.core.errors import BadCheckpoint
from burnish.models.layers.linear import Linear
from burnish.models.tensor_files import Stored, same_kind
from burnish.models.tensor_names import Target, is_constant

CONFIG = "config.json"
MAX_LISTED = 20


def refuse_unfit(
    wanted: Mapping[str, Target], stored: Mapping[str, Stored], optional: Collection[str], config: str
) -> None:
    """Raise one ``BadCheckpoint`` that lists every fault of the tensors' names, shapes and types.

    ``optional``: names that may be there for nothing; ``config``: what the tensors do not fit.
    """
    faults = [f"missing {name}" for name, target in wanted.items() if name not in stored and not target.optional]
    for name, (shape, dtype) in stored.items():
        if name not in wanted:
            if not is_constant(name) and name not in optional:
                faults.append(f"unexpected {name}")
        elif shape != wanted[name].shape:
            faults.append(f"{name} has shape {list(shape)}, expected {list(wanted[name].shape)}")
        elif not same_kind(dtype, wanted[name].dtype):
            faults.append(f"{name} has type {dtype}, expected {str(wanted[name].dtype).removeprefix('torch.')}")
    if faults:
        more = f" and {len(faults) - MAX_LISTED} more" if len(faults) > MAX_LISTED else ""
        raise BadCheckpoint(
            f"{len(faults)} tensors do not fit {config}: {'; '.join(faults[:MAX_LISTED])}{more}",
            remedy=f"Fetch the weights or {config} again" if config == CONFIG else "Fetch the file again",
        )


def place(model: nn.Module, target: Target, stored: Tensor, *, mapped: bool = False) -> None:
    """Put a stored tensor where it belongs; parameters become float32.

    ``mapped``: dense weights of linear layers stay in the mapped file, in its type.
    """
    tensor = stored.t() if target.transposed else stored
    for name, part in zip(target.ours, tensor.chunk(len(target.ours)), strict=True):
        owner_name, _, tensor_name = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        if tensor_name in owner._parameters:
            is_left = mapped and isinstance(owner, Linear) and part.dim() == 2 and _is_aligned(part)
            # else contiguous memory of our own: the file is unmapped, and the mapped bytes need not be aligned
            placed = part if is_left else part.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
            owner._parameters[tensor_name] = nn.Parameter(placed, requires_grad=False)
        else:
            if tensor_name == "weight_shape":
                _check_shape(owner, name, part)
            owner._buffers[tensor_name] = part.clone()


def _is_aligned(tensor: Tensor) -> bool:
    return tensor.data_ptr() % tensor.element_size() == 0


def _check_shape(owner: nn.Module, name: str, shape: Tensor) -> None:
    assert isinstance(owner, Linear)
    expected = [owner.out_features, owner.in_features]
    if shape.tolist() != expected:
        raise BadCheckpoint(f"{name} holds {shape.tolist()}, expected {expected}", remedy="Fetch the weights again")
