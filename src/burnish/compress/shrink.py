"""Structured shrinking: a decoder with fewer inner neurons, heads, channels or layers, faster on every engine.

What goes is what matters least (``importance``). Query heads are ranked within their key/value head, so that
grouped-query attention stays what it is.

Shapes: E hidden width, F inner width, H query heads, G key/value heads, D head width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from burnish.compress.importance import Importance
from burnish.core.errors import BadSettings
from burnish.models.decoder import Block, Decoder, DecoderConfig
from burnish.models.formats.dense import Dense
from burnish.models.layers.linear import Linear
from burnish.models.layers.mlp import GatedMLP
from burnish.models.layers.norm import LayerNorm, RMSNorm

MULTIPLE = 32  # of widths that are left: what kernels and groups of weights like


@dataclass(frozen=True, kw_only=True)
class Shrinkage:
    """Shares of each kind that go, 0 to below 1; what is left is rounded to whole heads, layers and multiples of 32."""

    inner: float = 0.0
    heads: float = 0.0
    hidden: float = 0.0
    layers: float = 0.0

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for a share that leaves nothing or nothing to do."""
        for name in ("inner", "heads", "hidden", "layers"):
            if not 0 <= getattr(self, name) < 1:
                raise BadSettings(f"shrink {name} by {getattr(self, name)}", remedy="Use a share of 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The pieces that stay, in their order. Neurons and heads of the layers that stay only."""

    layers: tuple[int, ...]
    neurons: tuple[Tensor, ...]
    heads: tuple[Tensor, ...]
    channels: Tensor


def shrunk_config(config: DecoderConfig, by: Shrinkage) -> DecoderConfig:
    """The configuration that is left. Raises ``BadSettings`` when a share leaves nothing of a kind."""
    group = config.num_heads // config.num_kv_heads
    num_layers, num_heads = _left(config.num_layers, by.layers, 1), _left(group, by.heads, 1) * config.num_kv_heads
    return replace(
        config,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_size=_left(config.hidden_size, by.hidden, MULTIPLE),
        inner_size=_left(config.inner_size, by.inner, MULTIPLE),
        windows=config.windows[:num_layers],  # ``take`` puts in those of the layers that stay
    )


def _left(count: int, share: float, multiple: int) -> int:
    if share == 0:
        return count
    return max(multiple, round(count * (1 - share) / multiple) * multiple)


def choose(importance: Importance, config: DecoderConfig, target: DecoderConfig) -> Kept:
    """The most important pieces that make up ``target``."""
    layers = _largest(importance.layers, target.num_layers).tolist()
    kept_of_group = target.num_heads // config.num_kv_heads

    def heads(of_layer: Tensor) -> Tensor:
        by_group = of_layer.view(config.num_kv_heads, -1)
        chosen = torch.stack([_largest(group, kept_of_group) for group in by_group])
        return (chosen + torch.arange(config.num_kv_heads).unsqueeze(1) * by_group.shape[1]).flatten()

    return Kept(
        layers=tuple(layers),
        neurons=tuple(_largest(importance.neurons[layer], target.inner_size) for layer in layers),
        heads=tuple(heads(importance.heads[layer]) for layer in layers),
        channels=_largest(importance.channels, target.hidden_size),
    )


def _largest(values: Tensor, count: int) -> Tensor:
    """Places of the largest values, in order."""
    return values.argsort(descending=True, stable=True)[:count].sort().values


@torch.no_grad()
def take(decoder: Decoder, target: DecoderConfig, kept: Kept) -> Decoder:
    """A decoder of the pieces that stay. Raises ``BadSettings`` for one whose weights are packed."""
    config = decoder.config
    for name, module in decoder.named_modules():
        if isinstance(module, Linear) and not isinstance(module.format, Dense):
            raise BadSettings(f"layer {name} is stored as {module.format.name}", remedy="Shrink the dense parent")
    windows = tuple(config.windows[layer] for layer in kept.layers) if config.windows else ()
    scale = config.attention_scale  # the width of a head stays, and with it the default
    made = Decoder(replace(target, windows=windows, attention_scale=scale)).eval().requires_grad_(False)
    channels = kept.channels
    made.embed_tokens.weight.copy_(decoder.embed_tokens.weight[:, channels])
    if config.learned_positions:
        made.embed_positions.weight.copy_(decoder.embed_positions.weight[:, channels])
    for block, layer, neurons, heads in zip(made.layers, kept.layers, kept.neurons, kept.heads, strict=True):
        theirs = decoder.layers[layer]
        assert isinstance(block, Block)
        assert isinstance(theirs, Block)
        _take_block(block, theirs, channels, neurons, _rows_of(heads, config.head_dim))
    _take_norm(made.norm, decoder.norm, channels)
    if not config.tied_embeddings:
        _take_linear(_head_of(made), _head_of(decoder), None, channels)
    return made


def _head_of(decoder: Decoder) -> Linear:
    head = decoder.lm_head
    assert isinstance(head, Linear)
    return head


def _rows_of(heads: Tensor, width: int) -> Tensor:
    """Rows of a projection that belong to heads."""
    return (heads.unsqueeze(1) * width + torch.arange(width)).flatten()


def _take_block(block: Block, theirs: Block, channels: Tensor, neurons: Tensor, mixed: Tensor) -> None:
    norms = ("attn_norm", "mlp_norm", "attn_out_norm", "mlp_out_norm")
    for name in norms:
        _take_norm(getattr(block, name), getattr(theirs, name), channels)
    attn, source = block.attn, theirs.attn
    _take_linear(attn.q_proj, source.q_proj, mixed, channels)
    _take_linear(attn.k_proj, source.k_proj, None, channels)
    _take_linear(attn.v_proj, source.v_proj, None, channels)
    _take_linear(attn.o_proj, source.o_proj, channels, mixed)
    for norm, other in ((attn.q_norm, source.q_norm), (attn.k_norm, source.k_norm)):
        if norm is not None and other is not None:
            norm.weight.copy_(other.weight)
    if isinstance(block.mlp, GatedMLP):
        assert isinstance(theirs.mlp, GatedMLP)
        _take_linear(block.mlp.gate_proj, theirs.mlp.gate_proj, neurons, channels)
    _take_linear(block.mlp.up_proj, theirs.mlp.up_proj, neurons, channels)
    _take_linear(block.mlp.down_proj, theirs.mlp.down_proj, channels, neurons)


def _take_linear(layer: Linear, source: Linear, rows: Tensor | None, columns: Tensor) -> None:
    """Copy the rows (all: None) and columns that stay."""
    weight = source.dense_weight()
    layer.weight.copy_((weight if rows is None else weight[rows])[:, columns])
    if layer.bias is not None and source.bias is not None:
        layer.bias.copy_(source.bias if rows is None else source.bias[rows])


def _take_norm(norm: nn.Module, source: nn.Module, channels: Tensor) -> None:
    if isinstance(norm, RMSNorm | LayerNorm):
        assert isinstance(source, RMSNorm | LayerNorm)
        norm.weight.copy_(source.weight[channels])
        if isinstance(norm, LayerNorm) and isinstance(source, LayerNorm):
            norm.bias.copy_(source.bias[channels])
