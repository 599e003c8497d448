"""Names and rows of tensors as a GGUF file has them: the reverse of ``names`` and ``tensors``."""

from torch import Tensor

from burnish.models.gguf.names import Architecture, full_name
from burnish.models.gguf.tensors import is_rotated

_OUTER = ("token_embd", "output_norm", "output")


def stored_name(architecture: Architecture, name: str) -> str:
    """``model.layers.3.mlp.up_proj.weight`` -> ``blk.3.ffn_up.weight``."""
    module, _, kind = name.rpartition(".")
    for outer in _OUTER:
        if full_name(architecture, f"{outer}.{kind}") == name:
            return f"{outer}.{kind}"
    layer, _, part = module.removeprefix("model.layers.").partition(".")
    theirs = {hugging_face: stored for stored, hugging_face in architecture.block.items()}
    return f"blk.{layer}.{theirs[part]}.{kind}"


def stored_rows(architecture: Architecture, name: str, tensor: Tensor, head_dim: int) -> Tensor:
    """A tensor as the file holds it: the rows, whole or in blocks, in its order; norms with their offset added."""
    if architecture.interleaved and is_rotated(name):
        return _pairs(tensor, head_dim)
    return tensor + architecture.norm_offset if name.endswith("norm.weight") else tensor


def _pairs(rows: Tensor, head_dim: int) -> Tensor:
    """Rows (O, ...) of each head from rotary halves (0, D/2), (1, D/2 + 1) to adjacent pairs (0, 1), (2, 3)."""
    halves = rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:])
    return halves.transpose(1, 2).reshape(rows.shape)
