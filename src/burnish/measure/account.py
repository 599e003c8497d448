"""What a model's shape costs, by arithmetic alone: parameters, bytes, floating-point operations.

Letters: V vocabulary, E hidden width, F inner width, H query heads, G key/value heads, D head width, L layers.
"""

from dataclasses import dataclass
from typing import NamedTuple

from burnish.core.errors import BadRequest
from burnish.models.decoder import DecoderConfig
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.table import FORMATS


class LinearShape(NamedTuple):
    """One linear layer of a block."""

    name: str
    outputs: int
    inputs: int
    has_bias: bool


class FormatSize(NamedTuple):
    """All weights, with the layers' in one format and the rest as ``dense_itemsize`` bytes each."""

    format: str
    weight_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The costs of a decoder."""

    num_parameters: int
    num_layer_parameters: int  # in the linear layers of the blocks: what a recipe compresses
    sizes: tuple[FormatSize, ...]  # only formats every layer fits
    kv_bytes_per_token: int
    flops_per_token: int  # with an empty context
    flops_per_token_full: int  # with a full context


def account(config: DecoderConfig, *, dense_itemsize: int = 4) -> Account:
    """The costs of a decoder of this shape; ``dense_itemsize`` is that of uncompressed weights (2: bfloat16)."""
    shapes = layer_shapes(config)
    return Account(
        num_parameters=num_parameters(config),
        num_layer_parameters=config.num_layers * sum(shape.outputs * shape.inputs for shape in shapes),
        sizes=tuple(_sizes(config, dense_itemsize)),
        kv_bytes_per_token=kv_bytes_per_token(config),
        flops_per_token=flops_per_token(config, context=0),
        flops_per_token_full=flops_per_token(config, context=config.max_positions),
    )


def layer_shapes(config: DecoderConfig) -> tuple[LinearShape, ...]:
    """The linear layers of one block."""
    queries, keys = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    hidden, inner = config.hidden_size, config.inner_size
    gate = (LinearShape("gate_proj", inner, hidden, config.mlp_bias),) if config.gated_mlp else ()
    return (
        LinearShape("q_proj", queries, hidden, config.qkv_bias),
        LinearShape("k_proj", keys, hidden, config.qkv_bias),
        LinearShape("v_proj", keys, hidden, config.qkv_bias),
        LinearShape("o_proj", hidden, queries, config.out_bias),
        *gate,
        LinearShape("up_proj", inner, hidden, config.mlp_bias),
        LinearShape("down_proj", hidden, inner, config.mlp_bias),
    )


def num_parameters(config: DecoderConfig) -> int:
    """Every trained number, a tied head counted once."""
    norm = config.hidden_size * (2 if config.norm == "layer" else 1)
    linears = sum(shape.outputs * (shape.inputs + shape.has_bias) for shape in layer_shapes(config))
    norms = norm * (4 if config.norm_outputs else 2) + 2 * config.head_dim * config.qk_norm
    tables = config.vocab_size * (1 if config.tied_embeddings else 2) + config.max_positions * config.learned_positions
    return tables * config.hidden_size + config.num_layers * (linears + norms) + norm


def kv_bytes_per_token(config: DecoderConfig, *, itemsize: int = 4) -> int:
    """Keys and values of one token in all layers."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * itemsize


def flops_per_token(config: DecoderConfig, *, context: int) -> int:
    """Floating-point operations of one decoded token that sees ``context`` tokens; a multiply-add counts two.

    Matrix products only, the output head included: norms, rotations and activations are well below a hundredth.
    """
    weights = config.num_layers * sum(shape.outputs * shape.inputs for shape in layer_shapes(config))
    seen = sum(min(context, config.window(layer) or context) for layer in range(config.num_layers))
    products = weights + config.vocab_size * config.hidden_size + 2 * config.num_heads * config.head_dim * seen
    return 2 * products


def _sizes(config: DecoderConfig, dense_itemsize: int) -> list[FormatSize]:
    layers = config.num_layers * sum(shape.outputs * shape.inputs for shape in layer_shapes(config))
    rest = (num_parameters(config) - layers) * dense_itemsize
    sizes = []
    for name, weight_format in FORMATS.items():
        packed = layers * dense_itemsize if name == "dense" else _packed_bytes(config, weight_format)
        if packed is not None:
            sizes.append(FormatSize(name, rest + packed))
    return sizes


def _packed_bytes(config: DecoderConfig, weight_format: WeightFormat) -> int | None:
    """Bytes of the blocks' linear weights, None when one does not fit the format."""
    total = 0
    for shape in layer_shapes(config):
        try:
            layout = weight_format.layout(shape.outputs, shape.inputs)
        except BadRequest:
            return None
        for spec in layout.values():
            count = 1
            for size in spec.shape:
                count *= size
            total += count * spec.dtype.itemsize
    return config.num_layers * total
