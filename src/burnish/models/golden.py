"""The outputs an artifact is recognised by."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from burnish.models.decoder import Decoder
from burnish.models.encoder import Encoder
from burnish.models.layers.attention import Attend, AttentionRule, causal_attend
from burnish.models.vision import VisionModel

BYTES = 256  # values of a pixel


@torch.inference_mode()
def golden_logits(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Logits after the last token of every prompt -> (prompts, V). One pass: packed weights are unpacked once."""
    lengths = [len(prompt) for prompt in prompts]
    tokens = torch.tensor([token for prompt in prompts for token in prompt])
    positions = torch.cat([torch.arange(length) for length in lengths])
    hidden = decoder(tokens, positions, _apart(lengths))
    logits: NDArray[np.float32] = decoder.logits(hidden[np.cumsum(lengths) - 1]).numpy()
    return logits


@torch.inference_mode()
def embeddings_of(encoder: Encoder, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """The embedding of every prompt -> (prompts, E)."""
    embeddings: NDArray[np.float32] = encoder.embed(prompts).numpy()
    return embeddings


@torch.inference_mode()
def image_logits(vision: VisionModel, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Logits of an image per prompt, whose low bytes are its pixels, again and again -> (prompts, K)."""
    config = vision.config
    shape = (config.channels, config.image_size, config.image_size)
    images = [np.resize((np.array(prompt) % BYTES).astype(np.uint8), shape) for prompt in prompts]
    logits: NDArray[np.float32] = vision(vision.prepare(torch.from_numpy(np.stack(images)))).numpy()
    return logits


def _apart(lengths: list[int]) -> Attend:
    """Attention within each of several sequences, one after the other in the rows."""
    each = [causal_attend(1, length) for length in lengths]

    def attend(rule: AttentionRule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows = zip(each, *(torch.split(t, lengths) for t in (q, k, v)), strict=True)
        return torch.cat([one(rule, *qkv) for one, *qkv in rows])

    return attend
