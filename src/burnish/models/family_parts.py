"""What the rows of the family table are made of: readers of config.json and their reverse.

A reader takes the raw configuration and the fields read so far, and returns more fields of ``DecoderConfig``.
"""

from collections.abc import Callable
from typing import Any

from burnish.core.errors import BadCheckpoint, nearest
from burnish.models.decoder import DecoderConfig
from burnish.models.raw_config import Raw, flag, number, optional_number, size, word, wrong
from burnish.models.rope_config import FULL, SLIDING, read_rope, read_window_theta, write_rope

Fields = dict[str, Any]  # of DecoderConfig
Reader = Callable[[Raw, Fields], Fields]

# --- sizes --------------------------------------------------------------------------------------------------------

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "inner_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "max_positions": "max_position_embeddings",
}
GPT2_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "max_positions": "n_positions",
}
WINDOW = {"sliding_window": 4096}  # in every family that has windows, where the key is absent
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_WRITTEN_ACTIVATIONS = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}

# --- readers: (config.json, fields so far) -> more fields ---------------------------------------------------------


def activation(key: str, default: str) -> Reader:
    """Activation of the MLP under this key."""

    def read(raw: Raw, _: Fields) -> Fields:
        name = word(raw, key, default)
        if name not in _ACTIVATIONS:
            raise BadCheckpoint(f"config.json: {key} = {name!r} is unknown", remedy=nearest(name, list(_ACTIVATIONS)))
        return {"activation": _ACTIVATIONS[name]}

    return read


def heads(default: int | None) -> Reader:
    """Key/value heads, and the epsilon of the norms.

    Without the key there are ``default`` key/value heads, as many as query heads where a family has no default;
    null always means as many as query heads.
    """

    def read(raw: Raw, so_far: Fields) -> Fields:
        query_heads = so_far["num_heads"]
        absent = query_heads if default is None or "num_key_value_heads" in raw else default
        kv_heads = size(raw, "num_key_value_heads", absent)
        if query_heads % kv_heads:
            raise wrong("num_key_value_heads", kv_heads, f"a divisor of the {query_heads} query heads")
        return {"num_kv_heads": kv_heads, "norm_eps": number(raw, "rms_norm_eps", 1e-6)}

    return read


