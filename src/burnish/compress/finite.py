"""Weights that hold no numbers, found before any work is done with them."""

from torch import Tensor, nn

from burnish.core.errors import BadRequest


def refuse_not_finite(name: str, tensor: Tensor) -> None:
    """Raise ``BadRequest`` for a tensor, of any shape, that holds infinities or what is no number."""
    low, high = tensor.aminmax()  # takes no memory, and what is no number comes through
    if not (low.isfinite() and high.isfinite()):
        raise BadRequest(
            f"{name} holds infinities or what is no number", remedy="Fetch the weights again: nothing was written"
        )


def refuse_not_numbers(model: nn.Module) -> None:
    """Raise ``BadRequest`` naming the first of a model's tensors that holds infinities or what is no number."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel():
            refuse_not_finite(f"tensor {name}", tensor)
