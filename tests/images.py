"""Small residual networks in torch's own words, and images: what tests of vision share."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

M = TypeVar("M", bound=nn.Module)


def seeded(module: M, seed: int = 0) -> M:
    """Random weights, and statistics of normalisation as a training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            if name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.is_floating_point():
                value.normal_(std=0.5 if value.dim() == 1 else 1.4 * value[0].numel() ** -0.5, generator=generator)
    return module


class CifarBlock(nn.Module):
    """A block of He et al.'s networks for CIFAR, as torchvision names its parts."""

    def __init__(self, before: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.extra = stride, width - before
        if shortcut == "project" and before != width:
            convolution = nn.Conv2d(before, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "downsample"):
            x = self.downsample(x)
        elif self.extra:
            half = self.extra // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half))
        return functional.relu(inner + x)


class CifarNet(nn.Module):
    """He et al.'s network for CIFAR."""

    def __init__(
        self,
        *,
        widths: tuple[int, ...] = (16, 32, 64),
        depth: int = 1,
        shortcut: str = "pad",
        channels: int = 3,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for number, width in enumerate(widths):
            blocks = []
            for block in range(depth):
                blocks.append(CifarBlock(before, width, 2 if number and not block else 1, shortcut))
                before = width
            self.add_module(f"layer{number + 1}", nn.Sequential(*blocks))
        self.stages = len(widths)
        self.linear = nn.Linear(before, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        for number in range(self.stages):
            x = getattr(self, f"layer{number + 1}")(x)
        out: Tensor = self.linear(x.mean((2, 3)))
        return out
