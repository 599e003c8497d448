"""Weights in the order the native kernels read them: panels of 16 outputs, one sequential stream.

A panel holds ``PANEL`` outputs for all inputs; outputs are padded with zeros to whole panels. Inside a panel:

- f32, f16, bf16: for every input, the 16 outputs.
- int8, int4: for every group of inputs, 16 scales (float16) and, when asymmetric, 16 zero points (int16), then the
  group's blocks of ``BLOCK`` inputs; inputs are padded with zero codes to whole blocks. With ``group`` 0 there are no
  scales inside: ``scales`` holds one float32 per output.
  A block consists of vectors of 32 bytes: for v = 0, 1, ... first outputs 0-7, then outputs 8-15. The four bytes of
  32-bit lane r belong to output r (or 8 + r). int8: inputs 4v to 4v + 3, v < 8. int4: low nibbles are inputs 4v to
  4v + 3, high nibbles inputs 16 + 4v to 16 + 4v + 3, v < 4; symmetric codes are stored with 8 added.

Shapes: O outputs, I inputs, N groups of an output, P panels.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Kind = Literal["f32", "f16", "bf16", "int8", "int4"]
PANEL = 16  # outputs
BLOCK = 32  # inputs
ITEM_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
ALIGNMENT = 64  # bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Tiles:
    """One weight (O, I), packed."""

    kind: Kind
    outputs: int
    inputs: int
    group: int = 0  # inputs that share a scale, a multiple of BLOCK; 0: one scale per output, or a float kind
    asymmetric: bool = False
    data: NDArray[np.uint8]
    scales: NDArray[np.float32] | None = None  # (P * PANEL,) when integers have no groups
