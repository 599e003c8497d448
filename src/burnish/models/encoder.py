"""A bidirectional encoder of the BERT kind, over flat rows: texts of any lengths one after the other, nothing padded.

Shapes: R rows (tokens of all texts, flat), B texts, E hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from burnish.models.layers.attention import Attend, Attention, AttentionRule
from burnish.models.layers.mlp import MLP
from burnish.models.layers.norm import LayerNorm

Pooling = Literal["mean", "first"]


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The sizes of an encoder, and how a text's rows become one."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    inner_size: int
    max_positions: int
    num_types: int = 2  # of segments; all rows are of the first
    norm_eps: float = 1e-12
    activation: str = "gelu"
    pooling: Pooling = "mean"
    normalized: bool = True  # embeddings have length one


class EncoderBlock(nn.Module):
    """Attention and MLP, each added to the stream, which is normalised after either (Devlin et al. 2018)."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        head_dim = config.hidden_size // config.num_heads
        self.attn = Attention(
            AttentionRule(layer, head_dim**-0.5, None, None),
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_heads,
            head_dim=head_dim,
            qkv_bias=True,
            out_bias=True,
            qk_norm=None,
        )
        self.attn_norm = LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = MLP(config.hidden_size, config.inner_size, activation=config.activation, bias=True)
        self.mlp_norm = LayerNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """x (R, E) -> (R, E)."""
        x = self.attn_norm(x + self.attn(x, None, attend))
        out: Tensor = self.mlp_norm(x + self.mlp(x))
        return out


class Encoder(nn.Module):
    """Texts in, a row per token out; ``embed`` makes one row per text of them."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_positions, config.hidden_size)
        self.embed_types = nn.Embedding(config.num_types, config.hidden_size)
        self.embed_norm = LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.layers = nn.ModuleList(EncoderBlock(config, layer) for layer in range(config.num_layers))

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """tokens (R,) and positions (R,), int64 -> hidden rows (R, E)."""
        x = self.begin(tokens, positions)
        for block in self.layers:
            x = block(x, attend)
        return x

    def begin(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens (R,) and positions (R,) -> the stream before the first layer (R, E)."""
        x = self.embed_tokens(tokens) + self.embed_positions(positions) + self.embed_types.weight[0]
        out: Tensor = self.embed_norm(x)
        return out

    def embed(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Embeddings of texts (B token lists, none empty) -> (B, E)."""
        lengths = [len(text) for text in texts]
        tokens = torch.tensor([token for text in texts for token in text])
        positions = torch.cat([torch.arange(length) for length in lengths])
        return self.pool(self(tokens, positions, full_attend(lengths)), lengths)

    def pool(self, hidden: Tensor, lengths: Sequence[int]) -> Tensor:
        """hidden (R, E) of texts of these lengths -> (B, E)."""
        texts = torch.split(hidden, list(lengths))
        rows = torch.stack([text[0] if self.config.pooling == "first" else text.mean(0) for text in texts])
        return functional.normalize(rows, dim=-1) if self.config.normalized else rows


def full_attend(lengths: Sequence[int]) -> Attend:
    """Attention of every token to all of its own text; texts lie one after the other in the rows."""

    def attend(rule: AttentionRule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.transpose(0, 1) for t in (q, k, v))
        texts = zip(*(torch.split(t, list(lengths), 1) for t in (q, k, v)), strict=True)
        mixed = [functional.scaled_dot_product_attention(q, k, v, scale=rule.scale) for q, k, v in texts]
        return torch.cat([one.transpose(0, 1) for one in mixed])

    return attend
