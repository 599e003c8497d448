"""The metadata of a GGUF file from a decoder's configuration: the reverse of ``config``.

Source: ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, src/llama-model.cpp (what an architecture computes).
"""

from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from burnish.core.errors import BadCheckpoint, UnknownFamily
from burnish.models.decoder import DecoderConfig
from burnish.models.gguf.names import ARCHITECTURES, Architecture
from burnish.models.layers.rope import RopeScaling, log_growth

_SAME_AS_LLAMA = {"mistral": "llama"}  # llama.cpp knows no architecture of that name
_GEMMA_PERIOD = 6  # every sixth layer sees everything
_GEMMA_27B_LAYERS = 62  # by which llama.cpp knows the model whose scores are not scaled by the width of a head
REMEDY = "Export it with --to hf"


class Described(NamedTuple):
    """A decoder in the words of GGUF."""

    name: str  # of the architecture
    architecture: Architecture
    metadata: dict[str, Any]  # key -> bool, integer, float, string
    rope_factors: Tensor | None  # (D / 2,): what Llama 3 divides every frequency by


def describe(family: str, config: DecoderConfig) -> Described:
    """The architecture and metadata that make llama.cpp compute this decoder.

    Windows are written where the architecture has them; elsewhere the context is cut to the narrowest, within which
    a window changes nothing. Raises ``UnknownFamily``, or ``BadCheckpoint`` naming what llama.cpp cannot express.
    """
    name = _SAME_AS_LLAMA.get(family, next((n for n, a in ARCHITECTURES.items() if a.family == family), ""))
    if not name:
        known = ", ".join(sorted({*_SAME_AS_LLAMA, *(a.family for a in ARCHITECTURES.values())}))
        raise UnknownFamily(f"models of family {family!r} are not exported to GGUF", remedy=f"{REMEDY}. Known: {known}")
    _refuse_inexpressible(name, family, config)
    metadata = _sizes(config) | _rotation(config) | (_gemma(config) if name == "gemma3" else {})
    keys = {f"{name}.{key}": value for key, value in metadata.items()}
    return Described(name, ARCHITECTURES[name], keys, _rope_factors(config))


def _refuse_inexpressible(name: str, family: str, config: DecoderConfig) -> None:
    """Compare with the decoder llama.cpp would build: what differs is what GGUF has no words for."""
    understood = replace(
        config,
        norm="rms",
        norm_offset=1.0 if name == "gemma3" else 0.0,
        qk_norm=name in ("qwen3", "gemma3"),
        norm_outputs=name == "gemma3",
        attention_softcap=None,
        learned_positions=False,
        activation="gelu_tanh" if name == "gemma3" else "silu",
        gated_mlp=True,
        **(_understood_gemma(config) if name == "gemma3" else _understood(name, config)),
    )
    lost = [field.name for field in fields(config) if getattr(understood, field.name) != getattr(config, field.name)]
    if lost:
        raise BadCheckpoint(f"llama.cpp's {name!r} cannot express {', '.join(lost)} of this {family}", remedy=REMEDY)
    scaling = config.rope_scaling
    if scaling is not None and scaling.attention_factor not in (None, log_growth(scaling.factor)):
        raise BadCheckpoint(
            f"llama.cpp cannot express the attention factor {scaling.attention_factor} of YaRN", remedy=REMEDY
        )


def _understood(name: str, config: DecoderConfig) -> dict[str, Any]:
    biases = {} if name == "llama" else {"qkv_bias": name == "qwen2", "out_bias": False, "mlp_bias": False}
    return {
        "attention_scale": None,
        "window_rope_theta": None,
        "embedding_scale": 1.0,
        "logit_softcap": None,
        **biases,
    }


def _understood_gemma(config: DecoderConfig) -> dict[str, Any]:
    windows = {window for window in config.windows if window is not None}
    window = windows.pop() if len(windows) == 1 else None
    layers = range(config.num_layers)
    is_27b = config.num_layers == _GEMMA_27B_LAYERS
    scale = float(config.hidden_size // config.num_heads if is_27b else config.head_dim) ** -0.5
    return {
        "qkv_bias": False,
        "out_bias": False,
        "mlp_bias": False,
        "windows": tuple(window if (layer + 1) % _GEMMA_PERIOD else None for layer in layers) if window else (),
        "attention_scale": scale,
        "embedding_scale": float(config.hidden_size) ** 0.5,
    }


def _sizes(config: DecoderConfig) -> dict[str, Any]:
    return {
        "context_length": _context(config),
        "embedding_length": config.hidden_size,
        "block_count": config.num_layers,
        "feed_forward_length": config.inner_size,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.norm_eps,
        "vocab_size": config.vocab_size,
    }


def _context(config: DecoderConfig) -> int:
    if config.window_rope_theta is not None:  # Gemma 3, whose windows are written
        return config.max_positions
    return min((config.max_positions, *(window for window in config.windows if window is not None)))


def _rotation(config: DecoderConfig) -> dict[str, Any]:
    rotation: dict[str, Any] = {"rope.freq_base": config.rope_theta, "rope.dimension_count": config.head_dim}
    scaling = config.rope_scaling
    if scaling is None or scaling.kind == "llama3":
        return rotation
    rotation |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": float(scaling.factor)}
    if scaling.kind == "yarn":
        rotation |= {
            "rope.scaling.original_context_length": scaling.original_positions,
            "rope.scaling.yarn_beta_fast": scaling.beta_fast,
            "rope.scaling.yarn_beta_slow": scaling.beta_slow,
        }
    return rotation


def _gemma(config: DecoderConfig) -> dict[str, Any]:
    window = next((window for window in config.windows if window is not None), None)
    if window is None:
        raise BadCheckpoint("a Gemma 3 without windows is not exported to GGUF", remedy=REMEDY)
    cap = {} if config.logit_softcap is None else {"final_logit_softcapping": config.logit_softcap}
    return {"attention.sliding_window": window, "rope.freq_base_swa": config.window_rope_theta, **cap}


def _rope_factors(config: DecoderConfig) -> Tensor | None:
    scaling = config.rope_scaling
    if scaling is None or scaling.kind != "llama3":
        return None
    return _divisors(scaling, config.rope_theta, config.head_dim)


def _divisors(scaling: RopeScaling, theta: float, head_dim: int) -> Tensor:
    wavelengths = 2 * torch.pi * theta ** (torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = ((scaling.original_positions / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / scaling.factor + smooth)).float()
