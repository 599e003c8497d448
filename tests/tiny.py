"""Tiny random models, a byte tokenizer and a fake clock: what the tests of every room share."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from burnish.core.errors import BadRequest
from burnish.core.tools import ToolStyle
from burnish.core.types import Message
from burnish.models.decoder import Decoder, DecoderConfig

BOS, EOS, PAD = 256, 257, 258
VOCAB_SIZE = 259


def tiny_config(**overrides: Any) -> DecoderConfig:
    """A 64-wide Llama-like decoder of two layers over bytes."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "inner_size": 128,
        "max_positions": 512,
        "tied_embeddings": True,
    }
    return DecoderConfig(**(sizes | overrides))


def tiny_decoder(seed: int = 0, **overrides: Any) -> Decoder:
    """A seeded random decoder; weights wide enough that its logits differ clearly between tokens."""
    decoder = Decoder(tiny_config(**overrides))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.2, generator=generator)
            else:
                parameter.add_(torch.empty_like(parameter).normal_(std=0.1, generator=generator))
    return decoder.eval().requires_grad_(False)


class ByteTokenizer:
    """Token i < 256 is byte i; three special tokens follow. Wears TextCodec."""

    bos_token_id: int | None = BOS
    tool_style: ToolStyle | None = None
    eos_token_ids: frozenset[int] = frozenset((EOS,))
    special_ids: frozenset[int] = frozenset((BOS, EOS, PAD))
    strips_first_space: bool = False
    vocab_size = VOCAB_SIZE

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [BOS] * add_special_tokens + list(text.encode())

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        names = {BOS: b"<bos>", EOS: b"<eos>", PAD: b"<pad>"}
        special = {} if skip_special_tokens else names
        return b"".join(bytes([i]) if i < 256 else special.get(i, b"") for i in token_ids).decode(errors="replace")

    def chat(
        self, messages: Sequence[Message], *, to_answer: bool = True, tools: Sequence[Mapping[str, object]] = ()
    ) -> list[int]:
        if not messages:
            raise BadRequest("messages is empty", remedy="Send at least one message", param="messages")
        turns = "".join(f"{message.role}: {message.content}\n" for message in messages)
        return self.encode(f"{turns}assistant: " if to_answer else turns)

    def piece(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""


class FakeClock:
    """Seconds that pass only when told; call it as ``time.monotonic``."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds
