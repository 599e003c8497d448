"""The tensors of a GGUF file under the names and in the order of rows of a Hugging Face checkpoint.

Quantized weights of linear layers stay blocks, for ``formats.ggml`` to read; every other tensor becomes float.
"""

import torch
from torch import Tensor

from burnish.core.errors import BadCheckpoint
from burnish.models.formats import ggml
from burnish.models.gguf.config import FLOATS, head_dim
from burnish.models.gguf.names import ROPE_FACTORS, find_architecture, full_name, is_linear
from burnish.models.gguf.reader import GgufFile, StoredTensor
from burnish.models.tensor_files import Stored

_ROTATED = ("self_attn.q_proj.weight", "self_attn.q_proj.bias", "self_attn.k_proj.weight", "self_attn.k_proj.bias")


class GgufTensors:
    """Reads like ``TensorFolder``: headers at once, a tensor's bytes only by ``read``."""

    def __init__(self, file: GgufFile) -> None:
        """Raises ``BadCheckpoint`` for a type of tensor burnish does not read."""
        name, self._architecture = find_architecture(file.metadata)
        self._head_dim = head_dim(file.metadata, name)
        self._stored = {
            full_name(self._architecture, stored): tensor
            for stored, tensor in file.tensors.items()
            if stored != ROPE_FACTORS
        }
        self.tensors = {name: _described(name, tensor) for name, tensor in self._stored.items()}

    def __enter__(self) -> "GgufTensors":
        return self

    def __exit__(self, *_: object) -> None:
        self._stored.clear()

    def read(self, name: str) -> Tensor:
        """A tensor, perhaps a view of the mapped file; copy what must outlive it."""
        kind, _, _ = stored = self._stored[name]
        tensor = _mapped(stored)
        if kind not in FLOATS and not is_linear(name):
            tensor = ggml.dequantize(kind, tensor)
        if self._architecture.interleaved and is_rotated(name):
            tensor = _halves(tensor, self._head_dim)
        if self._architecture.norm_offset and name.endswith("norm.weight"):
            tensor = tensor.float() - self._architecture.norm_offset
        return tensor


def is_rotated(name: str) -> bool:
    """Whether the rows of a tensor are rotated by their positions."""
    return name.endswith(_ROTATED)


def _described(name: str, tensor: StoredTensor) -> Stored:
    """What ``read`` will return."""
    if tensor.type in FLOATS:
        return Stored(tensor.shape, tensor.type)
    if tensor.type not in ggml.BLOCKS:
        known = ", ".join((*FLOATS, *ggml.BLOCKS))
        raise BadCheckpoint(
            f"{name} is stored as {tensor.type}, which is not supported",
            remedy=f"Take a file of another type, or make one with llama-quantize. Known: {known}",
        )
    return Stored(tuple(tensor.data.shape), "U8") if is_linear(name) else Stored(tensor.shape, "F32")


def _mapped(stored: StoredTensor) -> Tensor:
    tensor = torch.from_numpy(stored.data)
    return tensor.view(torch.bfloat16) if stored.type == "BF16" else tensor


def _halves(rows: Tensor, head_dim: int) -> Tensor:
    """Rows (O, ...) of each head from adjacent rotary pairs (0, 1), (2, 3) to halves (0, D/2), (1, D/2 + 1).

    A row of blocks moves as a whole, so this loses nothing of a quantized weight either.
    """
    paired = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return paired.transpose(1, 2).reshape(rows.shape)
