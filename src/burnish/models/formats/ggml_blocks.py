"""Weights written into the blocks of ggml: the reverse of ``ggml``.

A block holds 32 inputs of one output and one scale in float16: Q8_0 codes of -128 to 127, Q4_0 of -8 to 7, Q4_1 of 0 to
15 with a minimum beside the scale. Integer weights move over as they are wherever those hold their codes; groups wider
than a block repeat their scale. Everything else is rounded by the library of llama.cpp.

Source: ggml-org/llama.cpp, ggml/src/ggml-common.h (the blocks).
Shapes: O outputs, I inputs, N blocks of a row.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from burnish.models.formats.foreign import Error, total
from burnish.models.formats.ggml import BLOCKS, dequantize
from burnish.models.formats.integer import Quantized

BLOCK = 32  # inputs
TYPES = ("Q4_0", "Q4_1", "Q8_0")
LARGEST_SCALE = 4096.0  # 15 times that is a float16 number still
ROWS_AT_ONCE = 1024  # of a weight that is compared: its floats as a whole would be many times the codes


class Blocked(NamedTuple):
    """A weight in blocks."""

    type: str
    rows: Tensor  # (O, N * bytes of a block) uint8


def fits(inputs: int) -> bool:
    """Whether rows of so many inputs are whole blocks."""
    return inputs % BLOCK == 0


def carried(kind: str, weight: Quantized) -> Blocked | None:
    """The same codes and scales as blocks of a type; None when its blocks cannot hold the codes.

    A scale that is no float16 number, and for Q4_1 a product of scale and zero point that is none, is rounded to one.
    """
    outputs, inputs = weight.codes.shape
    groups = weight.scales.shape[1]
    if not fits(inputs) or inputs // groups % BLOCK or float(weight.scales.abs().max()) > LARGEST_SCALE:
        return None
    repeats = inputs // groups // BLOCK
    scales = weight.scales.float().repeat_interleave(repeats, 1)
    codes = weight.codes.view(outputs, -1, BLOCK).to(torch.int16)
    zeros = torch.zeros_like(weight.scales) if weight.zeros is None else weight.zeros
    zeros = zeros.to(torch.int16).repeat_interleave(repeats, 1)
    packed = _PACK[kind](codes, zeros, scales)
    return None if packed is None else Blocked(kind, packed.flatten(1))


def rounded(kind: str, weight: Tensor) -> Blocked:
    """A weight (O, I) of floats in the blocks nearest to it, as llama.cpp's plain quantizer chooses them."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import quantize

    return Blocked(kind, torch.from_numpy(quantize(weight.contiguous().numpy(), GGMLQuantizationType[kind])))


def error_of(blocked: Blocked, weight: Tensor) -> Error:
    """How far blocks are from the weight (O, I) they stand for."""
    pairs = zip(torch.split(blocked.rows, ROWS_AT_ONCE), torch.split(weight, ROWS_AT_ONCE), strict=True)
    return total(_error(dequantize(blocked.type, rows), part) for rows, part in pairs)


def _error(stored: Tensor, weight: Tensor) -> Error:
    return Error(float((stored - weight).square_().sum()), float(weight.square().sum()))


def _q8_0(codes: Tensor, zeros: Tensor, scales: Tensor) -> Tensor | None:
    signed = codes - zeros.unsqueeze(-1)
    if not _between(signed, -128, 127):
        return None
    return _joined([scales], signed.to(torch.int8).view(torch.uint8))


def _q4_0(codes: Tensor, zeros: Tensor, scales: Tensor) -> Tensor | None:
    signed = codes - zeros.unsqueeze(-1)
    return _joined([scales], _nibbles(signed + 8)) if _between(signed, -8, 7) else None


def _q4_1(codes: Tensor, zeros: Tensor, scales: Tensor) -> Tensor | None:
    """Codes of -8 to 7 are raised by 8; zero points of 0 to 15 become minima."""
    raised = 8 if bool((codes < 0).any()) else 0
    codes, zeros = codes + raised, zeros + raised
    return _joined([scales, -zeros * scales], _nibbles(codes)) if _between(codes, 0, 15) else None


_PACK = {"Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1}


def _between(codes: Tensor, low: int, high: int) -> bool:
    return low <= int(codes.min()) and int(codes.max()) <= high


def _nibbles(codes: Tensor) -> Tensor:
    """Codes (O, N, 32) of 0 to 15 as bytes (O, N, 16): the first half of a block in the low nibbles."""
    raised = codes.to(torch.uint8)
    return raised[..., : BLOCK // 2] | (raised[..., BLOCK // 2 :] << 4)


def _joined(numbers: list[Tensor], codes: Tensor) -> Tensor:
    """Numbers (O, N) as float16, then codes (O, N, bytes): the bytes of the blocks (O, N, all)."""
    halves = [number.half().contiguous().view(torch.uint8).view(*number.shape, 2) for number in numbers]
    return torch.cat([*halves, codes], -1)


assert all(BLOCKS[kind].inputs == BLOCK for kind in TYPES)
