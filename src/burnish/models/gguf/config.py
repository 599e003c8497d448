"""The metadata of a GGUF file in the words of a Hugging Face config.json.

Source: ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, convert_hf_to_gguf.py and src/llama-model.cpp.
"""

import math
from typing import Any

import numpy as np

from burnish.core.errors import BadCheckpoint
from burnish.models.families import read_config
from burnish.models.formats import ggml
from burnish.models.gguf.names import ROPE_FACTORS, Architecture, find_architecture, full_name, is_linear
from burnish.models.gguf.reader import GgufFile, Metadata

FLOATS = ("F32", "F16", "BF16")
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_UNKNOWN = ("expert_count", "attention.scale", "logit_scale", "residual_scale", "embedding_scale", "pooling_type")


def read_raw_config(file: GgufFile) -> dict[str, Any]:
    """What config.json would say, the formats of quantized weights in ``quantization_config``.

    Raises ``UnknownFamily``, or ``BadCheckpoint`` for metadata that is missing, contradictory or unsupported.
    """
    name, architecture = find_architecture(file.metadata)
    _refuse_unknown(file.metadata, name)
    raw = {"model_type": architecture.family, **_sizes(file, name), **_rotation(file, name)}
    if architecture.family == "llama":
        raw |= {"attention_bias": "blk.0.attn_q.bias" in file.tensors, "mlp_bias": "blk.0.ffn_up.bias" in file.tensors}
    if architecture.family == "gemma3_text":
        raw |= _gemma(file.metadata, name, raw)
    try:
        read_config(raw)
    except BadCheckpoint as error:
        raise file.metadata.fault(error.message.removeprefix("config.json: ")) from None
    types = _types(file, architecture)
    return raw | ({"quantization_config": {"quant_method": ggml.METHOD, "types": types}} if types else {})


def _refuse_unknown(metadata: Metadata, name: str) -> None:
    for key in (f"{name}.{key}" for key in _UNKNOWN):
        if metadata.get(key, object):
            raise metadata.fault(f"{key} = {metadata.get(key, object)!r} is not supported", "Take a plain model")


def _sizes(file: GgufFile, name: str) -> dict[str, Any]:
    metadata = file.metadata
    heads = _heads(metadata, f"{name}.attention.head_count")
    layers = metadata.need(f"{name}.block_count", int)
    if layers > len(file.tensors):
        raise metadata.fault(f"there are {layers} layers in {len(file.tensors)} tensors")
    words = file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else None
    return {
        "hidden_size": metadata.need(f"{name}.embedding_length", int),
        "intermediate_size": metadata.need(f"{name}.feed_forward_length", int),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": _heads(metadata, f"{name}.attention.head_count_kv", heads),
        "head_dim": head_dim(metadata, name),
        "vocab_size": words or metadata.need(f"{name}.vocab_size", int),
        "max_position_embeddings": metadata.need(f"{name}.context_length", int),
        "rms_norm_eps": _shortest(metadata.need(f"{name}.attention.layer_norm_rms_epsilon", float)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }


def _heads(metadata: Metadata, key: str, default: int | None = None) -> int:
    """A count that all layers share."""
    if default is not None and key not in metadata:
        return default
    found = metadata.need(key, object)
    counts = set(found) if isinstance(found, list) else {found}
    if len(counts) != 1 or not isinstance(count := counts.pop(), int) or count <= 0:
        raise metadata.fault(f"{key} = {found!r} is not one positive number for all layers")
    return count


def head_dim(metadata: Metadata, name: str) -> int:
    """Width of a head. Raises ``BadCheckpoint`` where queries, values or rotation have another."""
    width = metadata.need(f"{name}.embedding_length", int) // _heads(metadata, f"{name}.attention.head_count")
    width = metadata.get(f"{name}.attention.key_length", int, width) or 0
    for key in (f"{name}.attention.value_length", f"{name}.rope.dimension_count"):
        if metadata.get(key, int, width) != width:
            raise metadata.fault(f"{key} = {metadata.get(key, int)} differs from the width {width} of a head")
    if width <= 0 or width % 2:
        raise metadata.fault(f"heads of {width} values cannot be rotated")
    return width


def _shortest(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value))) if math.isfinite(value) else value


