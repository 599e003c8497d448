"""Any module of torch compressed where it lies: for networks that burnish has no file format for."""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from burnish.compress.calibration import Calibration
from burnish.compress.chain import Chain
from burnish.compress.memory import DataSize, image_size, plan_memory, refuse_too_much
from burnish.compress.module_chain import module_chain, wrap
from burnish.compress.recipe import Recipe
from burnish.compress.recipes import find_recipe
from burnish.compress.run import Progress, apply_to_chain, check_chain
from burnish.core.errors import BadSettings
from burnish.core.memory import own_bytes
from burnish.core.records import CalibrationRecord, LayerRecord


class CompressedModule(NamedTuple):
    """A module whose layers are packed, and what was done to each."""

    module: nn.Module
    records: tuple[LayerRecord, ...]
    planned_bytes: int  # of memory, at most, the whole program's


def compress_module(
    module: nn.Module,
    recipe: str,
    data: Tensor,
    *,
    memory_bytes: int | None = None,
    progress: Progress | None = None,
) -> CompressedModule:
    """Compress the linear and convolutional layers that ``data`` (S, ...), given to the module, reaches.

    The module is changed: its layers are replaced by ours, which compute the same until they are packed. Layers with
    groups, and those that are not reached, stay as they are. ``memory_bytes``: that the program may hold at most; what
    it will hold is known before anything is packed. Raises ``BadSettings`` for a recipe that is unknown, works on whole
    models, does not fit a layer or takes more memory; ``BadRequest`` for weights that hold no numbers.
    """
    asked = find_recipe(recipe)
    if not len(data):
        raise BadSettings("data holds no sample", remedy="Give one or more samples as the module takes them")
    for what, tensor in (("data", data), *module.named_parameters()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise BadSettings(f"{what} is {str(tensor.dtype).removeprefix('torch.')}", remedy="Give it in float32")
    module = wrap(module)
    chain = module_chain(module, data[:1])
    if not chain.parts:
        raise BadSettings("the module has no linear or convolutional layer that data reaches", remedy="Check the data")
    calibration = None
    if asked.needs.data:
        record = CalibrationRecord(
            sha256=hashlib.sha256(data.contiguous().numpy().tobytes()).hexdigest(), samples=len(data), length=1, seed=0
        )
        calibration = Calibration(tokens=data, text=data.new_empty(0), record=record)
    check_chain(chain, asked, has_data=calibration is not None)
    planned_bytes = _plan(chain, module, asked, data, memory_bytes)
    return CompressedModule(module, apply_to_chain(chain, asked, calibration, progress=progress), planned_bytes)


def _plan(chain: Chain, module: nn.Module, recipe: Recipe, data: Tensor, limit_bytes: int | None) -> int:
    """Bytes of memory the program will hold at most. Raises ``BadSettings`` when that exceeds the limit."""
    held, size = own_bytes(), image_size(chain, data) if recipe.needs.data else DataSize(0, 0)
    plan = plan_memory(chain, module, recipe, size)
    plan = plan._replace(tables=0, finished=0, proof=0)  # weights are held, and packed in their own places
    if limit_bytes is not None:
        refuse_too_much(plan, held, limit_bytes, remedy="Allow more memory_bytes, or give fewer samples")
    return held + plan.total
