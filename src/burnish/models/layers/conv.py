"""Convolution as one matrix over patches, so that its weight can be stored in any format.

Shapes: B images, C channels in, O channels out, H x W places in, L places out, I = C * kernel².
"""

from torch import Tensor, nn
from torch.nn import functional

from burnish.models.layers.linear import Linear


class Conv2d(nn.Module):
    """A convolution without groups. Row o of ``matrix`` (O, I) is filter o, laid out (C, kernel, kernel)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel, self.stride = _pair(kernel), _pair(stride)
        self.padding, self.dilation = _pair(padding), _pair(dilation)
        self.matrix = Linear(in_channels * self.kernel[0] * self.kernel[1], out_channels, bias=bias)

    def forward(self, input: Tensor) -> Tensor:  # torch's name: whatever calls torch's layer may call this one
        """(B, C, H, W) -> (B, O, H', W')."""
        patches = functional.unfold(input, self.kernel, self.dilation, self.padding, self.stride)  # (B, I, L)
        rows: Tensor = self.matrix(patches.transpose(1, 2).flatten(0, 1))  # (B * L, O)
        height, width = self.places(input.shape[2], input.shape[3])
        return rows.view(len(input), height, width, -1).permute(0, 3, 1, 2)

    def places(self, height: int, width: int) -> tuple[int, int]:
        """Where filters are applied to an image of that size."""
        axes = zip((height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        across, down = ((size + 2 * pad - gap * (k - 1) - 1) // step + 1 for size, k, step, pad, gap in axes)
        return across, down


class Rows(nn.Module):
    """A linear layer over the last axis of anything: (..., I) -> (..., O)."""

    def __init__(self, matrix: Linear) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, input: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        rows: Tensor = self.matrix(input.reshape(-1, input.shape[-1]))
        return rows.view(*input.shape[:-1], -1)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
