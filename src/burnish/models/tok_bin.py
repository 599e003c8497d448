"""Vocabularies of llama2.c (tok512.bin, tokenizer.bin) as BPE of the ``tokenizers`` library.

Source: karpathy/llama2.c, tokenizer.py (``export``) and run.c (``encode``): SentencePiece's BPE, which merges the
neighbouring pair whose joined piece has the best score. Pieces with distinct scores make that an order of merges.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from burnish.core.errors import BadCheckpoint, NotFound
from burnish.models import llama2c

UNKNOWN, BEGIN, FINISH = "<unk>", "<s>", "</s>"
FIRST_PIECE = 259  # after the three special tokens and 256 raw bytes
MAX_PIECE_BYTES = 4096


class Piece(NamedTuple):
    """A vocabulary entry; the better of two scores is merged first."""

    text: str
    score: float


def find(checkpoint: Path) -> Path:
    """The vocabulary beside a checkpoint: tok<size>.bin, else tokenizer.bin. Raises ``NotFound``."""
    named = [checkpoint.parent / f"tok{llama2c.vocab_size(checkpoint)}.bin", checkpoint.parent / "tokenizer.bin"]
    for path in named:
        if path.is_file():
            return path
    raise NotFound(f"no vocabulary beside {str(checkpoint)!r}", remedy=f"Put {named[0].name} there")


def read(path: Path) -> list[Piece]:
    """The pieces by token id. Raises ``BadCheckpoint`` when the file is truncated or no vocabulary."""
    try:
        pieces = [UNKNOWN, BEGIN, FINISH]
        entries = list(_entries(path.read_bytes()))
        texts = [*pieces, *(raw.decode() for raw, _ in entries[3:])]
    except (struct.error, UnicodeDecodeError, OSError) as error:
        raise BadCheckpoint(f"{str(path)!r} is no llama2.c vocabulary: {error}", remedy="Fetch it again") from None
    if texts[3:FIRST_PIECE] != [f"<0x{byte:02X}>" for byte in range(256)] or len(set(texts)) != len(texts):
        raise BadCheckpoint(f"{str(path)!r} is no llama2.c vocabulary: wrong pieces", remedy="Fetch it again")
    return [Piece(text, score) for text, (_, score) in zip(texts, entries, strict=True)]


def _entries(data: bytes) -> Iterator[tuple[bytes, float]]:
    offset = 4
    while offset < len(data):
        score, length = struct.unpack_from("<fi", data, offset)
        if not 0 < length <= min(MAX_PIECE_BYTES, len(data) - offset - 8):
            raise struct.error(f"piece of {length} bytes at byte {offset}")
        yield data[offset + 8 : offset + 8 + length], score
        offset += 8 + length


def convert(path: Path) -> tokenizers.Tokenizer:
    """The same rules in the library: begin token, leading space, merges by score, bytes for unknown characters."""
    pieces = read(path)
    ids = {piece.text: token_id for token_id, piece in enumerate(pieces)}
    model = models.BPE(ids, merges(pieces[FIRST_PIECE:]), unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True)
    converted = tokenizers.Tokenizer(model)
    converted.normalizer = normalizers.Prepend(" ")
    converted.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    converted.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN} $B", special_tokens=[(BEGIN, ids[BEGIN])]
    )
    converted.add_special_tokens([AddedToken(token, normalized=False) for token in (UNKNOWN, BEGIN, FINISH)])
    return converted


def merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, best third first."""
    joined = sorted(pieces, key=lambda piece: -piece.score)
    known = {piece.text for piece in joined}
    cuts = [(piece.text[:at], piece.text[at:]) for piece in joined for at in range(1, len(piece.text))]
    return [(left, right) for left, right in cuts if left in known and right in known]
