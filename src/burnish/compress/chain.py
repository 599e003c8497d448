"""A model as a chain of parts, compressed one after the other, each fed with what those before it give.

Shapes: S samples, T tokens of a sample, E hidden width.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from burnish.models.decoder import Block, Decoder
from burnish.models.encoder import Encoder, EncoderBlock, full_attend
from burnish.models.layers.attention import causal_attend
from burnish.models.layers.linear import Linear
from burnish.models.layers.mlp import ACTIVATIONS, GatedMLP

HEAD = "lm_head"


@dataclass(frozen=True, kw_only=True)
class SharedInput:
    """Linear layers that read the same rows, and who makes these rows.

    ``source``: a norm whose weight, or a linear layer whose outputs, can be divided by a scale per column while the
    layers' columns are multiplied by it, and the model stays the same function. None: nobody can.
    """

    layers: tuple[str, ...]
    source: nn.Module | None


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a model that is compressed at once. Layers are called as in the whole model."""

    name: str
    module: nn.Module
    layers: Mapping[str, Linear]
    inputs: tuple[SharedInput, ...]
    run: Callable[[Tensor], Tensor]  # (S, T, E) -> (S, T, E), of the last part (S, T, V)

    def without(self, names: Collection[str]) -> "Part":
        """The part as it shows itself to a pass that leaves these layers alone."""
        left = [replace(shared, layers=tuple(n for n in shared.layers if n not in names)) for shared in self.inputs]
        layers = {name: layer for name, layer in self.layers.items() if name not in names}
        return replace(self, layers=layers, inputs=tuple(shared for shared in left if shared.layers))


@dataclass(frozen=True, kw_only=True)
class Chain:
    """What makes the first part's input of samples (S, T), and the parts.

    ``door``: what flows into the part of that number, where that is not what the part before it gives.
    """

    begin: Callable[[Tensor], Tensor]
    parts: tuple[Part, ...]
    door: Callable[[int], Tensor] | None = None

    @property
    def layers(self) -> dict[str, Linear]:
        """All layers, in order."""
        return {name: layer for part in self.parts for name, layer in part.layers.items()}


def chain_of(model: Decoder | Encoder) -> Chain:
    """The chain of a model of either kind."""
    return decoder_chain(model) if isinstance(model, Decoder) else encoder_chain(model)


def decoder_chain(decoder: Decoder) -> Chain:
    """A decoder's layers, then its head if it has one of its own. A tied head stays what the embedding is."""
    parts = [_layer(decoder, number) for number in range(decoder.config.num_layers)]
    if not decoder.config.tied_embeddings:
        parts.append(_head(decoder))
    return Chain(begin=partial(_embed, decoder), parts=tuple(parts))


def encoder_chain(encoder: Encoder) -> Chain:
    """An encoder's layers. Samples are whole texts of one length."""
    return Chain(
        begin=partial(_begin_encoder, encoder),
        parts=tuple(_encoder_layer(encoder, number) for number in range(encoder.config.num_layers)),
    )


def _begin_encoder(encoder: Encoder, tokens: Tensor) -> Tensor:
    """tokens (S, T) -> (S, T, E)."""
    samples, length = tokens.shape
    return encoder.begin(tokens.flatten(), torch.arange(length).repeat(samples)).view(samples, length, -1)


def _encoder_layer(encoder: Encoder, number: int) -> Part:
    block = encoder.layers[number]
    assert isinstance(block, EncoderBlock)
    name = f"layers.{number}"
    passes_on = block.mlp.activation is ACTIVATIONS["relu"]
    return Part(
        name=name,
        module=block,
        layers={f"{name}.{inner}": layer for inner, layer in block.named_modules() if isinstance(layer, Linear)},
        inputs=(
            # a norm's rows go on as the stream itself: nothing can be divided there
            SharedInput(layers=tuple(f"{name}.attn.{x}_proj" for x in "qkv"), source=None),
            SharedInput(layers=(f"{name}.attn.o_proj",), source=block.attn.v_proj),
            SharedInput(layers=(f"{name}.mlp.up_proj",), source=None),
            SharedInput(layers=(f"{name}.mlp.down_proj",), source=block.mlp.up_proj if passes_on else None),
        ),
        run=partial(_run_encoder_layer, block),
    )


def _run_encoder_layer(block: EncoderBlock, x: Tensor) -> Tensor:
    samples, length, _ = x.shape
    out: Tensor = block(x.flatten(0, 1), full_attend([length] * samples))
    return out.view(x.shape)


def _embed(decoder: Decoder, tokens: Tensor) -> Tensor:
    """tokens (S, T) -> (S, T, E)."""
    samples, length = tokens.shape
    return decoder.embed(tokens.flatten(), torch.arange(length).repeat(samples)).view(samples, length, -1)


def _layer(decoder: Decoder, number: int) -> Part:
    block = decoder.layers[number]
    assert isinstance(block, Block)
    name = f"layers.{number}"
    return Part(
        name=name,
        module=block,
        layers={f"{name}.{inner}": layer for inner, layer in block.named_modules() if isinstance(layer, Linear)},
        inputs=tuple(_shared_inputs(block, name)),
        run=partial(_run_layer, decoder, number),
    )


def _run_layer(decoder: Decoder, number: int, x: Tensor) -> Tensor:
    samples, length, _ = x.shape
    rotation = decoder.rotations(torch.arange(length).repeat(samples))[number]
    out: Tensor = decoder.layers[number](x.flatten(0, 1), rotation, causal_attend(samples, length))
    return out.view(x.shape)


def _shared_inputs(block: Block, name: str) -> list[SharedInput]:
    attn, mlp = block.attn, block.mlp
    gated = isinstance(mlp, GatedMLP)
    # every query head has its own value head: what divides a value's column divides one column of the mixture
    is_one_to_one = attn.num_heads == attn.num_kv_heads
    # the gate multiplies; of the other activations only relu lets a factor through
    passes_on = gated or mlp.activation is ACTIVATIONS["relu"]
    ups = (f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj") if gated else (f"{name}.mlp.up_proj",)
    return [
        SharedInput(layers=tuple(f"{name}.attn.{x}_proj" for x in "qkv"), source=block.attn_norm),
        SharedInput(layers=(f"{name}.attn.o_proj",), source=attn.v_proj if is_one_to_one else None),
        SharedInput(layers=ups, source=block.mlp_norm),
        SharedInput(layers=(f"{name}.mlp.down_proj",), source=mlp.up_proj if passes_on else None),
    ]


def _head(decoder: Decoder) -> Part:
    return Part(
        name=HEAD,
        module=nn.ModuleDict({"norm": decoder.norm, HEAD: decoder.lm_head}),
        layers={HEAD: decoder.lm_head},
        inputs=(SharedInput(layers=(HEAD,), source=decoder.norm),),
        run=partial(_run_head, decoder),
    )


def _run_head(decoder: Decoder, x: Tensor) -> Tensor:
    samples, length, _ = x.shape
    return decoder.logits(decoder.norm(x.flatten(0, 1))).view(samples, length, -1)
