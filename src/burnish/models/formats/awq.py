"""Weights of AWQ checkpoints (AutoAWQ, version "gemm"): words packed along the outputs, transposed, interleaved.

Source: AutoAWQ, awq/modules/linear/gemm.py (``from_linear``) and utils/packing_utils.py. Shapes: O outputs, I inputs,
G groups: ``qweight`` (I, O / 8), ``qzeros`` (G, O / 8), ``scales`` (G, O). The eight nibbles of a word, from the
lowest bits up, are outputs 0 2 4 6 1 3 5 7 of its eight.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from burnish.core.errors import BadCheckpoint
from burnish.models.formats.base import Packed, TensorSpec, WeightFormat
from burnish.models.formats.dense import DENSE
from burnish.models.formats.foreign import Foreign, Grouped, expected, unsigned
from burnish.models.formats.gptq import REMEDY, is_group_size, num_groups
from burnish.models.formats.integer import IntegerFormat

METHOD, FILE = "awq", "quant_config.json"  # older folders keep the settings in a file of their own
PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # nibble of output 0, 1, ... 7


@dataclass(frozen=True)
class Awq(Foreign):
    """The settings all weights of a checkpoint share: four bits with zero points."""

    group_size: int | None

    def layout(self, outputs: int, inputs: int) -> dict[str, TensorSpec]:
        """Words, scales, zero points."""
        groups = num_groups(inputs, self.group_size)
        if outputs % 8 or inputs % groups:
            raise BadCheckpoint(f"a layer of {inputs} x {outputs} fills no whole words or groups", remedy=REMEDY)
        return {
            "qweight": TensorSpec((inputs, outputs // 8), torch.int32),
            "qzeros": TensorSpec((groups, outputs // 8), torch.int32),
            "scales": TensorSpec((groups, outputs), torch.float32),
        }

    def becomes(self, inputs: int) -> IntegerFormat:
        """Its native format."""
        return expected(4, self.group_size, inputs, symmetric=False, scattered=False)

    def read(self, stored: Packed) -> Grouped:
        """The weight from its tensors."""
        codes, zeros = _in_order(stored["qweight"]), _in_order(stored["qzeros"])
        return Grouped(4, codes.t().contiguous(), stored["scales"].t(), zeros.t())


def _in_order(words: Tensor) -> Tensor:
    """Codes (R, 8 W) of words (R, W), outputs in order."""
    return unsigned(words, 4).view(len(words), -1, 8)[:, :, PLACES].flatten(1)


def read_awq(settings: Mapping[str, Any], modules: Iterable[str]) -> dict[str, WeightFormat | Foreign]:
    """How each linear module is stored. Raises ``BadCheckpoint`` for another version than "gemm"."""
    version = str(settings.get("version") or "gemm").lower()
    bits, size = settings.get("bits", settings.get("w_bit")), settings.get("group_size", settings.get("q_group_size"))
    if version != "gemm" or settings.get("zero_point") is False or settings.get("backend") == "llm-awq":
        raise BadCheckpoint(f"AWQ weights of version {version[:40]!r} are not supported", remedy="Only 'gemm' is")
    if bits != 4 or not is_group_size(size):
        raise BadCheckpoint(f"AWQ weights of {bits!r} bits in groups of {size!r} are not supported", remedy=REMEDY)
    left_out = ["lm_head", *(settings.get("modules_to_not_convert") or [])]
    stored = Awq(None if size == -1 else size)
    return {name: DENSE if any(str(part) in name for part in left_out) else stored for name in modules}
