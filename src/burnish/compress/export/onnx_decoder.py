"""The ONNX graph of a decoder, as ONNX Runtime's generators feed one.

Inputs ``input_ids`` (B, L), ``attention_mask`` (B, P + L), which is 0 behind a prompt that is shorter than others, and
``past_key_values.{layer}.key`` and ``.value`` (B, G, P, D); outputs ``logits`` (B, L, V), ``present.{layer}.key`` and
``.value`` (B, G, P + L, D). Integer weights are multiplied as they are stored, by MatMulNBits; attention with its
rotation and cache is GroupQueryAttention. Both are ONNX Runtime's own operators (contrib, com.microsoft).

Shapes: B texts, P tokens before, L tokens now, E hidden width, H heads, G heads of keys and values, D head width,
V vocabulary, I inputs, O outputs, N blocks of inputs.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from burnish.compress.export.onnx_graph import FLOAT, Declared, Graph, activation, bias_of, linear
from burnish.compress.export.target import Progress
from burnish.core.errors import BadSettings
from burnish.models.decoder import Block, Decoder, DecoderConfig
from burnish.models.formats.integer import IntegerFormat
from burnish.models.layers.attention import Attention
from burnish.models.layers.linear import Linear
from burnish.models.layers.mlp import MLP, GatedMLP
from burnish.models.layers.norm import LayerNorm, RMSNorm

if TYPE_CHECKING:
    import onnx

CONTRIB = "com.microsoft"
INT32 = 6  # ONNX's word
OPSET = 23  # the first with RMSNormalization
_LEAST_BLOCK, _WIDEST_BLOCK = 16, 128  # inputs of a block, a power of two
_NIBBLE = 4  # bits
_INT8_INPUTS = 4  # accuracy_level: inputs are rounded to bytes block by block, as our own kernels do row by row


def check_decoder(config: DecoderConfig) -> None:
    """Raise ``BadSettings`` for a decoder that ONNX Runtime could not run."""
    multiple = 8 if config.learned_positions else 16
    if config.head_dim % multiple:
        raise BadSettings(
            f"heads are {config.head_dim} wide, and ONNX Runtime's attention takes multiples of {multiple}",
            remedy="Use --to gguf",
        )


def decoder_model(graph: Graph, decoder: Decoder, moved: Progress) -> "onnx.ModelProto":
    """Put the decoder into the graph -> the file's content."""
    config = decoder.config
    frame = _frame(graph, decoder)
    table = _table(graph, decoder.embed_tokens)
    x = _embedded(graph, decoder, table)
    for number, block in enumerate(decoder.layers):
        assert isinstance(block, Block)
        x = _block(graph, x, block, frame, config.activation)
        moved(number + 1, len(decoder.layers))
    x = _norm(graph, x, decoder.norm)
    if config.tied_embeddings:
        logits = graph.node("FusedMatMul", x, table, transB=1, domain=CONTRIB)
    else:
        logits = _linear(graph, x, decoder.lm_head)
    graph.node("Identity", _capped(graph, logits, config.logit_softcap), out="logits")
    return graph.model("decoder", *_declared(config), opset=OPSET)


def _declared(config: DecoderConfig) -> tuple[Declared, Declared]:
    """Inputs and outputs."""
    from onnx import TensorProto

    given: Declared = [
        ("input_ids", TensorProto.INT64, ["texts", "tokens"]),
        ("attention_mask", TensorProto.INT64, ["texts", "all_tokens"]),
    ]
    made: Declared = [("logits", FLOAT, ["texts", "tokens", config.vocab_size])]
    names = [f"{layer}.{kind}" for layer in range(config.num_layers) for kind in ("key", "value")]
    heads, width = config.num_kv_heads, config.head_dim
    past: Declared = [(f"past_key_values.{name}", FLOAT, ["texts", heads, "past", width]) for name in names]
    present: Declared = [(f"present.{name}", FLOAT, ["texts", heads, "all_tokens", width]) for name in names]
    return [*given, *past], [*made, *present]


