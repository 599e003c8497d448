"""An ONNX graph as it is put together, and how the weight of a layer is stored and multiplied in it.

Integer weights keep their codes and scales behind a DequantizeLinear, so the file is as small and computes what we do.
Inputs that are rounded to settled steps pass through QuantizeLinear and DequantizeLinear. ``int8`` multiplies bytes
instead, inputs being rounded to a scale per call where no steps are settled: weights are moved to 0 to 255, because the
products of signed and unsigned bytes are summed in 16 bits, and saturate, on processors with AVX2 and no VNNI.

Source: ONNX operators, opset 21. Shapes: I inputs, O outputs.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.layers.linear import Linear

if TYPE_CHECKING:
    import onnx

OPSET = 21  # the first in which groups of inputs can have scales of their own
IR_VERSIONS = {OPSET: 10, 23: 11}
FLOAT = 1  # ONNX's word for float32
_NIBBLE, _BYTE = 4, 8  # bits
_MIDDLE = 128  # what signed codes are moved by to be bytes of 0 to 255

Declared = Sequence[tuple[str, int, list[str | int]]]
"""Name, ONNX type, shape"""


class Graph:
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

    def nodes(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """One operator with several outputs."""
        names = [f"{operator}_{len(self._nodes)}_{index}" for index in range(outputs)]
        self.named(operator, *inputs, outputs=names, **attributes)
        return names

    def named(self, operator: str, *inputs: str, outputs: Sequence[str], **attributes: Any) -> None:
        """One operator with several outputs of these names."""
        from onnx import helper

        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), list(outputs), name=name, **attributes))

    def constant(self, values: Tensor, *, told: bool = True) -> str:
        """A tensor of the file, in its own type; a half keeps its size there."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(_tensor(values.contiguous(), name))
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

    def model(self, name: str, inputs: "Declared", outputs: "Declared", *, opset: int = OPSET) -> "onnx.ModelProto":
        """The whole, with its inputs and outputs declared."""
        from onnx import helper

        graph = helper.make_graph(
            self._nodes,
            name,
            [helper.make_tensor_value_info(*one) for one in inputs],
            [helper.make_tensor_value_info(*one) for one in outputs],
            self._constants,
        )
        domains = {node.domain for node in self._nodes} - {""}
        opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
        made = helper.make_model(graph, opset_imports=opsets, producer_name="burnish")
        made.ir_version = IR_VERSIONS[opset]
        return made


def _tensor(values: Tensor, name: str) -> "onnx.TensorProto":
    from onnx import TensorProto, helper, numpy_helper

    if values.dtype != torch.bfloat16:  # which numpy lacks
        return numpy_helper.from_array(values.numpy(), name)
    raw = values.view(torch.int16).numpy().tobytes()
    return helper.make_tensor(name, TensorProto.BFLOAT16, list(values.shape), raw, raw=True)


class GivenBytes(NamedTuple):
    """Inputs as bytes: ``x = (codes - zero) * scale``, names in the graph."""

    codes: str
    scale: str
    zero: str


class StoredBytes(NamedTuple):
    """A weight as bytes: ``w = (codes - zero) * scales``."""

    codes: str
    scales: Tensor  # (O,)
    zero: str


def linear(graph: Graph, x: str, layer: Linear) -> str:
    """x (..., I) -> (..., O)."""
    if graph.kind == "int8":
        given, stored = bytes_of_inputs(graph, x, layer), bytes_of_weight(graph, layer)
        sums = graph.node("MatMulInteger", given.codes, stored.codes, given.zero, stored.zero)
        scales = graph.node("Mul", given.scale, graph.constant(stored.scales))
        product = graph.node("Mul", graph.node("Cast", sums, to=FLOAT), scales)
    else:
        product = graph.node("MatMul", rounded(graph, x, layer), weight(graph, layer))
    return bias_of(graph, product, layer)


def activation(graph: Graph, x: str, name: str) -> str:
    """x through the function that ``models.layers.mlp`` knows by that name."""
    if name == "relu":
        return graph.node("Relu", x)
    if name == "silu":
        return graph.node("Mul", x, graph.node("Sigmoid", x))
    return graph.node("Gelu", x, approximate="tanh" if name == "gelu_tanh" else "none")


def bias_of(graph: Graph, out: str, layer: Linear, *, places: int = 0) -> str:
    """What comes out with the bias added; ``places``: axes behind that of the outputs."""
    if layer.bias is None:
        return out
    return graph.node("Add", out, graph.constant(layer.bias.detach().float().view(-1, *[1] * places)))


def rounded(graph: Graph, x: str, layer: Linear) -> str:
    """x as the layer takes it: on the steps settled for it, if there are any and floats were not asked for."""
    steps = _settled(graph, layer)
    if steps is None or graph.kind == "f32":
        return x
    codes = graph.node("QuantizeLinear", x, *steps)
    return graph.node("DequantizeLinear", codes, *steps)


