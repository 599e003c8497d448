"""Fewer channels in a residual network: it is smaller and faster on every engine.

What goes are channels inside of blocks, between their convolutions; the stream that blocks add to stays as wide as it
is. Every block keeps those of its channels that matter most.

Shapes: S images, C channels, H x W places, K classes.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from burnish.compress.shrink import least_share, whole_left
from burnish.compress.statistics import Hook
from burnish.core.errors import BadSettings
from burnish.models.formats.dense import Dense
from burnish.models.layers.conv import Conv2d
from burnish.models.layers.linear import Linear
from burnish.models.vision import ResidualBlock, VisionConfig, VisionModel

MULTIPLE = 8  # of channels that are left: what kernels like
IMAGES_AT_ONCE = 16

By = Literal["activations", "gradient"]


def shrunk_config(config: VisionConfig, share: float) -> VisionConfig:
    """The sizes without a share of the channels between convolutions. Raises ``BadSettings`` for what is no share."""
    if not 0 < share < 1:
        raise BadSettings(f"share {share} of the channels", remedy="Use a share above 0 and below 1")
    stages = tuple(replace(stage, inner=whole_left(stage.inner, share, MULTIPLE)) for stage in config.stages)
    if any(new.inner > old.inner for new, old in zip(stages, config.stages, strict=True)):
        raise BadSettings(f"the network has fewer than {MULTIPLE} channels in a block", remedy="Leave the pass out")
    if stages == config.stages:
        shares = [least for stage in stages if (least := least_share(stage.inner, MULTIPLE)) is not None]
        raise BadSettings(
            f"share {share:g} takes no channel of any block, kept in multiples of {MULTIPLE}",
            remedy=f"Use {min(shares):g} or more" if shares else "Leave the pass out",
        )
    return replace(config, stages=stages)


def importance(vision: VisionModel, images: Tensor, by: By) -> dict[Conv2d, Tensor]:
    """What the channels (C,) in front of every inner convolution are worth, on images (S, C, H, W) as it takes them.

    "activations": the root mean square of what flows (Minitron, Muralidharan et al. 2024). "gradient": how much the
    loss against the network's own answers would change without them, to first order (Molchanov et al. 2019).
    """
    convs = [conv for block in _blocks(vision) for conv in _inner(block)]
    sums = {conv: torch.zeros(conv.in_channels) for conv in convs}
    measure = _by_activations if by == "activations" else _by_gradient
    for batch in torch.split(images, IMAGES_AT_ONCE):
        for conv, worth in measure(vision, convs, batch).items():
            sums[conv] += worth
    return sums


def _blocks(vision: VisionModel) -> list[ResidualBlock]:
    return [block for block in vision.blocks if isinstance(block, ResidualBlock)]


def _inner(block: ResidualBlock) -> list[Conv2d]:
    """The convolutions that read what others of the block give."""
    return [conv for conv in list(block.convs)[1:] if isinstance(conv, Conv2d)]


@torch.no_grad()
def _by_activations(vision: VisionModel, convs: list[Conv2d], batch: Tensor) -> dict[Conv2d, Tensor]:
    found: dict[Conv2d, Tensor] = {}
    _watched(vision, convs, batch, lambda conv, x: found.__setitem__(conv, x.square().mean((2, 3)).sum(0)))
    return found


@torch.enable_grad()
def _by_gradient(vision: VisionModel, convs: list[Conv2d], batch: Tensor) -> dict[Conv2d, Tensor]:
    kept: dict[Conv2d, Tensor] = {}

    def keep(conv: Conv2d, x: Tensor) -> None:
        x.retain_grad()
        kept[conv] = x

    logits = _watched(vision, convs, batch.clone().requires_grad_(), keep)
    loss = functional.cross_entropy(logits, logits.detach().argmax(1), reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    found = {}
    for conv, x in kept.items():
        assert x.grad is not None
        found[conv] = (x.detach() * x.grad).sum((2, 3)).abs().sum(0)
    return found


def _watched(vision: VisionModel, convs: list[Conv2d], batch: Tensor, see: Callable[[Conv2d, Tensor], None]) -> Tensor:
    """Logits of a batch; ``see`` is shown what flows into each of the convolutions."""
    hooks = [Hook(conv, lambda x, conv=conv: see(conv, x)) for conv in convs]  # type: ignore[misc]
    try:
        logits: Tensor = vision(batch)
    finally:
        for hook in hooks:
            hook.__exit__()
    return logits


@torch.no_grad()
def take(vision: VisionModel, target: VisionConfig, worth: dict[Conv2d, Tensor]) -> VisionModel:
    """A network of the channels worth most. Raises ``BadSettings`` for one whose weights are packed."""
    for name, module in vision.named_modules():
        if isinstance(module, Linear) and not isinstance(module.format, Dense):
            raise BadSettings(f"layer {name} is stored as {module.format.name}", remedy="Shrink the dense parent")
    made = VisionModel(target).eval().requires_grad_(False)
    for ours, theirs in ((made.stem.matrix, vision.stem.matrix), (made.head, vision.head)):
        _copy(ours, theirs.dense_weight(), theirs.bias)
    for block, source in zip(_blocks(made), _blocks(vision), strict=True):
        _take_block(block, source, worth)
        if block.shortcut is not None and source.shortcut is not None:
            _copy(block.shortcut.matrix, source.shortcut.matrix.dense_weight(), source.shortcut.matrix.bias)
    return made


def _take_block(block: ResidualBlock, source: ResidualBlock, worth: dict[Conv2d, Tensor]) -> None:
    ours = [conv for conv in block.convs if isinstance(conv, Conv2d)]
    theirs = [conv for conv in source.convs if isinstance(conv, Conv2d)]
    columns = [None] + [
        worth[conv].argsort(descending=True, stable=True)[: new.in_channels].sort().values
        for new, conv in zip(ours[1:], theirs[1:], strict=True)
    ]
    for new, conv, read, given in zip(ours, theirs, columns, [*columns[1:], None], strict=True):
        weight = conv.matrix.dense_weight().view(conv.out_channels, conv.in_channels, -1)
        bias: Tensor | None = conv.matrix.bias
        if read is not None:
            weight = weight[:, read]
        if given is not None:
            weight, bias = weight[given], None if bias is None else bias[given]
        _copy(new.matrix, weight.flatten(1), bias)


def _copy(layer: Linear, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight.float().contiguous().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.float().contiguous().clone(), requires_grad=False)
