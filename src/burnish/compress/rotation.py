"""A decoder turned into one whose stream and values are rotated: the same function, its outliers spread out.

What writes to the stream is multiplied by a rotation, what reads it by the inverse; values of a head and what the
output projection makes of them likewise. The norms between must not tell columns apart, so their weights move into the
layers behind them and all become one. Everything is done beforehand: nothing is left to do when the model runs.

Source: QuaRot (Ashkboos et al. 2024), sections 4.1 and 4.2, its rotations of the stream and of values; SpinQuant (Liu
et al. 2024) calls them R1 and R2. Shapes: E hidden width, O outputs, I inputs of a layer.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from burnish.compress.fold import set_parameter
from burnish.compress.hadamard import Orthogonal, random_rotation
from burnish.core.errors import BadSettings
from burnish.models.decoder import Block, Decoder, DecoderConfig
from burnish.models.layers.attention import Attention
from burnish.models.layers.linear import Linear
from burnish.models.layers.mlp import GatedMLP
from burnish.models.layers.norm import RMSNorm


def rotated_config(config: DecoderConfig) -> DecoderConfig:
    """The configuration of a rotated decoder: its head, which takes in the last norm's weight, is its own.

    Raises ``BadSettings`` for mechanisms that are another function once columns are mixed.
    """
    faults = {
        "norms that subtract a mean": config.norm != "rms",
        "norms of what attention and MLP return": config.norm_outputs,
        "learned positions": config.learned_positions,
    }
    for fault, is_there in faults.items():
        if is_there:
            raise BadSettings(f"a decoder with {fault} cannot be rotated", remedy="Use a recipe without rotate")
    return replace(config, tied_embeddings=False)


@torch.no_grad()
def rotated(decoder: Decoder, generator: torch.Generator) -> Decoder:
    """A decoder that computes the same, its weights rotated at random; the one given, dense, stays as it is.

    Raises ``BadSettings`` as ``rotated_config`` does.
    """
    config = rotated_config(decoder.config)
    with torch.device("meta"):
        made = Decoder(config)
    embeddings, stream = decoder.embed_tokens.weight, random_rotation(config.hidden_size, generator)
    set_parameter(made.embed_tokens, "weight", stream.turn(embeddings))
    for ours, theirs in zip(made.layers, decoder.layers, strict=True):
        assert isinstance(ours, Block)
        assert isinstance(theirs, Block)
        _rotate_block(ours, theirs, stream, random_rotation(config.head_dim, generator))
    head = embeddings if decoder.config.tied_embeddings else decoder.lm_head.dense_weight()
    set_parameter(made.lm_head, "weight", stream.turn(head * _whole(decoder.norm)))
    _set_to_one(made.norm, like=embeddings)
    return made.eval().requires_grad_(False)


class _Turn(NamedTuple):
    """What happens to a layer whose weight is (O, I)."""

    scales: Tensor | None = None  # (I,) of the norm it reads
    reads: Orthogonal | None = None  # the rotation of its inputs
    writes: Orthogonal | None = None  # of its outputs


def _rotate_block(ours: Block, theirs: Block, stream: Orthogonal, values: Orthogonal) -> None:
    _rotate_attention(ours.attn, theirs.attn, _Turn(_whole(theirs.attn_norm), reads=stream), values)
    behind_norm = _Turn(_whole(theirs.mlp_norm), reads=stream)
    if isinstance(ours.mlp, GatedMLP):
        assert isinstance(theirs.mlp, GatedMLP)
        _take(ours.mlp.gate_proj, theirs.mlp.gate_proj, behind_norm)
    _take(ours.mlp.up_proj, theirs.mlp.up_proj, behind_norm)
    _take(ours.mlp.down_proj, theirs.mlp.down_proj, _Turn(writes=stream))
    for norm in (ours.attn_norm, ours.mlp_norm):
        _set_to_one(norm, like=theirs.attn_norm.weight)


def _rotate_attention(ours: Attention, theirs: Attention, behind_norm: _Turn, values: Orthogonal) -> None:
    """Queries and keys are rotated by position: they read the stream, and stay what they were."""
    _take(ours.q_proj, theirs.q_proj, behind_norm)
    _take(ours.k_proj, theirs.k_proj, behind_norm)
    _take(ours.v_proj, theirs.v_proj, behind_norm._replace(writes=values))
    _take(ours.o_proj, theirs.o_proj, _Turn(reads=values, writes=behind_norm.reads))
    for norm, other in ((ours.q_norm, theirs.q_norm), (ours.k_norm, theirs.k_norm)):
        if norm is not None and other is not None:
            set_parameter(norm, "weight", other.weight.clone())


def _take(ours: Linear, theirs: Linear, turn: _Turn) -> None:
    """Give a layer the turned weight and bias of another."""
    weight = theirs.dense_weight()
    if turn.scales is not None:
        weight = weight * turn.scales
    if turn.reads is not None:
        weight = turn.reads.turn(weight)
    if turn.writes is not None:
        weight = turn.writes.turn_columns(weight)
    set_parameter(ours, "weight", weight)
    if theirs.bias is not None:
        set_parameter(ours, "bias", theirs.bias.clone() if turn.writes is None else turn.writes.turn(theirs.bias))


def _whole(norm: nn.Module) -> Tensor:
    """What a norm multiplies by (E,)."""
    assert isinstance(norm, RMSNorm)
    return norm.weight + norm.offset


def _set_to_one(norm: nn.Module, *, like: Tensor) -> None:
    """Let a norm multiply by one."""
    assert isinstance(norm, RMSNorm)
    set_parameter(norm, "weight", torch.full(norm.weight.shape, 1.0 - norm.offset, dtype=like.dtype))