def _rotation(file: GgufFile, name: str) -> dict[str, Any]:
    metadata, key = file.metadata, f"{name}.rope"
    theta = _shortest(metadata.get(f"{key}.freq_base", float) or 10000.0)
    factor = metadata.get(f"{key}.scaling.factor", float) or metadata.get(f"{key}.scale_linear", float) or 1.0
    kind = metadata.get(f"{key}.scaling.type", str) or ("none" if factor == 1.0 else "linear")
    rotation: dict[str, Any] = {"rope_theta": theta}
    if ROPE_FACTORS in file.tensors:
        return rotation | _llama3(file, theta, 2 * file.tensors[ROPE_FACTORS].data.size)
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return rotation
    if kind == "linear":
        return rotation | {"rope_scaling": {"rope_type": kind, "factor": _shortest(factor)}}
    if kind != "yarn" or metadata.get(f"{key}.scaling.attn_factor", float, 1.0) != 1.0:
        raise metadata.fault(f"rope scaling {kind!r} is not supported so", "Known: linear, yarn, and that of Llama 3")
    original = metadata.need(f"{key}.scaling.original_context_length", int)
    settings = {"rope_type": kind, "factor": _shortest(factor), "original_max_position_embeddings": original}
    for ours in ("beta_fast", "beta_slow"):
        if (value := metadata.get(f"{key}.scaling.yarn_{ours}", float)) is not None:
            settings[ours] = _shortest(value)
    return rotation | {"rope_scaling": settings}


def _llama3(file: GgufFile, theta: float, width: int) -> dict[str, Any]:
    """The settings of Llama 3 that give the factors of the file.

    The file holds what every frequency is divided by; the settings all of Llama 3's models share leave one number
    free, the greatest of them.
    """
    found = file.tensors[ROPE_FACTORS].data.astype(np.float64).ravel()
    factor = float(found.max(initial=1.0))
    if np.all(found == 1.0):
        return {}
    wavelengths = 2 * math.pi * theta ** (np.arange(0, width, 2) / width)
    low, high = LLAMA3["low_freq_factor"], LLAMA3["high_freq_factor"]
    smooth = np.clip((LLAMA3["original_max_position_embeddings"] / wavelengths - low) / (high - low), 0, 1)
    expected = 1 / ((1 - smooth) / factor + smooth)
    if not np.allclose(found, expected, rtol=1e-4, atol=0):
        raise file.metadata.fault(
            f"the rotary factors in {ROPE_FACTORS} are not those of Llama 3", "Take the Hugging Face model"
        )
    return {"rope_scaling": {"rope_type": "llama3", "factor": _shortest(factor), **LLAMA3}}


def _gemma(metadata: Metadata, name: str, raw: dict[str, Any]) -> dict[str, Any]:
    """What the converter leaves out is what all of Gemma 3's models share."""
    is_27b = raw["num_hidden_layers"] == 62  # the one whose scores are not scaled by the width of a head
    scalar = raw["hidden_size"] // raw["num_attention_heads"] if is_27b else raw["head_dim"]
    local = metadata.get(f"{name}.rope.freq_base_swa", float) or 10000.0
    cap = metadata.get(f"{name}.final_logit_softcapping", float)
    return {
        "rope_theta": _shortest(metadata.get(f"{name}.rope.freq_base", float) or 1e6),
        "rope_local_base_freq": _shortest(local),
        "query_pre_attn_scalar": scalar,
        "sliding_window": metadata.need(f"{name}.attention.sliding_window", int),
        "final_logit_softcapping": _shortest(cap) if cap else None,
    }


def _types(file: GgufFile, architecture: Architecture) -> dict[str, str]:
    """Linear layers stored as blocks -> the type of their blocks."""
    named = {full_name(architecture, name): tensor.type for name, tensor in file.tensors.items()}
    return {
        name.removesuffix(".weight"): kind for name, kind in named.items() if is_linear(name) and kind not in FLOATS
    }
