"""Log-probabilities in the two forms of the OpenAI API."""

import codecs
from collections.abc import Sequence

from burnish.core.types import PromptEvent, TextCodec, TokenEvent
from burnish.service.openai.shapes import ChatLogprobs, TextLogprobs, TokenLogprob, TopLogprob

LEAST = -9999.0  # OpenAI's word for "very unlikely"; JSON has no minus infinity


def chat_logprobs(codec: TextCodec | None, event: TokenEvent) -> ChatLogprobs | None:
    """Per token: its text, bytes and log-probability, and the likeliest others."""
    if event.logprobs is None:
        return None
    content = []
    for token_id, logprobs in zip(event.token_ids, event.logprobs, strict=True):
        top = [_top(codec, other.token_id, other.logprob) for other in logprobs.top]
        chosen = _top(codec, token_id, logprobs.logprob)
        content.append(TokenLogprob(token=chosen.token, logprob=chosen.logprob, bytes=chosen.bytes, top_logprobs=top))
    return ChatLogprobs(content=content, refusal=None)


def join_chat(parts: Sequence[ChatLogprobs]) -> ChatLogprobs | None:
    """The log-probabilities of a whole message."""
    return ChatLogprobs(content=[token for part in parts for token in part.content], refusal=None) if parts else None


_UTF8 = codecs.getincrementaldecoder("utf-8")


class TextOffsets:
    """Where each token begins in the text: characters, counted as the bytes complete them."""

    def __init__(self) -> None:
        self._decoder = _UTF8("replace")
        self._offset = 0

    def advance(self, piece: bytes) -> int:
        """Offset of a token; moves past it. A character an earlier token left half is not the token's own."""
        text = self._decoder.decode(piece)
        left_half = max(0, len(text) - len(_UTF8("replace").decode(piece)))
        offset, self._offset = self._offset + left_half, self._offset + len(text)
        return offset


def first_logprobs(codec: TextCodec | None, token_id: int, offsets: TextOffsets) -> TextLogprobs:
    """The lists over the first token of an echoed prompt, which nothing predicts."""
    offset = offsets.advance(_visible(codec, token_id))
    return TextLogprobs(
        tokens=[_name(codec, token_id)], token_logprobs=[None], top_logprobs=[None], text_offset=[offset]
    )


def text_logprobs(
    codec: TextCodec | None, event: TokenEvent | PromptEvent, offsets: TextOffsets
) -> TextLogprobs | None:
    """Parallel lists over the event's tokens; the chosen token is among the ``top_logprobs``."""
    if event.logprobs is None:
        return None
    joined = TextLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
    for token_id, logprobs in zip(event.token_ids, event.logprobs, strict=True):
        top = {_name(codec, other.token_id): _finite(other.logprob) for other in logprobs.top}
        top.setdefault(_name(codec, token_id), _finite(logprobs.logprob))
        joined.tokens.append(_name(codec, token_id))
        joined.token_logprobs.append(_finite(logprobs.logprob))
        joined.top_logprobs.append(top)
        joined.text_offset.append(offsets.advance(_visible(codec, token_id)))
    return joined


def join_text(parts: Sequence[TextLogprobs], text: str) -> TextLogprobs | None:
    """The log-probabilities of a whole completion; tokens cut off by a stop string begin at the text's end."""
    if not parts:
        return None
    return TextLogprobs(
        tokens=[token for part in parts for token in part.tokens],
        token_logprobs=[logprob for part in parts for logprob in part.token_logprobs],
        top_logprobs=[top for part in parts for top in part.top_logprobs],
        text_offset=[min(offset, len(text)) for part in parts for offset in part.text_offset],
    )


def _top(codec: TextCodec | None, token_id: int, logprob: float) -> TopLogprob:
    piece = _piece(codec, token_id)
    return TopLogprob(token=piece.decode("utf-8", "replace"), logprob=_finite(logprob), bytes=list(piece))


def _piece(codec: TextCodec | None, token_id: int) -> bytes:
    return codec.piece(token_id) if codec else f"token_id:{token_id}".encode()


def _visible(codec: TextCodec | None, token_id: int) -> bytes:
    """The bytes a token adds to the text: none for a special token, which decoding leaves out."""
    return codec.piece(token_id) if codec and codec.decode([token_id]) else b""


def _name(codec: TextCodec | None, token_id: int) -> str:
    """A token as text; half a character as its bytes, so that two such tokens keep different names."""
    piece = _piece(codec, token_id)
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _finite(logprob: float) -> float:
    return max(logprob, LEAST)
