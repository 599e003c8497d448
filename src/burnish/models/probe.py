"""What a model computes on a few fixed prompts: the torch half of an artifact's golden check."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.models.decoder import Decoder
from burnish.models.layers.attention import causal_attend


@torch.inference_mode()
def golden_logits(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Logits after the last token of each prompt -> (prompts, vocabulary); no prompt may be empty."""
    return np.stack([_last_logits(decoder, prompt) for prompt in prompts])


def _last_logits(decoder: Decoder, prompt: Sequence[int]) -> NDArray[np.float32]:
    hidden = decoder(torch.tensor(prompt), torch.arange(len(prompt)), causal_attend(1, len(prompt)))
    row: NDArray[np.float32] = decoder.logits(hidden[-1:])[0].float().numpy()
    return row
