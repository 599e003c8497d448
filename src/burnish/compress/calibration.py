"""The tokens that flow through a model while it is compressed.

Shapes: S samples, T tokens of a sample.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from burnish.core.documents import Chat, Document, Text, Tokens, read_documents
from burnish.core.errors import BadSettings
from burnish.core.records import CalibrationRecord
from burnish.core.types import TextCodec

MIN_TOKENS = 2048  # fewer say little about the inputs of layers some hundred wide


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationConfig:
    """How much of the data is used."""

    samples: int = 128
    length: int = 512  # tokens of a sample
    seed: int = 0  # draws which

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for sizes that hold nothing."""
        for name in ("samples", "length"):
            if getattr(self, name) < 1:
                raise BadSettings(f"{name} {getattr(self, name)} is too small", remedy="Use 1 or more")
        if self.samples * self.length < MIN_TOKENS:
            raise BadSettings(
                f"{self.samples} samples of {self.length} tokens are too few to calibrate with",
                remedy=f"Use {MIN_TOKENS} tokens or more in all",
            )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Samples of equal size, the text they are of, and what identifies them."""

    tokens: Tensor  # (S, T) int64; for networks that see images (S, C, H, W)
    text: Tensor  # (N,) int64, all of it: what is trained on; of images none
    record: CalibrationRecord


Frame = tuple[Sequence[int], Sequence[int]]
"""Tokens before and behind every sample"""
NO_FRAME: Frame = ((), ())


def read_calibration(
    path: Path,
    codec: TextCodec,
    config: CalibrationConfig,
    *,
    vocab_size: int,
    max_positions: int,
    frame: Frame = NO_FRAME,
) -> Calibration:
    """Samples of a text file or .jsonl of texts, chats (through the chat template) or token ids.

    Documents follow one another, each begun as the tokenizer begins a text; a chat whose last word is the assistant's
    ends there. The row of tokens is cut into samples, of which the seed draws. With a ``frame`` documents bring no
    marks of their own and every sample is a whole text, as an encoder sees them. Raises as ``read_documents``, and
    ``BadSettings`` for too few tokens, samples that only the frame fills, or tokens the model does not know: the
    tokenizer is another model's.
    """
    length, marks = min(config.length, max_positions), sum(map(len, frame))
    if length <= marks:
        raise BadSettings(
            f"length {length} leaves no room between the {marks} tokens that frame a text",
            remedy=f"Use {marks + 1} or more",
        )
    tokens = torch.tensor(_encode(read_documents(path), codec, has_marks=frame == NO_FRAME), dtype=torch.int64)
    if len(tokens) < max(MIN_TOKENS, length):
        raise BadSettings(
            f"calibration {str(path)!r} holds {len(tokens)} tokens, too few",
            remedy=f"Give {max(MIN_TOKENS, length)} or more; {config.samples * length} are used when there are enough",
        )
    if tokens.max() >= vocab_size:
        raise BadSettings(
            f"calibration {str(path)!r} has token {int(tokens.max())}, the model knows {vocab_size}",
            remedy="Use the tokenizer the model was trained with",
        )
    return draw(tokens, length, config, frame)


def draw(tokens: Tensor, length: int, config: CalibrationConfig, frame: Frame = NO_FRAME) -> Calibration:
    """At most ``config.samples`` pieces of a row of tokens (N,), drawn without overlap and kept in order.

    Each piece stands in the ``frame``, which its ``length`` counts.
    """
    before, behind = (torch.tensor(part, dtype=torch.int64) for part in frame)
    inner = length - len(before) - len(behind)
    pieces = tokens[: len(tokens) // inner * inner].view(-1, inner)
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(pieces), generator=generator)[: config.samples].sort().values
    samples = torch.cat([before.expand(len(chosen), -1), pieces[chosen], behind.expand(len(chosen), -1)], 1)
    digest = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()
    record = CalibrationRecord(sha256=digest, samples=len(samples), length=length, seed=config.seed)
    return Calibration(tokens=samples, text=tokens, record=record)


def _encode(documents: Iterable[Document], codec: TextCodec, *, has_marks: bool) -> list[int]:
    tokens: list[int] = []
    for document in documents:
        match document:
            case Text(text):
                tokens += codec.encode(text, add_special_tokens=has_marks)
            case Chat(messages):
                tokens += codec.chat(messages, to_answer=messages[-1].role != "assistant")
            case Tokens(ids):
                tokens += ids
    return tokens