def width(default: int | None) -> Reader:
    """Width of a head; without a default, the hidden width shared out among the heads."""

    def read(raw: Raw, so_far: Fields) -> Fields:
        hidden, heads = so_far["hidden_size"], so_far["num_heads"]
        if raw.get("head_dim") is None and default is None and hidden % heads:
            raise wrong("hidden_size", hidden, f"a multiple of the {heads} heads")
        head_dim = size(raw, "head_dim", default or hidden // heads)
        if head_dim % 2:
            raise wrong("head_dim", head_dim, "even, as rotary positions need")
        return {"head_dim": head_dim}

    return read


def rope(default_theta: float) -> Reader:
    """Rotation, with the theta a family uses when none is given."""

    def read(raw: Raw, _: Fields) -> Fields:
        theta, scaling = read_rope(raw, default_theta)
        return {"rope_theta": theta, "rope_scaling": scaling}

    return read


def biases(raw: Raw, _: Fields) -> Fields:
    """Biases of all four attention projections."""
    biased = flag(raw, "attention_bias", False)
    return {"qkv_bias": biased, "out_bias": biased}


def mlp_bias(raw: Raw, _: Fields) -> Fields:
    """Biases of the MLP."""
    return {"mlp_bias": flag(raw, "mlp_bias", False)}


def one_window(raw: Raw, so_far: Fields) -> Fields:
    """One sliding window for every layer; only null means none."""
    raw = WINDOW | dict(raw)
    if raw["sliding_window"] is None:
        return {}
    return {"windows": (size(raw, "sliding_window"),) * so_far["num_layers"]}


def upper_windows(raw: Raw, so_far: Fields) -> Fields:
    """Windows by ``layer_types``, or in the layers from ``max_window_layers`` on."""
    raw = WINDOW | dict(raw)
    if not flag(raw, "use_sliding_window", False) or raw["sliding_window"] is None:
        return {}
    first = raw.get("max_window_layers", 28)
    if isinstance(first, bool) or not isinstance(first, int):
        raise wrong("max_window_layers", first, "an integer")
    return _windows(raw, [SLIDING if i >= first else FULL for i in range(so_far["num_layers"])])


def alternating_windows(raw: Raw, so_far: Fields) -> Fields:
    """Windows by ``layer_types``, or in all but every sixth layer."""
    period = size(raw, "sliding_window_pattern", size(raw, "_sliding_window_pattern", 6))
    kinds = [SLIDING if (i + 1) % period else FULL for i in range(so_far["num_layers"])]
    return _windows(WINDOW | dict(raw), kinds)


def _windows(raw: Raw, default_kinds: list[str]) -> Fields:
    kinds = raw.get("layer_types")
    kinds = default_kinds if kinds is None else kinds
    if not isinstance(kinds, list) or len(kinds) != len(default_kinds) or any(k not in (FULL, SLIDING) for k in kinds):
        raise wrong("layer_types", kinds, f"a list of {len(default_kinds)} times {FULL!r} or {SLIDING!r}")
    if SLIDING not in kinds:
        return {}
    window = size(raw, "sliding_window")
    return {"windows": tuple(window if kind == SLIDING else None for kind in kinds)}


def gemma_scales(raw: Raw, so_far: Fields) -> Fields:
    """Gemma's scaled embedding and scores, capped logits and rotation of windowed layers."""
    return {
        "embedding_scale": float(so_far["hidden_size"]) ** 0.5,
        "attention_scale": number(raw, "query_pre_attn_scalar", 256.0) ** -0.5,
        "logit_softcap": optional_number(raw, "final_logit_softcapping"),
        "window_rope_theta": read_window_theta(raw, 10000.0),
    }


def gpt2_rest(raw: Raw, so_far: Fields) -> Fields:
    """GPT-2's heads, inner width and epsilon under their own keys."""
    hidden, heads = so_far["hidden_size"], so_far["num_heads"]
    if hidden % heads:
        raise wrong("n_embd", hidden, f"a multiple of the {heads} heads")
    return {
        "num_kv_heads": heads,
        "head_dim": hidden // heads,
        "inner_size": size(raw, "n_inner", 4 * hidden),
        "norm_eps": number(raw, "layer_norm_epsilon", 1e-5),
        "attention_scale": None if flag(raw, "scale_attn_weights", True) else 1.0,
    }


# --- writers: what config.json needs beside the plain sizes -------------------------------------------------------


def write_llama(config: DecoderConfig) -> Fields:
    """Reverse of the Llama readers."""
    return {
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": _WRITTEN_ACTIVATIONS[config.activation],
        "rms_norm_eps": config.norm_eps,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
    } | write_rope(config.rope_theta, config.rope_scaling)


def write_mistral(config: DecoderConfig) -> Fields:
    """Reverse of the Mistral readers."""
    return write_llama(config) | {"sliding_window": config.window(0)}


def write_qwen(config: DecoderConfig) -> Fields:
    """Reverse of the Qwen readers."""
    window = max((w for w in config.windows if w is not None), default=None)
    kinds = [FULL if config.window(i) is None else SLIDING for i in range(config.num_layers)]
    windowed = {"use_sliding_window": window is not None, "sliding_window": window, "layer_types": kinds}
    return write_llama(config) | windowed


def write_gemma(config: DecoderConfig) -> Fields:
    """Reverse of the Gemma readers."""
    written = write_qwen(config)
    written["hidden_activation"] = written.pop("hidden_act")
    scalar = round((config.attention_scale or config.head_dim**-0.5) ** -2, 6)
    written["query_pre_attn_scalar"] = int(scalar) if scalar.is_integer() else scalar
    written["rope_local_base_freq"] = config.window_rope_theta
    written["final_logit_softcapping"] = config.logit_softcap
    return written


def write_gpt2(config: DecoderConfig) -> Fields:
    """Reverse of the GPT-2 readers."""
    return {
        "n_inner": config.inner_size,
        "activation_function": {"gelu_tanh": "gelu_new"}.get(config.activation, config.activation),
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": config.attention_scale is None,
    }