class _Frame(NamedTuple):
    """What all layers share, by name in the graph."""

    lengths: str  # (B,) of each text with what came before, minus 1
    longest: str  # of them, a scalar
    rotations: list[tuple[str, ...]]  # of each layer: cosines and sines (positions, D / 2), or none


def _frame(graph: Graph, decoder: Decoder) -> _Frame:
    counts = graph.node("ReduceSum", "attention_mask", graph.numbers(1), keepdims=0)
    lengths = graph.node("Cast", graph.node("Sub", counts, graph.numbers(1)), to=INT32)
    longest = graph.node("Cast", _size(graph, "attention_mask", 1), to=INT32)
    return _Frame(lengths, longest, _rotations(graph, decoder))


def _rotations(graph: Graph, decoder: Decoder) -> list[tuple[str, ...]]:
    """Layers that rotate alike share their tables."""
    layers = range(decoder.config.num_layers)
    if decoder.config.learned_positions:
        return [() for _ in layers]
    kinds = sorted({decoder.is_local(layer) for layer in layers})
    made = {
        local: tuple(graph.constant(table, told=False) for table in decoder.rotary_tables(local)) for local in kinds
    }
    return [made[decoder.is_local(layer)] for layer in layers]


def _size(graph: Graph, x: str, axis: int) -> str:
    return graph.node("Squeeze", graph.node("Gather", graph.node("Shape", x), graph.numbers(axis), axis=0))


def _capped(graph: Graph, logits: str, cap: float | None) -> str:
    if cap is None:
        return logits
    limit = graph.numbers(float(cap))
    return graph.node("Mul", graph.node("Tanh", graph.node("Div", logits, limit)), limit)


def _embedded(graph: Graph, decoder: Decoder, table: str) -> str:
    x = graph.node("Gather", table, "input_ids", axis=0)
    if decoder.config.embedding_scale != 1.0:
        x = graph.node("Mul", x, graph.numbers(float(decoder.config.embedding_scale)))
    if not decoder.config.learned_positions:
        return x
    begin, end = _size(graph, "past_key_values.0.key", 2), _size(graph, "attention_mask", 1)
    positions = graph.node("Range", begin, end, graph.node("Squeeze", graph.numbers(1)))
    return graph.node("Add", x, graph.node("Gather", _table(graph, decoder.embed_positions), positions, axis=0))


def _table(graph: Graph, embedding: torch.nn.Embedding) -> str:
    """Stored in the narrowest type that holds it exactly."""
    values = embedding.weight.detach()
    exact = (kind for kind in (torch.bfloat16, torch.float16) if torch.equal(values.to(kind).to(values.dtype), values))
    return graph.node("Cast", graph.constant(values.to(next(exact, torch.float32))), to=FLOAT)


def _block(graph: Graph, x: str, block: Block, frame: _Frame, activated: str) -> str:
    mixed = _attention(graph, _norm(graph, x, block.attn_norm), block.attn, frame)
    x = graph.node("Add", x, _norm(graph, mixed, block.attn_out_norm))
    inner = _mlp(graph, _norm(graph, x, block.mlp_norm), block.mlp, activated)
    return graph.node("Add", x, _norm(graph, inner, block.mlp_out_norm))


def _attention(graph: Graph, x: str, attention: Attention, frame: _Frame) -> str:
    rule = attention.rule
    q = _heads_normed(graph, _linear(graph, x, attention.q_proj), attention.q_norm, attention.head_dim)
    k = _heads_normed(graph, _linear(graph, x, attention.k_proj), attention.k_norm, attention.head_dim)
    v = _linear(graph, x, attention.v_proj)
    past = [f"past_key_values.{rule.layer}.{kind}" for kind in ("key", "value")]
    present = [f"present.{rule.layer}.{kind}" for kind in ("key", "value")]
    mixed = f"attention_{rule.layer}"
    rotation = frame.rotations[rule.layer]
    graph.named(
        "GroupQueryAttention",
        *(q, k, v, *past, frame.lengths, frame.longest, *rotation),
        outputs=[mixed, *present],
        domain=CONTRIB,
        num_heads=attention.num_heads,
        kv_num_heads=attention.num_kv_heads,
        scale=float(rule.scale),
        do_rotary=int(bool(rotation)),
        local_window_size=-1 if rule.window is None else rule.window,
        softcap=float(rule.softcap or 0.0),
    )
    return _linear(graph, mixed, attention.o_proj)


