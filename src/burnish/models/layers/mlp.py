"""Feed-forward blocks. Shapes: R rows, E hidden width, F inner width."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from burnish.kernels import ops
from burnish.models.layers.linear import Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": ops.silu,
    "gelu": ops.gelu,
    "gelu_tanh": ops.gelu_tanh,
    "relu": functional.relu,
}


class GatedMLP(nn.Module):
    """``down(act(gate(x)) * up(x))`` (Shazeer 2020)."""

    def __init__(self, hidden_size: int, inner_size: int, *, activation: str, bias: bool) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gate_proj = Linear(hidden_size, inner_size, bias=bias)
        self.up_proj = Linear(hidden_size, inner_size, bias=bias)
        self.down_proj = Linear(inner_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (R, E) -> (R, E)."""
        out: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return out


class MLP(nn.Module):
    """``down(act(up(x)))``."""

    def __init__(self, hidden_size: int, inner_size: int, *, activation: str, bias: bool) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up_proj = Linear(hidden_size, inner_size, bias=bias)
        self.down_proj = Linear(inner_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x (R, E) -> (R, E)."""
        out: Tensor = self.down_proj(self.activation(self.up_proj(x)))
        return out
