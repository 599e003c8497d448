"""The prompt said once more before its continuation, as ``echo`` asks."""

from collections.abc import Sequence
from typing import NamedTuple

from burnish.core.types import TextCodec
from burnish.service.openai.logprobs import TextOffsets, first_logprobs
from burnish.service.openai.prompt import Batch
from burnish.service.openai.schema import CompletionBody
from burnish.service.openai.shapes import TextLogprobs


class Echo(NamedTuple):
    """What stands before the continuation of a prompt."""

    text: str
    first: int | None  # the prompt's first token where log-probabilities are asked for: nothing predicts it

    def logprobs(self, codec: TextCodec | None, offsets: TextOffsets) -> TextLogprobs | None:
        """The lists over the first token; those of the others come with their events."""
        return None if self.first is None else first_logprobs(codec, self.first, offsets)


def echoes(codec: TextCodec | None, body: CompletionBody, batch: Batch) -> Sequence[Echo]:
    """One per choice; none where nothing is echoed. Token ids are echoed as their text."""
    if not body.echo:
        return ()
    texts = [body.prompt] if isinstance(body.prompt, str) else [p for p in body.prompt if isinstance(p, str)]
    found = []
    for number, request in enumerate(batch.requests):
        decoded = codec.decode(request.prompt) if codec and not texts else ""
        text = texts[number // batch.n] if texts else decoded
        found.append(Echo(text, None if body.logprobs is None else request.prompt[0]))
    return found
