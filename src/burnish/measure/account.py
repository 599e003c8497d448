"""What a model's shape costs, by arithmetic alone: parameters, bytes, floating-point operations.

Letters: V vocabulary, E hidden width, F inner width, H query heads, G key/value heads, D head width, L layers.
"""

from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from burnish.core.errors import BadRequest
from burnish.core.types import KeyKind
from burnish.engine.config import EngineConfig, token_bytes
from burnish.models.decoder import DecoderConfig
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.table import FORMATS

KEYS = EngineConfig().keys
RECIPE_FORMATS = ("int8", "int4-g128", "int4-g64", "int4-g32")  # of the blocks; an untied head takes int8


class LinearShape(NamedTuple):
    """One linear layer of a block."""

    name: str
    outputs: int
    inputs: int
    has_bias: bool


class FormatSize(NamedTuple):
    """All weights, compressed into one format as recipes do: what stays dense takes ``dense_itemsize`` bytes each."""

    format: str
    weight_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """The costs of a decoder."""

    num_parameters: int
    num_layer_parameters: int  # in the linear layers of the blocks
    sizes: tuple[FormatSize, ...]  # only formats every layer fits
    keys: KeyKind  # how an engine stores keys and values unless it is told otherwise
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
        keys=KEYS,
        kv_bytes_per_token=kv_bytes_per_token(config, KEYS),
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


def kv_bytes_per_token(config: DecoderConfig, keys: KeyKind) -> int:
    """Keys and values of one token in all layers."""
    return token_bytes(config.num_layers, config.num_kv_heads, config.head_dim, keys)


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
    table = config.vocab_size * config.hidden_size
    num_dense = num_parameters(config) - layers - (0 if config.tied_embeddings else table)
    sizes = [FormatSize("dense", num_parameters(config) * dense_itemsize)]
    for name in RECIPE_FORMATS:
        packed = _packed_bytes(config, FORMATS[name])
        if packed is not None:
            sizes.append(FormatSize(name, num_dense * dense_itemsize + packed))
    return sizes


def _packed_bytes(config: DecoderConfig, weight_format: WeightFormat) -> int | None:
    """Bytes of the blocks' linear weights and of an untied head, None when a layer does not fit the format."""
    try:
        block = sum(_layout_bytes(weight_format, shape.outputs, shape.inputs) for shape in layer_shapes(config))
    except BadRequest:
        return None
    head = 0 if config.tied_embeddings else _layout_bytes(FORMATS["int8"], config.vocab_size, config.hidden_size)
    return config.num_layers * block + head


def _layout_bytes(weight_format: WeightFormat, outputs: int, inputs: int) -> int:
    specs = weight_format.layout(outputs, inputs).values()
    return sum(prod(spec.shape) * spec.dtype.itemsize for spec in specs)