def _heads_normed(graph: Graph, x: str, norm: RMSNorm | None, width: int) -> str:
    """x (B, L, H * D), each head normalised."""
    if norm is None:
        return x
    heads = graph.node("Reshape", x, graph.numbers(0, 0, -1, width))
    return graph.node("Reshape", _norm(graph, heads, norm), graph.numbers(0, 0, -1))


def _mlp(graph: Graph, x: str, mlp: torch.nn.Module, name: str) -> str:
    assert isinstance(mlp, GatedMLP | MLP)
    if isinstance(mlp, MLP):
        return _linear(graph, activation(graph, _linear(graph, x, mlp.up_proj), name), mlp.down_proj)
    gates = activation(graph, _linear(graph, x, mlp.gate_proj), name)
    return _linear(graph, graph.node("Mul", gates, _linear(graph, x, mlp.up_proj)), mlp.down_proj)


def _norm(graph: Graph, x: str, norm: torch.nn.Module) -> str:
    if isinstance(norm, LayerNorm):
        weight, bias = (graph.constant(part.detach().float()) for part in (norm.weight, norm.bias))
        return graph.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=float(norm.eps))
    if isinstance(norm, RMSNorm):
        weight = graph.constant(norm.weight.detach().float() + norm.offset)
        return graph.node("RMSNormalization", x, weight, axis=-1, epsilon=float(norm.eps))
    return x


def _linear(graph: Graph, x: str, layer: Linear) -> str:
    """x (B, L, I) -> (B, L, O); integers are multiplied as they are stored, unless another type was asked for."""
    width = _block_size(layer)
    if graph.kind != "auto" or not isinstance(layer.format, IntegerFormat) or width is None:
        return linear(graph, x, layer)
    found = layer.format.restore(layer.packed())
    bits, blocks = _NIBBLE if layer.format.bits <= _NIBBLE else 8, layer.in_features // width
    lowest = layer.format.lowest if found.zeros is not None else -(1 << (bits - 1))
    raised = found.codes.to(torch.int16) - lowest
    repeats = blocks // found.scales.shape[1]
    stored = [graph.constant(_joined(raised, bits).view(layer.out_features, blocks, -1), told=False)]
    stored += [graph.constant(found.scales.float().repeat_interleave(repeats, 1), told=False)]
    if found.zeros is not None:
        zeros = found.zeros.to(torch.int16).repeat_interleave(repeats, 1) - lowest
        stored += [graph.constant(_joined(zeros, bits), told=False)]
    graph.types[f"int{bits}"] += 1
    product = graph.node(
        "MatMulNBits",
        *(x, *stored),
        domain=CONTRIB,
        K=layer.in_features,
        N=layer.out_features,
        bits=bits,
        block_size=width,
        accuracy_level=_INT8_INPUTS,
    )
    return bias_of(graph, product, layer)


def _block_size(layer: Linear) -> int | None:
    """Inputs of a block of the operator: those of a group, or the widest blocks whose scales may be repeated."""
    if not isinstance(layer.format, IntegerFormat):
        return None
    group = layer.format.group_size or layer.in_features
    width = min(group & -group, _WIDEST_BLOCK)
    return width if width >= _LEAST_BLOCK else None


def _joined(values: Tensor, bits: int) -> Tensor:
    """Values (R, C) of 0 to 2^bits - 1 as bytes, two of four bits in each, the first in the lower half."""
    if bits == 8:
        return values.to(torch.uint8)
    halves = torch.nn.functional.pad(values, (0, values.shape[1] % 2)).view(len(values), -1, 2)
    return (halves[..., 0] | halves[..., 1] << _NIBBLE).to(torch.uint8)
