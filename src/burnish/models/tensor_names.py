"""Between the tensors of a decoder and the names a family's checkpoints give them."""

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from torch import nn

from burnish.models.decoder import Decoder
from burnish.models.encoder import Encoder
from burnish.models.families import Module
from burnish.models.formats.dense import Dense
from burnish.models.layers.linear import Linear

# Constants some versions of transformers stored: rotary frequencies, causal masks.
_CONSTANTS = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(bias|masked_bias))$")


class Family(Protocol):
    """What names the modules of a kind of model."""

    @property
    def modules(self) -> tuple[Module, ...]:
        """Theirs and ours."""
        ...


class Target(NamedTuple):
    """A tensor of the checkpoint and the tensors of the model it holds, stacked along the first axis."""

    ours: tuple[str, ...]
    shape: tuple[int, ...]  # in the checkpoint
    dtype: torch.dtype  # a floating type stands for any
    transposed: bool
    optional: bool = False


class LinearName(NamedTuple):
    """A linear layer and its name in the checkpoint."""

    theirs: str
    layer: Linear


def is_constant(name: str) -> bool:
    """Whether a tensor of a checkpoint holds nothing that was trained."""
    return _CONSTANTS.search(name) is not None


def targets(decoder: Decoder | Encoder, family: Family) -> dict[str, Target]:
    """Every tensor a checkpoint of this decoder holds, by its name there."""
    found: dict[str, Target] = {}
    for module in _present(decoder, family):
        owners = [decoder.get_submodule(name) for name in module.ours]
        reshaped = module.transposed or len(owners) > 1
        for name in _tensors(owners[0]):
            if reshaped and not _is_plain(owners[0], name):
                found |= {f"{ours}.{name}": _target(decoder, (f"{ours}.{name}",), False) for ours in module.ours}
            else:
                ours = tuple(f"{owner}.{name}" for owner in module.ours)
                found[f"{module.theirs}.{name}"] = _target(decoder, ours, module.transposed)
    return found


def linears(decoder: Decoder | Encoder, family: Family) -> list[LinearName]:
    """Every linear layer. A family that fuses or transposes has no name for one: those keep ours."""
    found: list[LinearName] = []
    for module in _present(decoder, family):
        for ours in module.ours:
            layer = decoder.get_submodule(ours)
            if isinstance(layer, Linear):
                found.append(LinearName(ours if module.transposed or len(module.ours) > 1 else module.theirs, layer))
    return found


def _present(decoder: Decoder | Encoder, family: Family) -> Iterator[Module]:
    """The family's modules this decoder has, once per layer."""
    known = dict(decoder.named_modules())
    for row in family.modules:
        for layer in range(decoder.config.num_layers if "{}" in row.theirs else 1):
            module = Module(row.theirs.format(layer), tuple(ours.format(layer) for ours in row.ours), row.transposed)
            if all(_tensors(known[ours]) if ours in known else False for ours in module.ours):
                yield module


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))


def _is_plain(owner: nn.Module, name: str) -> bool:
    return name == "bias" or not isinstance(owner, Linear) or isinstance(owner.format, Dense)


def _target(decoder: nn.Module, ours: tuple[str, ...], transposed: bool) -> Target:
    shapes = [tuple(find_tensor(decoder, name).shape) for name in ours]
    stacked = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    transposed = transposed and len(stacked) == 2
    return Target(ours, stacked[::-1] if transposed else stacked, find_tensor(decoder, ours[0]).dtype, transposed)


def find_tensor(decoder: nn.Module, name: str) -> torch.Tensor:
    """A parameter or buffer by its dotted name."""
    owner, _, tensor = name.rpartition(".")
    found = getattr(decoder.get_submodule(owner), tensor)
    assert isinstance(found, torch.Tensor)
    return found
