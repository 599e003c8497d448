"""A residual network over images (He et al. 2015), ready to run: normalisation is part of its convolutions.

Shapes: B images, C channels, H x W places, K classes.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from burnish.models.layers.conv import Conv2d
from burnish.models.layers.linear import Linear

Shortcut = Literal["project", "pad"]
PIXEL = 255.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Blocks of one width. ``inner``: channels between the convolutions of a block."""

    width: int
    inner: int
    depth: int
    stride: int  # of its first block


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The sizes of a residual network, and how pixels of 0 to 1 become its inputs: ``(pixel - mean) / std``."""

    num_classes: int
    stages: tuple[Stage, ...]
    bottleneck: bool = False  # three convolutions a block, the middle one seeing neighbours, instead of two that do
    channels: int = 3
    stem: int = 16
    stem_kernel: int = 3
    stem_stride: int = 1
    stem_pool: bool = False  # a maximum over 3 x 3 places, every other
    shortcut: Shortcut = "project"  # where widths change: a convolution, or channels of zeros
    image_size: int = 32  # that it was trained on; others work
    mean: tuple[float, ...] = ()  # per channel; none: pixels are taken as they are
    std: tuple[float, ...] = ()


class ResidualBlock(nn.Module):
    """Convolutions whose sum with the input passes on what is above zero."""

    def __init__(self, width_in: int, stage: Stage, stride: int, *, bottleneck: bool, shortcut: Shortcut) -> None:
        super().__init__()
        self.stride, self.width = stride, stage.width
        sizes = [(width_in, stage.inner, 3, stride), (stage.inner, stage.width, 3, 1)]
        if bottleneck:
            sizes = [(width_in, stage.inner, 1, 1), (stage.inner, stage.inner, 3, stride)]
            sizes.append((stage.inner, stage.width, 1, 1))
        self.convs = nn.ModuleList(
            Conv2d(before, after, kernel=kernel, stride=step, padding=kernel // 2)
            for before, after, kernel, step in sizes
        )
        changes = stride != 1 or width_in != stage.width
        is_projected = changes and shortcut == "project"
        self.pads = stage.width - width_in if changes and not is_projected else None
        self.shortcut = Conv2d(width_in, stage.width, kernel=1, stride=stride) if is_projected else None

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C', H', W')."""
        inner = x
        for number, conv in enumerate(self.convs):
            inner = conv(functional.relu(inner) if number else inner)
        return functional.relu(inner + self._around(x))

    def _around(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            out: Tensor = self.shortcut(x)
            return out
        if self.pads is None:
            return x
        half = self.pads // 2
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.pads - half))


class VisionModel(nn.Module):
    """Images in, a logit per class out."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        kernel = config.stem_kernel
        self.stem = Conv2d(config.channels, config.stem, kernel=kernel, stride=config.stem_stride, padding=kernel // 2)
        blocks, width = [], config.stem
        for stage in config.stages:
            for number in range(stage.depth):
                stride = 1 if number else stage.stride
                block = ResidualBlock(width, stage, stride, bottleneck=config.bottleneck, shortcut=config.shortcut)
                blocks.append(block)
                width = stage.width
        self.blocks = nn.ModuleList(blocks)
        self.head = Linear(width, config.num_classes, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Prepared images (B, C, H, W) -> logits (B, K)."""
        x = functional.relu(self.stem(x))
        if self.config.stem_pool:
            x = functional.max_pool2d(x, 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x.mean((2, 3)))
        return out

    def prepare(self, pixels: Tensor) -> Tensor:
        """Pixels (B, C, H, W), bytes or floats of 0 to 1, as the network takes them."""
        x = pixels.float() / PIXEL if pixels.dtype == torch.uint8 else pixels.float()
        if not self.config.mean:
            return x
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.config.mean, self.config.std))
        return (x - mean) / std
