"""The ONNX graph of an encoder.

Texts are padded and masked there, as that world does: inputs ``input_ids`` and ``attention_mask`` (B, L), outputs
``last_hidden_state`` (B, L, E) and ``sentence_embedding`` (B, E).

Shapes: B texts, L tokens of the longest, E hidden width.
"""

from typing import TYPE_CHECKING

from torch import nn

from burnish.compress.export.onnx_graph import FLOAT, Graph, activation, linear
from burnish.compress.export.target import Progress
from burnish.models.encoder import Encoder, EncoderBlock
from burnish.models.layers.attention import Attention
from burnish.models.layers.norm import LayerNorm

if TYPE_CHECKING:
    import onnx

_MASKED = -1e9  # added to the scores of padding


def encoder_model(graph: Graph, encoder: Encoder, moved: Progress) -> "onnx.ModelProto":
    """Put the encoder into the graph -> the file's content."""
    from onnx import TensorProto

    _encoder(graph, encoder, moved)
    return graph.model(
        "encoder",
        [(name, TensorProto.INT64, ["texts", "tokens"]) for name in ("input_ids", "attention_mask")],
        [
            ("last_hidden_state", FLOAT, ["texts", "tokens", encoder.config.hidden_size]),
            ("sentence_embedding", FLOAT, ["texts", encoder.config.hidden_size]),
        ],
    )


def _encoder(graph: Graph, encoder: Encoder, moved: Progress) -> None:
    x = _begin(graph, encoder)
    mask = graph.node("Cast", "attention_mask", to=FLOAT)
    apart = graph.node("Unsqueeze", graph.node("Sub", graph.numbers(1.0), mask), graph.numbers(1, 2))
    bias = graph.node("Mul", apart, graph.numbers(_MASKED))  # (B, 1, 1, L)
    blocks = [block for block in encoder.layers if isinstance(block, EncoderBlock)]
    for done, block in enumerate(blocks):
        x = _norm(graph, graph.node("Add", x, _attention(graph, x, block.attn, bias)), block.attn_norm)
        inner = activation(graph, linear(graph, x, block.mlp.up_proj), encoder.config.activation)
        x = _norm(graph, graph.node("Add", x, linear(graph, inner, block.mlp.down_proj)), block.mlp_norm)
        moved(done + 1, len(blocks))
    x = graph.node("Identity", x, out="last_hidden_state")
    _pool(graph, encoder, x, mask)


def _begin(graph: Graph, encoder: Encoder) -> str:
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


def _table(graph: Graph, table: nn.Embedding, rows: str) -> str:
    return graph.node("Gather", graph.constant(table.weight.detach().float()), rows, axis=0)


def _attention(graph: Graph, x: str, attention: Attention, bias: str) -> str:
    heads = graph.numbers(0, 0, attention.num_heads, -1)
    q, k, v = (
        graph.node("Reshape", linear(graph, x, layer), heads)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    q = graph.node("Mul", graph.node("Transpose", q, perm=(0, 2, 1, 3)), graph.numbers(float(attention.rule.scale)))
    scores = graph.node("MatMul", q, graph.node("Transpose", k, perm=(0, 2, 3, 1)))
    chances = graph.node("Softmax", graph.node("Add", scores, bias), axis=-1)
    mixed = graph.node("MatMul", chances, graph.node("Transpose", v, perm=(0, 2, 1, 3)))
    rows = graph.node("Reshape", graph.node("Transpose", mixed, perm=(0, 2, 1, 3)), graph.numbers(0, 0, -1))
    return linear(graph, rows, attention.o_proj)


def _norm(graph: Graph, x: str, norm: LayerNorm) -> str:
    weight, bias = (graph.constant(part.detach().float()) for part in (norm.weight, norm.bias))
    return graph.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=float(norm.eps))


def _pool(graph: Graph, encoder: Encoder, x: str, mask: str) -> None:
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
