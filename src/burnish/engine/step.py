"""One forward pass over the block pool's keys and values."""

import torch
from torch import Tensor

from burnish.engine.batch import Batch
from burnish.engine.config import KeyShape
from burnish.kernels import ops
from burnish.models.decoder import Decoder
from burnish.models.layers.attention import AttentionRule


class ForwardStep:
    """Runs a decoder for a batch. Owns the memory of the keys and values.

    N blocks of B tokens, G key/value heads of width D: (N, B, G, D) per layer, once for keys, once for values.
    """

    def __init__(self, decoder: Decoder, num_blocks: int, block_size: int) -> None:
        self.decoder = decoder
        keys = key_shape(decoder)
        shape = (num_blocks, block_size, keys.num_kv_heads, keys.head_dim)
        # Zeros, not garbage: attention multiplies unseen keys by an exact 0, and 0 * nan is nan.
        self._keys = [torch.zeros(shape) for _ in range(keys.num_layers)]
        self._values = [torch.zeros(shape) for _ in range(keys.num_layers)]

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Tensor:
        """Logits of the batch's last rows, (rows, vocabulary) float32."""

        def attend(rule: AttentionRule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self._keys[rule.layer], self._values[rule.layer]
            ops.write_keys(keys, batch.slots, k)
            ops.write_keys(values, batch.slots, v)
            return ops.paged_attention(
                q, keys, values, batch.layout, scale=rule.scale, window=rule.window, softcap=rule.softcap
            )

        hidden = self.decoder(batch.tokens, batch.positions, attend)
        return self.decoder.logits(hidden[batch.last_rows])


def key_shape(decoder: Decoder) -> KeyShape:
    """What a token's keys and values take in this decoder."""
    config = decoder.config
    return KeyShape(config.num_layers, config.num_kv_heads, config.head_dim)
