"""How much a decoder needs each of its neurons, heads, channels and layers: by what flows, or by what the loss says.

Shapes: S samples, T tokens, R rows, I inputs, E hidden width, F inner width, H query heads.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from burnish.compress.chain import decoder_chain
from burnish.compress.statistics import Hook, batches
from burnish.models.decoder import Block, Decoder


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How much the data uses each piece of a decoder."""

    neurons: tuple[Tensor, ...]  # of each layer, (F,)
    heads: tuple[Tensor, ...]  # of each layer, (H,)
    channels: Tensor  # (E,)
    layers: Tensor  # (layers,)


@torch.no_grad()
def by_activations(decoder: Decoder, tokens: Tensor) -> Importance:
    """Run tokens (S, T) through a decoder and see what it uses.

    Neurons by the magnitude of their activation, heads by the size of what they give to the mixture, channels of the
    stream by the magnitude of what all norms give (Minitron, Muralidharan et al. 2024, section 2), layers by how little
    they turn the stream (block influence, Men et al. 2024).
    """
    config, chain = decoder.config, decoder_chain(decoder)
    hidden = chain.begin(tokens)
    channels = torch.zeros(config.hidden_size)
    neurons, heads, turns = [], [], []
    for part in chain.parts[: config.num_layers]:
        block = part.module
        assert isinstance(block, Block)
        neuron, head = _Magnitude(), _Magnitude()
        norms = [_Magnitude(), _Magnitude()]
        turn = 0.0
        behind = []
        with ExitStack() as stack:
            stack.enter_context(Hook(block.mlp.down_proj, neuron))
            stack.enter_context(Hook(block.attn.o_proj, head))
            stack.enter_context(Hook(block.attn.q_proj, norms[0]))
            stack.enter_context(Hook(block.mlp.up_proj, norms[1]))
            for batch in batches(part, hidden):
                out = part.run(batch)
                turn += float((1 - nn.functional.cosine_similarity(batch, out, dim=-1)).sum())
                behind.append(out)
        hidden = torch.cat(behind)
        neurons.append(neuron.absolute)
        heads.append(head.square.view(config.num_heads, -1).sum(1).sqrt())
        channels += norms[0].absolute + norms[1].absolute
        turns.append(turn / tokens.numel())
    return Importance(neurons=tuple(neurons), heads=tuple(heads), channels=channels, layers=torch.tensor(turns))


class _Magnitude:
    """Sums over rows on their way into a layer."""

    def __init__(self) -> None:
        self.absolute = self.square = torch.zeros(())

    def __call__(self, x: Tensor) -> None:
        """Rows (R, I)."""
        self.absolute = self.absolute + x.abs().sum(0)
        self.square = self.square + x.square().sum(0)


def by_gradient(decoder: Decoder, tokens: Tensor) -> Importance:
    """What the loss on tokens (S, T) would change by, to first order, if a piece gave nothing (Molchanov et al. 2017).

    A piece's activation times its gradient, summed over a sample, its magnitude summed over the samples.
    """
    config, blocks = decoder.config, [block for block in decoder.layers if isinstance(block, Block)]
    sums = {place: torch.zeros(()) for place in _places(blocks)}
    turns = torch.zeros(len(blocks))
    for sample in torch.split(tokens, 1):
        seen = _gradients(decoder, blocks, sample)
        for place, change in seen.inputs.items():
            sums[place] = sums[place] + change.abs()
        turns += seen.blocks.abs()
    return Importance(
        neurons=tuple(sums[number, "mlp.down_proj"] for number in range(len(blocks))),
        heads=tuple(sums[number, "attn.o_proj"].view(config.num_heads, -1).sum(1) for number in range(len(blocks))),
        channels=torch.stack([sums[place] for place in sums if place[1] in ("attn.q_proj", "mlp.up_proj")]).sum(0),
        layers=turns,
    )


Place = tuple[int, str]
"""(number of a block, name of one of its layers)"""
_LAYERS = ("mlp.down_proj", "attn.o_proj", "attn.q_proj", "mlp.up_proj")


def _places(blocks: list[Block]) -> list[Place]:
    return [(number, name) for number in range(len(blocks)) for name in _LAYERS]


@dataclass(frozen=True, kw_only=True)
class _Changes:
    """What the loss of a sample would change by without each input of layers, and without each block."""

    inputs: dict[Place, Tensor]  # (I,) each
    blocks: Tensor  # (layers,)


def _gradients(decoder: Decoder, blocks: list[Block], sample: Tensor) -> _Changes:
    """One way forth and back with a sample (1, T)."""
    chain, kept = decoder_chain(decoder), dict[Place, Tensor]()

    def keep(place: Place) -> Callable[[Tensor], None]:
        def see(x: Tensor) -> None:
            x.retain_grad()
            kept[place] = x

        return see

    with ExitStack() as stack, torch.enable_grad():
        for number, name in _places(blocks):
            stack.enter_context(Hook(blocks[number].get_submodule(name), keep((number, name))))
        stream = [chain.begin(sample).requires_grad_()]
        for part in chain.parts[: len(blocks)]:
            stream.append(part.run(stream[-1]))
            stream[-1].retain_grad()
        logits = decoder.logits(decoder.norm(stream[-1].flatten(0, 1)))
        loss = functional.cross_entropy(logits[:-1], sample.flatten()[1:])
        loss.backward()  # type: ignore[no-untyped-call]
    return _Changes(
        inputs={place: _product(x, x).sum(0) for place, x in kept.items()},
        blocks=torch.stack([_product(after, after - before).sum() for before, after in pairwise(stream)]),
    )


@torch.no_grad()
def _product(x: Tensor, change: Tensor) -> Tensor:
    """A change of x times the gradient at x."""
    assert x.grad is not None
    return x.grad * change
