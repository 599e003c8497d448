"""POST /tokenize and /detokenize."""

import asyncio

from burnish.core.admission import check_ids
from burnish.core.errors import BadRequest
from burnish.service.front import FrontOf
from burnish.service.openai.prompt import encode, encode_chat
from burnish.service.openai.schema import DetokenizeBody, TokenizeBody
from burnish.service.openai.shapes import Text, Tokens


async def tokenize(body: TokenizeBody, front: FrontOf) -> Tokens:
    """Token ids of a text or of a conversation."""
    if body.model is not None:
        front.check_model(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise BadRequest("give either prompt or messages", remedy="Send one of the two", param="prompt")
    if body.messages is not None:
        ids = await encode_chat(front, body.messages)
    else:
        ids = await encode(front, body.prompt or "", add_special_tokens=body.add_special_tokens)
    return Tokens(tokens=ids, count=len(ids), max_model_len=front.card.max_request_tokens)


async def detokenize(body: DetokenizeBody, front: FrontOf) -> Text:
    """The text of token ids, special tokens written out."""
    if body.model is not None:
        front.check_model(body.model)
    check_ids(body.tokens, front.card.vocab_size, "tokens")
    return Text(prompt=await asyncio.to_thread(front.text.decode, body.tokens, skip_special_tokens=False))
