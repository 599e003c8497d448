"""Self-attention; where keys and values live is the business of the ``attend`` function it is given.

Shapes: R rows (tokens), H query heads, G key/value heads, D head width, E hidden width.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from burnish.kernels import ops
from burnish.models.layers.linear import Linear
from burnish.models.layers.norm import RMSNorm


class AttentionRule(NamedTuple):
    """What an attention function must know of the layer that calls it."""

    layer: int
    scale: float
    window: int | None
    softcap: float | None


Attend = Callable[[AttentionRule, Tensor, Tensor, Tensor], Tensor]
"""(rule, q (R, H, D), k (R, G, D), v (R, G, D)) -> (R, H, D)"""


class Rotation(NamedTuple):
    """Cosines and sines of the rows' rotary angles, each (R, D/2)."""

    cos: Tensor
    sin: Tensor


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with optional biases and query/key norms."""

    def __init__(
        self,
        rule: AttentionRule,
        *,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        qkv_bias: bool,
        out_bias: bool,
        qk_norm: Callable[[int], RMSNorm] | None,
    ) -> None:
        super().__init__()
        self.rule = rule
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.q_proj = Linear(hidden_size, num_heads * head_dim, bias=qkv_bias)
        self.k_proj = Linear(hidden_size, num_kv_heads * head_dim, bias=qkv_bias)
        self.v_proj = Linear(hidden_size, num_kv_heads * head_dim, bias=qkv_bias)
        self.o_proj = Linear(num_heads * head_dim, hidden_size, bias=out_bias)
        self.q_norm = qk_norm(head_dim) if qk_norm else None
        self.k_norm = qk_norm(head_dim) if qk_norm else None

    def forward(self, x: Tensor, rotation: Rotation | None, attend: Attend) -> Tensor:
        """x (R, E) -> (R, E)."""
        q = self.q_proj(x).view(-1, self.num_heads, self.head_dim)
        k = self.k_proj(x).view(-1, self.num_kv_heads, self.head_dim)
        v = self.v_proj(x).view(-1, self.num_kv_heads, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = ops.rotate(q, *rotation), ops.rotate(k, *rotation)
        mixed: Tensor = self.o_proj(attend(self.rule, q, k, v).flatten(1))
        return mixed


def causal_attend(batch: int, length: int) -> Attend:
    """Attention among ``batch`` whole sequences of ``length`` tokens each, no cache, differentiable."""

    def attend(rule: AttentionRule, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.view(batch, length, *t.shape[1:]).transpose(1, 2) for t in (q, k, v))
        if rule.softcap is None:
            mask = _causal_mask(length, rule.window)
            mixed = functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None, scale=rule.scale, enable_gqa=True
            )
        else:
            mixed = _softcapped(q, k, v, rule)
        return mixed.transpose(1, 2).reshape(batch * length, *q.shape[1:2], q.shape[3])

    return attend


def _causal_mask(length: int, window: int | None) -> Tensor | None:
    """True where a key is visible (length, length); None when plain causality says it all."""
    if window is None or window >= length:
        return None
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    return seen & ~seen.tril(-window)


def _softcapped(q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
    """Attention with tanh-capped scores (Gemma 2, section 2)."""
    assert rule.softcap is not None
    repeats, length = q.shape[1] // k.shape[1], q.shape[2]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = torch.tanh(q @ k.transpose(2, 3) * (rule.scale / rule.softcap)) * rule.softcap
    mask = _causal_mask(length, rule.window)
    seen = torch.ones(length, length, dtype=torch.bool).tril() if mask is None else mask
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v
