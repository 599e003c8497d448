from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Doubles = NDArray[np.float64]
_Ints = NDArray[np.int32]
_Bytes = NDArray[np.uint8]

def features() -> list[str]:
    """Instruction sets this processor offers, of those kernels choose by."""

def bodies() -> list[str]:
    """Kernel bodies this processor runs, fastest first."""

def read_rate(*, num_bytes: int, threads: int, passes: int) -> float:
    """Bytes per second that threads read of memory of that size, the best of several passes."""

class Weight:
    """A weight in panels, as kernels/tiles.py lays it out."""

    def __init__(
        self, kind: str, outputs: int, inputs: int, group: int, asymmetric: bool, data: _Bytes, scales: _Floats | None
    ) -> None: ...

def linear(
    weight: Weight,
    x: _Floats,
    bias: _Floats | None = None,
    *,
    int8_activations: bool,
    body: str,
    old: _Floats | None = None,
    first: int = 0,
    last: int = -1,
) -> _Floats:
    """
    x (R, I) times a weight, plus bias, plus old -> (R, O); only the panels [first, last) are computed.
    """

def rms_norm(x: _Floats, weight: _Floats, eps: float, *, body: str) -> _Floats: ...
def layer_norm(x: _Floats, weight: _Floats, bias: _Floats, eps: float, *, body: str) -> _Floats: ...
def gate(activation: str, gate: _Floats, up: _Floats, *, body: str) -> _Floats: ...
def activate(activation: str, x: _Floats, *, body: str) -> _Floats: ...
def softcap(x: _Floats, cap: float, *, body: str) -> _Floats: ...
def rotate(heads: _Floats, cos: _Floats, sin: _Floats, *, body: str) -> _Floats: ...
def embed(table: Weight, tokens: _Ints, scale: float, *, body: str) -> _Floats: ...
def quantize(x: _Floats, *, body: str) -> tuple[NDArray[np.int8], _Floats, _Ints]:
    """Codes, scales and sums of blocks of 32."""

def argmax(logits: _Floats, *, body: str) -> list[int]:
    """First maximum of every row, -1 where there is none."""

def draw(
    logits: _Floats,
    temperature: _Floats,
    top_k: _Ints,
    top_p: _Doubles,
    min_p: _Doubles,
    uniform: _Doubles,
    *,
    body: str,
) -> list[int]:
    """A token of every row, -1 where there is none."""

class KeyCache:
    """Keys and values of one layer."""

    def __init__(self, kind: str, *, num_blocks: int, block_size: int, num_kv_heads: int, head_dim: int) -> None: ...
    def write(self, slots: _Ints, k: _Floats, v: _Floats, *, body: str) -> None: ...
    def attend(
        self, q: _Floats, table: _Ints, context: int, *, scale: float, window: int, softcap: float, step: int, body: str
    ) -> _Floats: ...

class Program:
    """A plan's operations, ready to run; the words are those of plan/ops.py."""

    def __init__(
        self,
        *,
        buffers: Sequence[int],
        max_rows: int,
        vocab_size: int,
        keys: str,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        threads: int,
        body: str,
    ) -> None: ...
    def embed(self, *, table: Weight, positions: Weight | None, scale: float, out: int) -> None: ...
    def norm(
        self,
        *,
        is_rms: bool,
        weight: _Floats,
        bias: _Floats | None,
        eps: float,
        source: int,
        out: int,
        add: bool,
        quantized: bool,
    ) -> None: ...
    def linear(
        self,
        *,
        weight: Weight,
        bias: _Floats | None,
        int8_activations: bool,
        source: int,
        out: int,
        column: int,
        add: bool,
    ) -> None: ...
    def keys(
        self,
        *,
        layer: int,
        num_heads: int,
        q_norm: _Floats | None,
        k_norm: _Floats | None,
        eps: float,
        cos: _Floats | None,
        sin: _Floats | None,
        source: int,
    ) -> None: ...
    def attend(
        self,
        *,
        layer: int,
        num_heads: int,
        scale: float,
        window: int,
        softcap: float,
        source: int,
        out: int,
        quantized: bool,
    ) -> None: ...
    def gate(self, *, activation: str, width: int, gated: bool, source: int, out: int, quantized: bool) -> None: ...
    def gather(self, *, source: int, out: int) -> None: ...
    def softcap(self, *, buffer: int, cap: float) -> None: ...
    def run(
        self,
        *,
        tokens: _Ints,
        positions: _Ints,
        slots: _Ints,
        query_lens: _Ints,
        context_lens: _Ints,
        block_tables: _Ints,
        last_rows: _Ints,
    ) -> _Floats:
        """Logits of the last rows (last rows, V), float32. Raises ValueError."""

    def profile(self, on: bool) -> None:
        """Count seconds per operation from now on, or no more."""

    @property
    def names(self) -> list[str]: ...
    @property
    def seconds(self) -> list[float]: ...
