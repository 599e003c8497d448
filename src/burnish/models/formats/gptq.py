"""Weights of GPTQ checkpoints (AutoGPTQ, GPTQModel): words packed along the inputs, transposed.

Source: AutoGPTQ, nn_modules/qlinear/qlinear_cuda.py (``pack``, ``forward``); GPTQModel, utils/model.py
(``convert_gptq_v1_to_v2_format``). Shapes: O outputs, I inputs, G groups, with b bits:
``qweight`` (I b / 32, O), ``qzeros`` (G, O b / 32), ``scales`` (G, O), ``g_idx`` (I,).
Version 1 stores zero points less one, in b bits: the greatest stands for zero.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from burnish.core.errors import BadCheckpoint
from burnish.models.formats.base import Packed, TensorSpec, WeightFormat
from burnish.models.formats.dense import DENSE
from burnish.models.formats.foreign import Foreign, Grouped, expected, unsigned
from burnish.models.formats.integer import IntegerFormat

METHOD, FILE = "gptq", "quantize_config.json"  # older folders keep the settings in a file of their own
REMEDY = "Quantize it again, or to compressed-tensors"


@dataclass(frozen=True)
class Gptq(Foreign):
    """The settings all weights of a checkpoint share."""

    bits: Literal[4, 8]
    group_size: int | None
    symmetric: bool
    scattered: bool  # act order without static groups
    less_one: bool  # version 1's zero points

    optional = frozenset(("g_idx", "bias"))  # some versions of AutoGPTQ write zeros for a bias there is not

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """Words, scales, zero points, index."""
        groups, per_word = num_groups(inputs, self.group_size), 32 // self.bits
        if inputs % per_word or outputs % per_word:
            raise BadCheckpoint(f"a layer of {inputs} x {outputs} fills no whole words", remedy="Leave it out")
        return {
            "qweight": TensorSpec((inputs // per_word, outputs), torch.int32),
            "qzeros": TensorSpec((groups, outputs // per_word), torch.int32),
            "scales": TensorSpec((groups, outputs), torch.float32),
            "g_idx": TensorSpec((inputs,), torch.int32),
            "bias": TensorSpec((outputs,), torch.float32),
        }

    def becomes(self, inputs: int) -> IntegerFormat:
        """Its native format."""
        return expected(self.bits, self.group_size, inputs, symmetric=self.symmetric, scattered=self.scattered)

    def read(self, stored: Packed) -> Grouped:
        """The weight from its tensors."""
        codes = unsigned(stored["qweight"].t(), self.bits)
        zeros = unsigned(stored["qzeros"], self.bits).t()
        if self.less_one:
            zeros = (zeros + 1).bitwise_and_((1 << self.bits) - 1)
        inputs = codes.shape[1]
        group_of = stored.get("g_idx", torch.arange(inputs) // (self.group_size or inputs))
        return Grouped(self.bits, codes, stored["scales"].t(), zeros, group_of)


def num_groups(inputs: int, group_size: int | None) -> int:
    """Groups of a layer, the last one filled or not."""
    return 1 if group_size is None else -(-inputs // group_size)


def read_gptq(settings: Mapping[str, Any], modules: Iterable[str]) -> dict[str, WeightFormat | Foreign]:
    """How each linear module is stored. Raises ``BadCheckpoint`` for what is no GPTQ of 4 or 8 bits."""
    version = str(settings.get("checkpoint_format") or settings.get("format") or "gptq").lower()
    bits, size = settings.get("bits"), settings.get("group_size")
    if version not in ("gptq", "gptq_v2") or settings.get("is_marlin_format"):
        raise BadCheckpoint(f"GPTQ weights in the format {version[:40]!r} are not supported", remedy=REMEDY)
    if bits not in (4, 8) or not is_group_size(size):
        raise BadCheckpoint(f"GPTQ weights of {bits!r} bits in groups of {size!r} are not supported", remedy=REMEDY)
    if settings.get("dynamic"):
        raise BadCheckpoint("GPTQ settings by module ('dynamic') are not supported", remedy=REMEDY)
    scattered = bool(settings.get("desc_act")) and not settings.get("static_groups") and size != -1
    stored = Gptq(
        bits, None if size == -1 else size, bool(settings.get("sym", True)), scattered, less_one=version == "gptq"
    )
    chosen = _chosen(settings)
    return {name: stored if _is_chosen(name, chosen, settings) else DENSE for name in modules}


def is_group_size(value: object) -> bool:
    """A positive integer, or -1: one group for all inputs."""
    return isinstance(value, int) and not isinstance(value, bool) and (value > 0 or value == -1)


def _chosen(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Ends of the names of quantized modules; none: every one in the blocks."""
    listed = settings.get("modules_in_block_to_quantize") or []
    flat = [name for part in listed for name in (part if isinstance(part, list) else [part])]
    return tuple(f".{name}" for name in flat)


def _is_chosen(name: str, chosen: tuple[str, ...], settings: Mapping[str, Any]) -> bool:
    if name == "lm_head":
        return bool(settings.get("lm_head"))
    return not chosen or name.endswith(chosen)
