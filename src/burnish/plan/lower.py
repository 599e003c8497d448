"""A decoder becomes a plan: fused operations over as few buffers as a layer needs.

Shapes: V vocabulary, E hidden width, F inner width, H query heads, G key/value heads, D head width.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from burnish.core.errors import BadCheckpoint, BadRequest
from burnish.kernels.tiles import Tiles, narrowest, pack_codes, pack_floats, stack
from burnish.models.checkpoint import main_format
from burnish.models.decoder import Block, Decoder
from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.layers.linear import Linear as LinearLayer
from burnish.models.layers.mlp import ACTIVATIONS, MLP, GatedMLP
from burnish.models.layers.norm import LayerNorm, RMSNorm
from burnish.plan.ops import (
    LOGITS,
    Activate,
    Activations,
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
    PlanShape,
    Softcap,
)
from burnish.plan.tile_file import Lowered, collect

# The buffers of an arena: the stream, its normalised copy, then what a layer needs in turn.
STREAM, NORMED, WIDE, NARROW = range(4)


def lower(decoder: Decoder, *, float_activations: Collection[str] = ()) -> Plan:
    """The plan of a decoder, all of it in memory. Arguments as for ``lowered``."""
    return collect(lowered(decoder, float_activations=float_activations))


def lowered(decoder: Decoder, *, float_activations: Collection[str] = ()) -> Lowered:
    """The plan of a decoder, its operations made one at a time.

    Integer weights take int8 activations, except those of eight bits with zero points, which no kernel multiplies and
    which become floats, and in the linear layers that ``float_activations`` names (as "layers.3.mlp.down_proj"). Layers
    that share an input share its activations: one that takes floats is enough.
    Raises ``BadRequest`` for a name no linear layer has and ``BadCheckpoint`` for a norm or bias that is no number.
    The operations raise ``BadCheckpoint`` for a weight that is none, ``BadRequest`` for groups without a layout.
    """
    config = decoder.config
    _check_names(decoder, float_activations)
    _check_vectors(decoder)
    shape = PlanShape(config.vocab_size, config.max_positions, config.num_layers, config.num_kv_heads, config.head_dim)
    mixed = config.num_heads * config.head_dim
    qkv = mixed + 2 * config.num_kv_heads * config.head_dim
    inner = config.inner_size * (2 if config.gated_mlp else 1)
    buffers = (config.hidden_size, config.hidden_size, max(qkv, inner), max(mixed, config.inner_size))
    return Lowered(shape, buffers, main_format(decoder), _Lowering(decoder, frozenset(float_activations)).operations())


def _check_names(decoder: Decoder, names: Collection[str]) -> None:
    known = [name for name, module in decoder.named_modules() if isinstance(module, LinearLayer)]
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            remedy = f"Did you mean {close[0]!r}?" if close else f"Names are as {known[-1]!r}"
            raise BadRequest(f"float_activations: the model has no linear layer {name!r}", remedy=remedy)


def _check_vectors(decoder: Decoder) -> None:
    """Norms and biases; matrices are checked when they are packed."""
    for name, parameter in decoder.named_parameters():
        if parameter.dim() == 1 and not parameter.isfinite().all():
            raise BadCheckpoint(f"{name} holds what is no finite number", remedy="Fetch the weights again")


class _Part(NamedTuple):
    """A linear layer and its name."""

    name: str
    layer: LinearLayer


class _Lowering:
    """Walks a decoder in the order of its forward pass."""

    def __init__(self, decoder: Decoder, float_activations: frozenset[str]) -> None:
        self._decoder, self._config = decoder, decoder.config
        self._float = float_activations
        self._names = {module: name for name, module in decoder.named_modules()}
        self._tables: dict[bool, tuple[Floats, Floats]] = {}

    def operations(self) -> Iterator[Operation]:
        decoder, config = self._decoder, self._config
        table = _named("embed_tokens", lambda: _dense_tiles(decoder.embed_tokens.weight))
        positions = None
        if config.learned_positions:
            positions = _named("embed_positions", lambda: _dense_tiles(decoder.embed_positions.weight))
        yield Embed(table=table, positions=positions, scale=config.embedding_scale, out=STREAM)
        for layer, block in enumerate(decoder.layers):
            assert isinstance(block, Block)
            yield from self._attention(layer, block)
            yield from self._mlp(block)
        yield Gather(source=STREAM, out=NORMED)
        yield from self._head(table)
        if config.logit_softcap is not None:
            yield Softcap(buffer=LOGITS, cap=config.logit_softcap)

    def _attention(self, layer: int, block: Block) -> Iterator[Operation]:
        config, attn = self._config, block.attn
        qkv = self._parts(attn.q_proj, attn.k_proj, attn.v_proj)
        yield _norm(block.attn_norm, STREAM, NORMED, quantized=self._activations(qkv) == "int8")
        yield from self._linears(qkv, NORMED, WIDE)
        heads = {"num_heads": config.num_heads, "num_kv_heads": config.num_kv_heads, "head_dim": config.head_dim}
        cos, sin = self._rotation(layer)
        yield Keys(
            layer=layer,
            **heads,
            q_norm=_vector(attn.q_norm.weight + attn.q_norm.offset) if attn.q_norm is not None else None,
            k_norm=_vector(attn.k_norm.weight + attn.k_norm.offset) if attn.k_norm is not None else None,
            eps=config.norm_eps,
            cos=cos,
            sin=sin,
            source=WIDE,
        )
        out = self._parts(attn.o_proj)
        yield Attend(
            layer=layer,
            **heads,
            scale=attn.rule.scale,
            window=attn.rule.window,
            softcap=attn.rule.softcap,
            source=WIDE,
            out=NARROW,
            quantized=self._activations(out) == "int8",
        )
        yield from self._back(out, block.attn_out_norm)

    def _mlp(self, block: Block) -> Iterator[Operation]:
        mlp, width = block.mlp, self._config.inner_size
        assert isinstance(mlp, GatedMLP | MLP)
        ups = self._parts(mlp.gate_proj, mlp.up_proj) if isinstance(mlp, GatedMLP) else self._parts(mlp.up_proj)
        yield _norm(block.mlp_norm, STREAM, NORMED, quantized=self._activations(ups) == "int8")
        yield from self._linears(ups, NORMED, WIDE)
        down = self._parts(mlp.down_proj)
        kind = Gate if isinstance(mlp, GatedMLP) else Activate
        activation = next(name for name, function in ACTIVATIONS.items() if function is mlp.activation)
        quantized = self._activations(down) == "int8"
        yield kind(activation=activation, width=width, source=WIDE, out=NARROW, quantized=quantized)
        yield from self._back(down, block.mlp_out_norm)

    def _back(self, parts: Sequence[_Part], norm: nn.Module) -> Iterator[Operation]:
        """From the narrow buffer onto the stream, through a norm where the family has one there."""
        if isinstance(norm, nn.Identity):
            yield from self._linears(parts, NARROW, STREAM, add=True)
            return
        assert isinstance(norm, RMSNorm | LayerNorm)
        yield from self._linears(parts, NARROW, NORMED)
        yield _norm(norm, NORMED, STREAM, quantized=False, add=True)

    def _head(self, table: Tiles) -> Iterator[Operation]:
        """The last norm and the logits, for the rows that were kept."""
        if self._config.tied_embeddings:
            yield _norm(self._decoder.norm, NORMED, NORMED, quantized=False)
            yield Linear(weight=table, bias=None, activations="f32", source=NORMED, out=LOGITS, column=0, add=False)
            return
        head = self._parts(self._decoder.lm_head)
        yield _norm(self._decoder.norm, NORMED, NORMED, quantized=self._activations(head) == "int8")
        yield from self._linears(head, NORMED, LOGITS)

    def _parts(self, *layers: LinearLayer) -> list[_Part]:
        return [_Part(self._names[layer], layer) for layer in layers]

    def _activations(self, parts: Sequence[_Part]) -> Activations:
        """What layers with one input take: floats as soon as one of them needs floats."""
        formats = [part.layer.format for part in parts]
        integers = all(isinstance(one, IntegerFormat) and one.multiplied_as_integers for one in formats)
        return "int8" if integers and not any(part.name in self._float for part in parts) else "f32"

    def _linears(
        self, parts: Sequence[_Part], source: Buffer, out: Buffer, *, add: bool = False
    ) -> Iterator[Operation]:
        """One operation when the layers are stored alike, else one each, side by side."""
        tiles = [_named(part.name, partial(_tiles, part.layer)) for part in parts]
        biases = [part.layer.bias for part in parts]
        joined = stack(tiles) if len(tiles) > 1 and len({bias is None for bias in biases}) == 1 else None
        if joined is not None:
            tiles = [joined]
            whole = [_vector(bias) for bias in biases if bias is not None]
            vectors = [np.concatenate(whole) if whole else None]
        else:
            vectors = [None if bias is None else _vector(bias) for bias in biases]
        column, activations = 0, self._activations(parts)
        for weight, bias in zip(tiles, vectors, strict=True):
            yield Linear(
                weight=weight, bias=bias, activations=activations, source=source, out=out, column=column, add=add
            )
            column += weight.outputs

    def _rotation(self, layer: int) -> tuple[Floats | None, Floats | None]:
        if self._config.learned_positions:
            return None, None
        local = self._config.window_rope_theta is not None and self._config.window(layer) is not None
        if local not in self._tables:
            cos, sin = self._decoder.rotary_tables(local)
            self._tables[local] = _vector(cos), _vector(sin)
        return self._tables[local]


def _norm(norm: nn.Module, source: Buffer, out: Buffer, *, quantized: bool, add: bool = False) -> Norm:
    assert isinstance(norm, RMSNorm | LayerNorm)
    is_rms = isinstance(norm, RMSNorm)
    weight = norm.weight + norm.offset if isinstance(norm, RMSNorm) else norm.weight
    return Norm(
        kind="rms" if is_rms else "layer",
        weight=_vector(weight),
        bias=None if isinstance(norm, RMSNorm) else _vector(norm.bias),
        eps=norm.eps,
        source=source,
        out=out,
        add=add,
        quantized=quantized,
    )


def _named(name: str, pack: Callable[[], Tiles]) -> Tiles:
    """What ``pack`` makes; its faults say whose weight it is."""
    try:
        return pack()
    except (BadCheckpoint, BadRequest) as error:
        raise type(error)(f"{name}: {error.message}", remedy=error.remedy) from None


def _tiles(layer: LinearLayer) -> Tiles:
    """A linear layer's weight in the kernels' layout: integers as they are stored, everything else as floats."""
    if not (isinstance(layer.format, IntegerFormat) and layer.format.multiplied_as_integers):
        return _dense_tiles(layer.dense_weight())
    quantized: Quantized = layer.format.restore(layer.packed())
    zeros = getattr(quantized, "zeros", None)
    scales = quantized.scales.float().numpy()
    return pack_codes(quantized.codes.numpy(), scales, None if zeros is None else zeros.numpy(), layer.format.kind)


def _dense_tiles(weight: Tensor) -> Tiles:
    """A float weight in the smallest kind that holds it as it is."""
    values = _vector(weight)
    return pack_floats(values, narrowest(values))


def _vector(tensor: Tensor) -> Floats:
    values: Floats = tensor.detach().float().contiguous().numpy()
    return values
