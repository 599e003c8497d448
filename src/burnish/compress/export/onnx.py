"""One ONNX file of an encoder, for ONNX Runtime and whatever else reads it.

Texts are padded and masked there, as that world does: inputs ``input_ids`` and ``attention_mask`` (B, L), outputs
``last_hidden_state`` (B, L, E) and ``sentence_embedding`` (B, E). Integer weights keep their codes and scales behind a
DequantizeLinear, so the file is as small and computes what we do. ``int8`` rounds the inputs of layers as well, a scale
per call, and multiplies bytes: weights are moved to 0 to 255, because the products of signed and unsigned bytes are
summed in 16 bits, and saturate, on processors with AVX2 and no VNNI.

Source: ONNX operators, opset 21. Shapes: B texts, L tokens of the longest, E hidden width, I inputs, O outputs.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from burnish.compress.export.target import Asked, Prepared, Progress, Target, Written
from burnish.core.errors import BadSettings
from burnish.models.encoder import Encoder, EncoderBlock
from burnish.models.encoder_checkpoint import is_encoder, load_encoder
from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.layers.attention import Attention
from burnish.models.layers.linear import Linear
from burnish.models.layers.norm import LayerNorm

if TYPE_CHECKING:
    import onnx

OPSET = 21  # the first in which groups of inputs can have scales of their own
IR_VERSION = 10
_NIBBLE = 4  # bits
_MASKED = -1e9  # added to the scores of padding
_INSTALL = "Install it: pip install 'burnish[onnx]'"


def _prepare(model: Path, asked: Asked) -> Prepared:
    if not is_encoder(model):
        raise BadSettings(f"{str(model)!r} is no encoder; --to onnx writes no other models", remedy="Use --to gguf")
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise BadSettings("the package onnx is not installed", remedy=_INSTALL) from None
    return Prepared(partial(_write, load_encoder(model).encoder, asked.type))


def _write(encoder: Encoder, kind: str, out: Path, moved: Progress) -> Written:
    import onnx

    graph = _Graph(kind)
    with torch.inference_mode():
        _encoder(graph, encoder, moved)
    onnx.save(graph.model(encoder), str(out))
    return Written(types=graph.types, num_rounded=graph.num_rounded, worst_relative_error=graph.worst_relative_error)


class _Graph:
    """Nodes and constants, as they are added; every method returns the name of what it makes."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.types: Counter[str] = Counter()
        self.num_rounded, self.worst_relative_error = 0, 0.0
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._scalars: dict[tuple[str, bytes], str] = {}

    def node(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """One operator with one output."""
        from onnx import helper

        name = out or f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def nodes(self, operator: str, *inputs: str, outputs: int) -> list[str]:
        """One operator with several outputs."""
        from onnx import helper

        names = [f"{operator}_{len(self._nodes)}_{index}" for index in range(outputs)]
        self._nodes.append(helper.make_node(operator, list(inputs), names, name=f"{operator}_{len(self._nodes)}"))
        return names

    def constant(self, values: Tensor, *, told: bool = True) -> str:
        """A tensor of the file, in its own type; a half keeps its size there."""
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(values.contiguous().numpy(), name))
        if told:
            self.types[str(values.dtype).removeprefix("torch.")] += 1
        return name

    def nibbles(self, codes: Tensor) -> str:
        """Codes of -8 to 7 in half a byte each."""
        from onnx import TensorProto, helper

        name = f"constant_{len(self._constants)}"
        flat = codes.flatten().numpy().astype(np.uint8) & 0xF
        flat = np.append(flat, np.zeros(len(flat) % 2, np.uint8))
        packed = (flat[::2] | flat[1::2] << _NIBBLE).tobytes()
        self._constants.append(helper.make_tensor(name, TensorProto.INT4, list(codes.shape), packed, raw=True))
        self.types["int4"] += 1
        return name

    def numbers(self, *values: float) -> str:
        """Small constants, each stored once: whole numbers as int64, others as float32."""
        whole = all(isinstance(value, int) for value in values)
        found = torch.tensor(values, dtype=torch.int64 if whole else torch.float32)
        key = (str(found.dtype), found.numpy().tobytes())
        if key not in self._scalars:
            self._scalars[key] = self.constant(found, told=False)
        return self._scalars[key]

    def model(self, encoder: Encoder) -> "onnx.ModelProto":
        """The whole, with its inputs and outputs declared."""
        from onnx import TensorProto, helper

        width = encoder.config.hidden_size
        declare = helper.make_tensor_value_info
        graph = helper.make_graph(
            self._nodes,
            "encoder",
            [declare(name, TensorProto.INT64, ["texts", "tokens"]) for name in ("input_ids", "attention_mask")],
            [
                declare("last_hidden_state", TensorProto.FLOAT, ["texts", "tokens", width]),
                declare("sentence_embedding", TensorProto.FLOAT, ["texts", width]),
            ],
            self._constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="burnish")
        made.ir_version = IR_VERSION
        return made


