"""The reference interpreter of a plan: torch and the plain operations of ``kernels.reference``, one after the other.

The oracle the native executor is held against, and what runs where no native kernels are built. Quantized activations
are computed as what they stand for: codes times scales, in float32.

Shapes: R rows, S sequences, V vocabulary, N blocks of B tokens, G key/value heads of width D.
"""

import time

import numpy as np
import torch
from torch import Tensor

from burnish.core.types import KeyKind
from burnish.kernels import reference
from burnish.kernels.tiles import Array, Tiles, unpack
from burnish.models.layers.mlp import ACTIVATIONS
from burnish.plan.ops import (
    LOGITS,
    Activate,
    Attend,
    Buffer,
    Embed,
    Floats,
    Gate,
    Gather,
    Keys,
    Linear,
    Norm,
    Operation,
    Plan,
    Softcap,
    StepInputs,
)


class Interpreter:
    """Runs a plan in torch. Owns the keys and values, stored as float32 that the kind of keys could hold."""

    def __init__(self, plan: Plan, num_blocks: int, block_size: int, *, keys: KeyKind = "f32") -> None:
        shape = plan.shape
        cache = (shape.num_layers, num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
        self._plan, self._keys_kind = plan, keys
        # Zeros, not garbage: attention multiplies unseen keys by an exact 0, and 0 * nan is nan.
        self._keys, self._values = torch.zeros(cache), torch.zeros(cache)
        self._weights: dict[int, Tensor] = {}
        self._is_profiling, self._seconds = False, [0.0] * len(plan.operations)

    @torch.inference_mode()
    def __call__(self, inputs: StepInputs) -> Floats:
        """Logits of the last rows (last rows, V)."""
        state = _State(self, inputs)
        for index, operation in enumerate(self._plan.operations):
            if not state.is_done:
                begun_s = time.perf_counter()
                state.run(operation)
                self._seconds[index] += self._is_profiling * (time.perf_counter() - begun_s)
        logits = state.buffers.get(LOGITS, torch.zeros(0, self._plan.shape.vocab_size))
        found: Floats = logits.numpy()
        return found

    def profile(self, on: bool) -> None:
        """Count the seconds of every operation from zero, or no more."""
        self._is_profiling, self._seconds = on, [0.0] * len(self._plan.operations)

    def seconds(self) -> list[float]:
        """Of every operation in their order, since ``profile``."""
        return self._seconds

    def weight(self, tiles: Tiles) -> Tensor:
        """The weight as float32 (O, I), unpacked when it is first used."""
        if id(tiles) not in self._weights:
            self._weights[id(tiles)] = torch.from_numpy(unpack(tiles))
        return self._weights[id(tiles)]

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Store k and v (R, G, D) as the kind of keys holds them."""
        reference.write_keys(self._keys[layer], slots, reference.stored_keys(k, self._keys_kind))
        reference.write_keys(self._values[layer], slots, reference.stored_keys(v, self._keys_kind))

    def attend(self, op: Attend, q: Tensor, layout: reference.KeyLayout) -> Tensor:
        """q (R, H, D) -> (R, H, D)."""
        keys, values = self._keys[op.layer], self._values[op.layer]
        return reference.paged_attention(q, keys, values, layout, scale=op.scale, window=op.window, softcap=op.softcap)


class _State:
    """The buffers of one step."""

    def __init__(self, interpreter: Interpreter, inputs: StepInputs) -> None:
        self._on, self._inputs = interpreter, inputs
        self.buffers: dict[Buffer, Tensor] = {}
        self.is_done = False  # no row's logits are wanted: nothing after Gather has anything to do
        self._layout = reference.KeyLayout(
            tuple(inputs.query_lens.tolist()), tuple(inputs.context_lens.tolist()), _tensor(inputs.block_tables)
        )

    def run(self, op: Operation) -> None:
        """One operation."""
        match op:
            case Embed():
                self._embed(op)
            case Norm():
                self._norm(op)
            case Linear():
                self._linear(op)
            case Keys():
                self._write_keys(op)
            case Attend():
                q = self.buffers[op.source][:, : op.num_heads * op.head_dim].view(-1, op.num_heads, op.head_dim)
                mixed = self._on.attend(op, q, self._layout).flatten(1)
                self.buffers[op.out] = _rounded(mixed) if op.quantized else mixed
            case Gate() | Activate():
                self._activate(op)
            case Gather():
                rows = _tensor(self._inputs.last_rows)
                self.buffers[op.out] = self.buffers[op.source][rows]
                self.is_done = not len(rows)
            case Softcap():
                self.buffers[op.buffer] = torch.tanh(self.buffers[op.buffer] / op.cap) * op.cap

    def _embed(self, op: Embed) -> None:
        x = self._on.weight(op.table)[_tensor(self._inputs.tokens)] * op.scale
        if op.positions is not None:
            x = x + self._on.weight(op.positions)[self._places(op.positions.outputs)]
        self.buffers[op.out] = x

    def _norm(self, op: Norm) -> None:
        x, weight = self.buffers[op.source], torch.from_numpy(op.weight)
        if op.bias is None:
            out = reference.rms_norm(x, weight, op.eps)
        else:
            out = reference.layer_norm(x, weight, torch.from_numpy(op.bias), op.eps)
        if op.add:
            out = self.buffers[op.out] + out
        self.buffers[op.out] = _rounded(out) if op.quantized else out

    def _linear(self, op: Linear) -> None:
        bias = None if op.bias is None else torch.from_numpy(op.bias)
        x = self.buffers[op.source][:, : op.weight.inputs]
        out = reference.linear(x, self._on.weight(op.weight), bias)
        if op.add:
            self.buffers[op.out] = self.buffers[op.out] + out
        elif op.column:  # beside what lies there
            self.buffers[op.out] = torch.cat((self.buffers[op.out][:, : op.column], out), 1)
        else:
            self.buffers[op.out] = out

    def _write_keys(self, op: Keys) -> None:
        x, width = self.buffers[op.source], op.head_dim
        heads = x.view(len(x), -1, width)
        values_at = op.num_heads + op.num_kv_heads
        q, k, v = heads[:, : op.num_heads], heads[:, op.num_heads : values_at], heads[:, values_at:]
        if op.q_norm is not None and op.k_norm is not None:
            q = reference.rms_norm(q, torch.from_numpy(op.q_norm), op.eps)
            k = reference.rms_norm(k, torch.from_numpy(op.k_norm), op.eps)
        if op.cos is not None and op.sin is not None:
            places = self._places(len(op.cos))
            cos, sin = torch.from_numpy(op.cos)[places], torch.from_numpy(op.sin)[places]
            q, k = reference.rotate(q, cos, sin), reference.rotate(k, cos, sin)
        self._on.write(op.layer, _tensor(self._inputs.slots), k, v)
        self.buffers[op.source] = q.flatten(1)

    def _places(self, count: int) -> Tensor:
        """Positions of the rows, those beyond a table of ``count`` at its end, as in the native executor."""
        return _tensor(self._inputs.positions).clamp(max=count - 1)

    def _activate(self, op: Gate | Activate) -> None:
        x, activation = self.buffers[op.source], ACTIVATIONS[op.activation]
        out = activation(x[:, : op.width])
        if isinstance(op, Gate):
            out = out * x[:, op.width : 2 * op.width]
        self.buffers[op.out] = _rounded(out) if op.quantized else out


def _rounded(x: Tensor) -> Tensor:
    """Rows as their int8 blocks hold them."""
    return reference.quantize_blocks(x).dequantize(x.shape[1])


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(np.asarray(array, dtype=np.int64))
