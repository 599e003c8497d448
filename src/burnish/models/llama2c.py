"""Checkpoints of Karpathy's llama2.c: one .bin file, legacy or version 1, float32.

Source: karpathy/llama2.c, export.py (``legacy_export``, ``version1_export``). Needs no torch.
"""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import BadCheckpoint
from burnish.models.gguf import location as gguf_location

MAGIC, V1_HEADER_BYTES, LEGACY_HEADER_BYTES = 0x616B3432, 256, 28
MARK, END = 1, 2  # the mark begins a text and, generated, ends it
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")

Array = NDArray[np.float32]


class Header(NamedTuple):
    """Sizes of a model and where its tensors begin."""

    dim: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    max_positions: int
    tied: bool
    is_v1: bool
    start_bytes: int


class Checkpoint(NamedTuple):
    """A mapped file: its header and all its floats."""

    header: Header
    floats: Array

    @property
    def raw_config(self) -> dict[str, Any]:
        """The same as a Llama config.json."""
        head = self.header
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **dict(zip(SIZES, head[:5], strict=True)),
            "vocab_size": head.vocab_size,
            "max_position_embeddings": head.max_positions,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": head.tied,
            "bos_token_id": MARK,
            "eos_token_id": [MARK, END],
        }

    def tensors(self) -> Iterator[tuple[str, Array]]:
        """Name in our decoder and value of every tensor, rotary rows put into the halves convention."""
        offset = 0
        for name, layers, shape in _order(self.header):
            for layer in range(layers):
                count = math.prod(shape)
                tensor = self.floats[offset : offset + count].reshape(shape)
                offset += count
                if name.endswith(("q_proj.weight", "k_proj.weight")):
                    tensor = _halves(tensor, self.header.dim // self.header.heads)
                if name != "rotary tables":
                    yield name.format(layer), tensor


class _Part(NamedTuple):
    name: str
    layers: int
    shape: tuple[int, ...]


def _order(head: Header) -> list[_Part]:
    """The parts of a file in order, each for all its layers together."""
    kv_width = head.dim // head.heads * head.kv_heads
    embedding = _Part("embed_tokens.weight", 1, (head.vocab_size, head.dim))
    attn_norm = _Part("layers.{}.attn_norm.weight", head.layers, (head.dim,))
    mlp_norm = _Part("layers.{}.mlp_norm.weight", head.layers, (head.dim,))
    norm = _Part("norm.weight", 1, (head.dim,))
    attn = [
        _Part("layers.{}.attn.q_proj.weight", head.layers, (head.dim, head.dim)),
        _Part("layers.{}.attn.k_proj.weight", head.layers, (kv_width, head.dim)),
        _Part("layers.{}.attn.v_proj.weight", head.layers, (kv_width, head.dim)),
        _Part("layers.{}.attn.o_proj.weight", head.layers, (head.dim, head.dim)),
    ]
    mlp = [
        _Part("layers.{}.mlp.gate_proj.weight", head.layers, (head.inner, head.dim)),
        _Part("layers.{}.mlp.down_proj.weight", head.layers, (head.dim, head.inner)),
        _Part("layers.{}.mlp.up_proj.weight", head.layers, (head.inner, head.dim)),
    ]
    output = [] if head.tied else [_Part("lm_head.weight", 1, (head.vocab_size, head.dim))]
    if head.is_v1:
        return [attn_norm, mlp_norm, norm, embedding, *attn, *mlp, *output]
    rotary = _Part("rotary tables", 2, (head.max_positions, head.dim // head.heads // 2))
    return [embedding, attn_norm, *attn, mlp_norm, *mlp, norm, rotary, *output]


def _halves(weight: Array, head_dim: int) -> Array:
    """Rows of each head from adjacent rotary pairs (0, 1), (2, 3) to halves (0, D/2), (1, D/2 + 1)."""
    paired = weight.reshape(-1, head_dim // 2, 2, weight.shape[1])
    return np.ascontiguousarray(paired.transpose(0, 2, 1, 3)).reshape(weight.shape)


def find(path: Path) -> Path | None:
    """The llama2.c file a path means: itself, or the first of a folder without config.json; never a GGUF file."""
    if gguf_location.find(path) is not None:
        return None
    if path.is_file():
        return path
    if not path.is_dir() or (path / "config.json").exists():
        return None
    candidates = sorted(p for p in path.glob("*.bin") if not p.name.startswith("tok") and is_checkpoint(p))
    return candidates[0] if candidates else None


def is_checkpoint(path: Path) -> bool:
    """Whether the size of a file is what its header says."""
    try:
        _read_header(path)
    except BadCheckpoint:
        return False
    return True


def read(path: Path) -> Checkpoint:
    """Map a file. Raises ``BadCheckpoint`` when it is truncated or no llama2.c checkpoint."""
    header = _read_header(path)
    return Checkpoint(header, np.memmap(path, "<f4", mode="c", offset=header.start_bytes))


def vocab_size(path: Path) -> int:
    """Size of the vocabulary. Raises ``BadCheckpoint`` as ``read`` does."""
    return _read_header(path).vocab_size


def _read_header(path: Path) -> Header:
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(V1_HEADER_BYTES)
    except OSError as error:
        raise BadCheckpoint(f"{str(path)!r} cannot be read: {error.strerror}", remedy="Check the path") from None
    header = _parse(start)
    if header is None:
        raise BadCheckpoint(
            f"{str(path)!r} is no llama2.c checkpoint of version 0 or 1",
            remedy="Name a Hugging Face folder or a llama2.c .bin file",
        )
    expected = header.start_bytes + 4 * sum(layers * math.prod(shape) for _, layers, shape in _order(header))
    if size_bytes != expected:
        raise BadCheckpoint(
            f"{str(path)!r} has {size_bytes} bytes, its header asks for {expected}", remedy="Refetch it"
        )
    return header


def _parse(start: bytes) -> Header | None:
    if len(start) < LEGACY_HEADER_BYTES:
        return None
    if struct.unpack_from("<I", start)[0] == MAGIC:
        if len(start) < V1_HEADER_BYTES or struct.unpack_from("<i", start, 4)[0] != 1:
            return None
        return _sound(Header._make((*struct.unpack_from("<7i", start, 8), start[36] != 0, True, V1_HEADER_BYTES)))
    *sizes, vocab, positions = struct.unpack_from("<7i", start)
    return _sound(Header._make((*sizes, abs(vocab), positions, vocab > 0, False, LEGACY_HEADER_BYTES)))


def _sound(head: Header) -> Header | None:
    """None for sizes no model can have."""
    divides = all(0 < value < 2**24 for value in head[:7]) and head.dim % head.heads == head.heads % head.kv_heads == 0
    return head if divides and head.dim // head.heads % 2 == 0 else None
