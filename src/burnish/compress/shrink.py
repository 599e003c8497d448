"""Structured shrinking: a decoder with fewer inner neurons, heads, channels or layers, faster on every engine.

What goes is what matters least (``importance``). Where several query heads share a key/value head they are ranked
within it, so that grouped-query attention stays what it is; where none do (multi-head attention) a query head goes
together with its key/value head.

Shapes: E hidden width, F inner width, H query heads, G key/value heads, D head width.
"""

import math
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
    """Shares of each kind that go, 0 to below 1; what is left is rounded to whole heads, layers and multiples of 32.

    ``heads``: of the query heads of every key/value head, or of the pairs of both where there are as many.
    """

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
    heads: tuple[Tensor, ...]  # of queries
    kv_heads: tuple[Tensor, ...]
    channels: Tensor


def shrunk_config(config: DecoderConfig, by: Shrinkage) -> DecoderConfig:
    """The configuration that is left. Raises ``BadSettings`` for a share that takes nothing of its kind."""
    num_layers = _left("layers", config.num_layers, by.layers, 1)
    num_heads, num_kv_heads = _heads_left(config, by.heads)
    return replace(
        config,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        hidden_size=_left("hidden", config.hidden_size, by.hidden, MULTIPLE),
        inner_size=_left("inner", config.inner_size, by.inner, MULTIPLE),
        windows=config.windows[:num_layers],  # ``take`` puts in those of the layers that stay
    )


def _heads_left(config: DecoderConfig, share: float) -> tuple[int, int]:
    """Query heads and key/value heads."""
    group = config.num_heads // config.num_kv_heads
    if group == 1:
        left = _left("heads", config.num_heads, share, 1)
        return left, left
    return _left("heads", group, share, 1) * config.num_kv_heads, config.num_kv_heads


def _left(kind: str, count: int, share: float, multiple: int) -> int:
    """What a share leaves of a count. Raises ``BadSettings`` when that is all."""
    left = whole_left(count, share, multiple)
    if share and left >= count:
        least = least_share(count, multiple)
        remedy = f"Leave {kind} out" if least is None else f"Use {least:g} or more, or leave {kind} out"
        raise BadSettings(
            f"shrink {kind} by {share:g} takes nothing of {count}, kept in multiples of {multiple}", remedy=remedy
        )
    return left


def whole_left(count: int, share: float, multiple: int) -> int:
    """What a share leaves of a count, in multiples, one at least: as much as before where that is nearest."""
    return max(multiple, round(count * (1 - share) / multiple) * multiple) if share else count


def least_share(count: int, multiple: int) -> float | None:
    """The smallest share, in thousandths, that takes something of a count; None where none does."""
    below = (count - 1) // multiple  # multiples that are less than all
    if below == 0:
        return None
    thousandths = math.ceil(1000 * (1 - (below + 0.5) * multiple / count))
    while whole_left(count, thousandths / 1000, multiple) >= count:  # at halves, rounding goes either way
        thousandths += 1
    return thousandths / 1000


def choose(importance: Importance, config: DecoderConfig, target: DecoderConfig) -> Kept:
    """The most important pieces that make up ``target``."""
    layers = _largest(importance.layers, target.num_layers).tolist()
    in_pairs = config.num_kv_heads == config.num_heads

    def heads(of_layer: Tensor) -> Tensor:
        if in_pairs:
            return _largest(of_layer, target.num_heads)
        by_group = of_layer.view(config.num_kv_heads, -1)
        chosen = torch.stack([_largest(group, target.num_heads // config.num_kv_heads) for group in by_group])
        return (chosen + torch.arange(config.num_kv_heads).unsqueeze(1) * by_group.shape[1]).flatten()

    chosen = tuple(heads(importance.heads[layer]) for layer in layers)
    return Kept(
        layers=tuple(layers),
        neurons=tuple(_largest(importance.neurons[layer], target.inner_size) for layer in layers),
        heads=chosen,
        kv_heads=chosen if in_pairs else (torch.arange(config.num_kv_heads),) * len(layers),
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
    for number, (block, layer) in enumerate(zip(made.layers, kept.layers, strict=True)):
        theirs = decoder.layers[layer]
        assert isinstance(block, Block)
        assert isinstance(theirs, Block)
        mixed, shared = (_rows_of(part[number], config.head_dim) for part in (kept.heads, kept.kv_heads))
        _take_attention(block, theirs, channels, mixed, shared)
        _take_mlp(block, theirs, channels, kept.neurons[number])
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


def _take_attention(block: Block, theirs: Block, channels: Tensor, mixed: Tensor, shared: Tensor) -> None:
    """``mixed``: rows of queries that stay, ``shared``: those of keys and values."""
    for name in ("attn_norm", "attn_out_norm"):
        _take_norm(getattr(block, name), getattr(theirs, name), channels)
    attn, source = block.attn, theirs.attn
    _take_linear(attn.q_proj, source.q_proj, mixed, channels)
    _take_linear(attn.k_proj, source.k_proj, shared, channels)
    _take_linear(attn.v_proj, source.v_proj, shared, channels)
    _take_linear(attn.o_proj, source.o_proj, channels, mixed)
    for norm, other in ((attn.q_norm, source.q_norm), (attn.k_norm, source.k_norm)):
        if norm is not None and other is not None:
            norm.weight.copy_(other.weight)


def _take_mlp(block: Block, theirs: Block, channels: Tensor, neurons: Tensor) -> None:
    for name in ("mlp_norm", "mlp_out_norm"):
        _take_norm(getattr(block, name), getattr(theirs, name), channels)
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
