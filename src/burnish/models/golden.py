"""The outputs an artifact is recognised by."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.models.decoder import Decoder
from burnish.models.layers.attention import causal_attend


@torch.inference_mode()
def golden_logits(decoder: Decoder, prompts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Logits after the last token of every prompt, each prompt alone -> (prompts, V)."""
    rows = []
    for prompt in prompts:
        length = len(prompt)
        hidden = decoder(torch.tensor(prompt), torch.arange(length), causal_attend(1, length))
        rows.append(decoder.logits(hidden[-1:]))
    logits: NDArray[np.float32] = torch.cat(rows).numpy()
    return logits
