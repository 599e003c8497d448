"""Parts and inputs made for tests of passes."""

import torch
from torch import Tensor

from burnish.compress.chain import Part, SharedInput
from burnish.compress.statistics import Inputs
from burnish.models.decoder import Block, Decoder
from burnish.models.layers.linear import Linear


def part_of(layer: Linear, name: str = "layer") -> Part:
    """A part of one layer, fed as it is."""

    def run(x: Tensor) -> Tensor:
        out: Tensor = layer(x.flatten(0, 1))
        return out.view(*x.shape[:2], -1)

    return Part(
        name=name,
        module=layer,
        layers={name: layer},
        inputs=(SharedInput(layers=(name,), source=None),),
        run=run,
    )


def blocks(decoder: Decoder) -> list[Block]:
    """The layers of a decoder, known as what they are."""
    return [block for block in decoder.layers if isinstance(block, Block)]


def correlated(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Rows (R, I) as layers see them: correlated, with a few columns far larger than the others."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.empty(columns, columns).normal_(generator=generator) / columns**0.5
    sizes = torch.empty(columns).log_normal_(0, 1, generator=generator)
    noise = torch.empty(rows, columns).normal_(generator=generator)
    rows_seen: Tensor = (noise @ (mixing + torch.eye(columns))) * sizes
    return rows_seen


def seen(rows: Tensor) -> Inputs:
    """What a walk would see of rows (R, I)."""
    return Inputs(
        num_rows=len(rows),
        absolute=rows.abs().mean(0),
        square=rows.square().mean(0),
        lowest=rows.amin(0),
        highest=rows.amax(0),
        rows=rows,
    )
