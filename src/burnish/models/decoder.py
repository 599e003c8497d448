"""One decoder for every family: mechanisms switched by data, no family names in here.

Shapes: R rows (tokens of all sequences, flat), E hidden width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from burnish.kernels import ops
from burnish.models.layers.attention import Attend, Attention, AttentionRule, Rotation
from burnish.models.layers.linear import Linear
from burnish.models.layers.mlp import MLP, GatedMLP
from burnish.models.layers.norm import LayerNorm, RMSNorm
from burnish.models.layers.rope import RopeScaling, rope_tables


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The mechanisms of a decoder and their sizes."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    inner_size: int
    max_positions: int
    tied_embeddings: bool
    # normalisation
    norm: str = "rms"  # rms | layer
    norm_eps: float = 1e-5
    norm_offset: float = 0.0  # 1 when checkpoints store weight - 1
    qk_norm: bool = False
    norm_outputs: bool = False  # also normalise what attention and MLP return
    # attention
    windows: tuple[int | None, ...] = ()  # per layer; empty: every layer sees everything
    qkv_bias: bool = False
    out_bias: bool = False
    attention_scale: float | None = None  # default head_dim ** -0.5
    attention_softcap: float | None = None
    # positions
    learned_positions: bool = False
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    window_rope_theta: float | None = None  # layers with a window rotate by this theta, unscaled
    # MLP, embedding, logits
    activation: str = "silu"
    gated_mlp: bool = True
    mlp_bias: bool = False
    embedding_scale: float = 1.0
    logit_softcap: float | None = None

    def window(self, layer: int) -> int | None:
        """Sliding window of a layer, in tokens; None when it sees the whole context."""
        return self.windows[layer] if self.windows else None


class Block(nn.Module):
    """Attention and MLP, each on a normalised input, each added to the stream."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        scale = config.attention_scale if config.attention_scale is not None else config.head_dim**-0.5
        self.attn_norm = make_norm(config)
        self.attn = Attention(
            AttentionRule(layer, scale, config.window(layer), config.attention_softcap),
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            qkv_bias=config.qkv_bias,
            out_bias=config.out_bias,
            qk_norm=(lambda size: RMSNorm(size, eps=config.norm_eps, offset=config.norm_offset))
            if config.qk_norm
            else None,
        )
        self.attn_out_norm = make_norm(config) if config.norm_outputs else nn.Identity()
        self.mlp_norm = make_norm(config)
        mlp = GatedMLP if config.gated_mlp else MLP
        self.mlp = mlp(config.hidden_size, config.inner_size, activation=config.activation, bias=config.mlp_bias)
        self.mlp_out_norm = make_norm(config) if config.norm_outputs else nn.Identity()

    def forward(self, x: Tensor, rotation: Rotation | None, attend: Attend) -> Tensor:
        """x (R, E) -> (R, E)."""
        x = x + self.attn_out_norm(self.attn(self.attn_norm(x), rotation, attend))
        out: Tensor = x + self.mlp_out_norm(self.mlp(self.mlp_norm(x)))
        return out


class Decoder(nn.Module):
    """A causal language model over flat rows; the caller's ``attend`` owns keys and values."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        if config.learned_positions:
            self.embed_positions = nn.Embedding(config.max_positions, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.norm = make_norm(config)
        if not config.tied_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self._tables: dict[bool, tuple[Tensor, Tensor]] = {}

    def forward(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """tokens (R,) and positions (R,), int64 -> hidden rows (R, E), normalised, ready for ``logits``."""
        x = self.embed(tokens, positions)
        for block, rotation in zip(self.layers, self.rotations(positions), strict=True):
            x = block(x, rotation, attend)
        out: Tensor = self.norm(x)
        return out

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens (R,) and positions (R,), int64 -> the stream before the first layer (R, E)."""
        x: Tensor = self.embed_tokens(tokens)
        if self.config.embedding_scale != 1.0:
            x = x * self.config.embedding_scale
        return x + self.embed_positions(positions) if self.config.learned_positions else x

    def rotations(self, positions: Tensor) -> list[Rotation | None]:
        """What each layer rotates queries and keys by; layers of one kind share it."""
        rotations = {local: self._rotation(positions, local) for local in self._localities()}
        return [rotations[self.is_local(layer)] for layer in range(self.config.num_layers)]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (R, E) -> logits (R, V), float32."""
        logits = ops.linear(hidden, self.embed_tokens.weight) if self.config.tied_embeddings else self.lm_head(hidden)
        cap = self.config.logit_softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def is_local(self, layer: int) -> bool:
        """Whether a layer rotates by the table of layers with a window."""
        return self.config.window_rope_theta is not None and self.config.window(layer) is not None

    def _localities(self) -> set[bool]:
        return {self.is_local(layer) for layer in range(self.config.num_layers)}

    def _rotation(self, positions: Tensor, local: bool) -> Rotation | None:
        if self.config.learned_positions:
            return None
        cos, sin = self.rotary_tables(local)
        return Rotation(cos[positions], sin[positions])

    def rotary_tables(self, local: bool) -> tuple[Tensor, Tensor]:
        """Cosines and sines by position, (max_positions, D/2) each; ``local``: those of layers with a window."""
        if local not in self._tables:
            theta = self.config.window_rope_theta if local else self.config.rope_theta
            assert theta is not None
            scaling = None if local else self.config.rope_scaling
            self._tables[local] = rope_tables(self.config.head_dim, self.config.max_positions, theta, scaling)
        return self._tables[local]


def make_norm(config: DecoderConfig) -> RMSNorm | LayerNorm:
    """The normalisation layer a configuration asks for."""
    if config.norm == "layer":
        return LayerNorm(config.hidden_size, eps=config.norm_eps)
    return RMSNorm(config.hidden_size, eps=config.norm_eps, offset=config.norm_offset)