def _encoder(graph: _Graph, encoder: Encoder, moved: Progress) -> None:
    x = _begin(graph, encoder)
    mask = graph.node("Cast", "attention_mask", to=1)  # float32
    apart = graph.node("Unsqueeze", graph.node("Sub", graph.numbers(1.0), mask), graph.numbers(1, 2))
    bias = graph.node("Mul", apart, graph.numbers(_MASKED))  # (B, 1, 1, L)
    blocks = [block for block in encoder.layers if isinstance(block, EncoderBlock)]
    for done, block in enumerate(blocks):
        x = _norm(graph, graph.node("Add", x, _attention(graph, x, block.attn, bias)), block.attn_norm)
        inner = _activation(graph, _linear(graph, x, block.mlp.up_proj), encoder.config.activation)
        x = _norm(graph, graph.node("Add", x, _linear(graph, inner, block.mlp.down_proj)), block.mlp_norm)
        moved(done + 1, len(blocks))
    x = graph.node("Identity", x, out="last_hidden_state")
    _pool(graph, encoder, x, mask)


def _begin(graph: _Graph, encoder: Encoder) -> str:
    length = graph.node("Gather", graph.node("Shape", "input_ids"), graph.numbers(1), axis=0)
    positions = graph.node(
        "Range",
        graph.node("Squeeze", graph.numbers(0)),
        graph.node("Squeeze", length),
        graph.node("Squeeze", graph.numbers(1)),
    )
    words = _table(graph, encoder.embed_tokens, "input_ids")
    places = _table(graph, encoder.embed_positions, positions)
    kind = graph.constant(encoder.embed_types.weight[0].detach().float())
    return _norm(graph, graph.node("Add", graph.node("Add", words, places), kind), encoder.embed_norm)


def _table(graph: _Graph, table: nn.Embedding, rows: str) -> str:
    return graph.node("Gather", graph.constant(table.weight.detach().float()), rows, axis=0)


def _attention(graph: _Graph, x: str, attention: Attention, bias: str) -> str:
    heads = graph.numbers(0, 0, attention.num_heads, -1)
    q, k, v = (
        graph.node("Reshape", _linear(graph, x, layer), heads)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q = graph.node("Mul", graph.node("Transpose", q, perm=(0, 2, 1, 3)), graph.numbers(float(attention.rule.scale)))
    scores = graph.node("MatMul", q, graph.node("Transpose", k, perm=(0, 2, 3, 1)))
    chances = graph.node("Softmax", graph.node("Add", scores, bias), axis=-1)
    mixed = graph.node("MatMul", chances, graph.node("Transpose", v, perm=(0, 2, 1, 3)))
    rows = graph.node("Reshape", graph.node("Transpose", mixed, perm=(0, 2, 1, 3)), graph.numbers(0, 0, -1))
    return _linear(graph, rows, attention.o_proj)


def _norm(graph: _Graph, x: str, norm: LayerNorm) -> str:
    weight, bias = (graph.constant(part.detach().float()) for part in (norm.weight, norm.bias))
    return graph.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=float(norm.eps))


def _activation(graph: _Graph, x: str, name: str) -> str:
    if name == "relu":
        return graph.node("Relu", x)
    return graph.node("Gelu", x, approximate="tanh" if name == "gelu_tanh" else "none")