def bytes_of_inputs(graph: Graph, x: str, layer: Linear) -> GivenBytes:
    """x as bytes, on the steps settled for the layer, or on those of this very call."""
    steps = _settled(graph, layer)
    if steps is None:
        return GivenBytes(*graph.nodes("DynamicQuantizeLinear", x, outputs=3))
    scale, zero = steps
    return GivenBytes(graph.node("QuantizeLinear", x, scale, zero), scale, zero)


def _settled(graph: Graph, layer: Linear) -> list[str] | None:
    """Scale and zero point, of bytes, settled for the layer's inputs."""
    if layer.input_scale is None or layer.input_zero_point is None:
        return None
    zero = (layer.input_zero_point.to(torch.int16) + _MIDDLE).to(torch.uint8).view(())
    return [graph.constant(layer.input_scale.view(()), told=False), graph.constant(zero, told=False)]


def weight(graph: Graph, layer: Linear, filters: tuple[int, ...] | None = None) -> str:
    """The weight (I, O), or of the shape of ``filters`` (O, ...): floats, or codes and scales."""
    if graph.kind == "f32" or not isinstance(layer.format, IntegerFormat):
        dense = layer.dense_weight().float()
        return graph.constant(dense.t() if filters is None else dense.view(filters))
    found = _signed(layer.format, layer.format.restore(layer.packed()))
    if found.scales.shape[1] == 1:
        return _by_channel(graph, layer, found, filters)
    axis, size = int(filters is not None), layer.in_features // found.scales.shape[1]
    turned = [part.t() if filters is None else part for part in found if part is not None]  # scales, then zero points
    given = [_stored(graph, layer, turned[0]), *(graph.constant(part) for part in turned[1:])]
    dense_again = graph.node("DequantizeLinear", *given, axis=axis, block_size=size)
    return dense_again if filters is None else graph.node("Reshape", dense_again, graph.numbers(*filters))


def _by_channel(graph: Graph, layer: Linear, found: Quantized, filters: tuple[int, ...] | None) -> str:
    """One scale per output. Where inputs are bytes too, codes are moved to 0 to 255, lest sums saturate."""
    shaped, axis = (found.codes.t(), 1) if filters is None else (found.codes.view(filters), 0)
    scale = graph.constant(found.scales.flatten())
    if layer.input_scale is None:
        zeros = [] if found.zeros is None else [graph.constant(found.zeros.flatten(), told=False)]
        return graph.node("DequantizeLinear", _stored(graph, layer, shaped), scale, *zeros, axis=axis)
    signed = torch.zeros(len(found.codes), dtype=torch.int8) if found.zeros is None else found.zeros.flatten()
    zero = graph.constant(_raised(signed), told=False)
    return graph.node("DequantizeLinear", graph.constant(_raised(shaped)), scale, zero, axis=axis)


def _stored(graph: Graph, layer: Linear, codes: Tensor) -> str:
    assert isinstance(layer.format, IntegerFormat)
    is_narrow = -(1 << (_NIBBLE - 1)) <= int(codes.min()) <= int(codes.max()) < 1 << (_NIBBLE - 1)
    return graph.nibbles(codes) if is_narrow and layer.format.bits <= _NIBBLE else graph.constant(codes)


def _signed(stored: IntegerFormat, found: Quantized) -> Quantized:
    """The same with float32 scales and, where int8 has room for the codes without them, no zero points: eight bits keep
    theirs, four bits less a zero point may take five.
    """
    codes, scales, zeros = found
    if zeros is not None and stored.bits < _BYTE:
        codes, zeros = codes - zeros.repeat_interleave(codes.shape[1] // zeros.shape[1], 1), None
    return Quantized(codes, scales.float(), zeros)


def _raised(codes: Tensor) -> Tensor:
    """Codes of -128 to 127 as bytes of 0 to 255."""
    return (codes.to(torch.int16) + _MIDDLE).to(torch.uint8)


def bytes_of_weight(graph: Graph, layer: Linear, filters: tuple[int, ...] | None = None) -> StoredBytes:
    """The weight (I, O), or of the shape of ``filters`` (O, ...), as bytes; sums over them are exact in 32 bits."""
    exact = layer.dense_weight().float()
    codes, scales = _by_output(layer, exact)
    error = float((codes.float() * scales.unsqueeze(-1) - exact).norm() / exact.norm().clamp(min=1e-30))
    graph.num_rounded += error > 0
    graph.worst_relative_error = max(graph.worst_relative_error, error)
    shaped = codes.t() if filters is None else codes.view(filters)
    zero = graph.constant(torch.tensor(_MIDDLE, dtype=torch.uint8), told=False)
    return StoredBytes(graph.constant(_raised(shaped)), scales, zero)


def _by_output(layer: Linear, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (O, I) of -128 to 127 and a scale per output (O,): the layer's own where it has such."""
    if isinstance(layer.format, IntegerFormat) and layer.format.kind == "int8" and layer.format.group_size is None:
        found = layer.format.restore(layer.packed())
        return found.codes, found.scales.flatten().float()
    scales = (exact.abs().amax(1) / 127).clamp(min=1e-30)
    return (exact / scales.unsqueeze(-1)).round().to(torch.int8), scales