def _linear(graph: _Graph, x: str, layer: Linear) -> str:
    if graph.kind == "int8":
        product = _byte_product(graph, x, layer)
    else:
        product = graph.node("MatMul", x, _weight(graph, layer, graph.kind))
    return product if layer.bias is None else graph.node("Add", product, graph.constant(layer.bias.detach().float()))


def _weight(graph: _Graph, layer: Linear, kind: str) -> str:
    """The weight (I, O): floats, or codes and scales."""
    if kind == "f32" or not isinstance(layer.format, IntegerFormat):
        return graph.constant(layer.dense_weight().t().float())
    found = layer.format.restore(layer.packed())
    codes, scales = _signed(found).t(), found.scales.t().float()
    stored = graph.nibbles(codes) if layer.format.bits <= _NIBBLE else graph.constant(codes)
    scale = graph.constant(scales.squeeze(0) if len(scales) == 1 else scales)
    if len(scales) == 1:
        return graph.node("DequantizeLinear", stored, scale, axis=1)
    return graph.node("DequantizeLinear", stored, scale, axis=0, block_size=layer.in_features // len(scales))


def _signed(found: Quantized) -> Tensor:
    """Codes (O, I) without zero points, int8. Those of at most seven bits and of a symmetric eight have room."""
    if found.zeros is None:
        return found.codes
    width = found.codes.shape[1] // found.zeros.shape[1]
    return found.codes - found.zeros.repeat_interleave(width, 1)


def _byte_product(graph: _Graph, x: str, layer: Linear) -> str:
    """x (..., I) times the weight, both in bytes; sums are exact in 32 bits."""
    exact = layer.dense_weight().float()
    codes, scales = _by_output(layer, exact)
    rounded = codes.float() * scales.unsqueeze(-1)
    error = float((rounded - exact).norm() / exact.norm())
    graph.num_rounded += error > 0
    graph.worst_relative_error = max(graph.worst_relative_error, error)
    stored = graph.constant((codes.to(torch.int16) + 128).to(torch.uint8).t())
    zero = graph.constant(torch.tensor(128, dtype=torch.uint8), told=False)
    bytes_, scale, middle = graph.nodes("DynamicQuantizeLinear", x, outputs=3)
    sums = graph.node("Cast", graph.node("MatMulInteger", bytes_, stored, middle, zero), to=1)
    return graph.node("Mul", sums, graph.node("Mul", scale, graph.constant(scales)))


def _by_output(layer: Linear, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (O, I) of -128 to 127 and a scale per output (O,): the layer's own where it has such."""
    if isinstance(layer.format, IntegerFormat) and layer.format.bits == 8 and layer.format.group_size is None:
        found = layer.format.restore(layer.packed())
        return found.codes, found.scales.flatten().float()
    scales = (exact.abs().amax(1) / 127).clamp(min=1e-30)
    return (exact / scales.unsqueeze(-1)).round().to(torch.int8), scales


def _pool(graph: _Graph, encoder: Encoder, x: str, mask: str) -> None:
    if encoder.config.pooling == "first":
        rows = graph.node("Squeeze", graph.node("Slice", x, *map(graph.numbers, (0, 1, 1))), graph.numbers(1))
    else:
        weights = graph.node("Unsqueeze", mask, graph.numbers(2))
        sums = graph.node("ReduceSum", graph.node("Mul", x, weights), graph.numbers(1), keepdims=0)
        rows = graph.node("Div", sums, graph.node("ReduceSum", mask, graph.numbers(1), keepdims=1))
    if encoder.config.normalized:
        length = graph.node("ReduceL2", rows, graph.numbers(1), keepdims=1)
        rows = graph.node("Div", rows, graph.node("Max", length, graph.numbers(1e-12)))
    graph.node("Identity", rows, out="sentence_embedding")


TARGET = Target(
    about="One ONNX file of an encoder; integers behind DequantizeLinear, or multiplied as bytes.",
    types=("auto", "f32", "int8"),
    embeddings=("auto",),
    prepare=_prepare,
)
