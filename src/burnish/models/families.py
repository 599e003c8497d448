"""The family table: how each family spells its configuration and its tensors. Plain data, read both ways.

A family made of known mechanisms is one row of ``FAMILIES``.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from burnish.core.errors import BadCheckpoint, UnknownFamily, nearest
from burnish.models.decoder import DecoderConfig
from burnish.models.family_parts import (
    GPT2_SIZES,
    SIZES,
    Fields,
    Reader,
    activation,
    alternating_windows,
    biases,
    gemma_scales,
    gpt2_rest,
    heads,
    mlp_bias,
    one_window,
    rope,
    upper_windows,
    width,
    write_gemma,
    write_gpt2,
    write_llama,
    write_mistral,
    write_qwen,
)
from burnish.models.raw_config import Raw, flag, forbid, size


class Module(NamedTuple):
    """A module as the checkpoint names it, ``{}`` for the layer number, and where its rows go in our decoder.

    Several modules of ours share one of theirs in equal parts along the output axis (GPT-2's fused q, k, v).
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False  # GPT-2 stores (in, out)


class Family(NamedTuple):
    """One row of the table."""

    model_type: str
    architecture: str
    prefix: str  # of base-model tensors; checkpoints saved from the bare base model omit it
    modules: tuple[Module, ...]
    keys: Mapping[str, str]  # field of DecoderConfig -> key of config.json, for plain sizes
    read: tuple[Reader, ...]  # the rest, in order; each sees the fields read so far
    write: Callable[[DecoderConfig], Fields]  # config.json keys of that rest
    mechanisms: Fields  # what every model of the family has
    tied_by_default: bool
    forbidden: Mapping[str, Any] = {}  # key -> the only value supported


# --- tensor names -------------------------------------------------------------------------------------------------


def _modules(pairs: Mapping[str, str]) -> tuple[Module, ...]:
    return tuple(Module(theirs, (ours,)) for theirs, ours in pairs.items())


_BLOCK = {
    "model.embed_tokens": "embed_tokens",
    "model.layers.{}.input_layernorm": "layers.{}.attn_norm",
    "model.layers.{}.self_attn.q_proj": "layers.{}.attn.q_proj",
    "model.layers.{}.self_attn.k_proj": "layers.{}.attn.k_proj",
    "model.layers.{}.self_attn.v_proj": "layers.{}.attn.v_proj",
    "model.layers.{}.self_attn.o_proj": "layers.{}.attn.o_proj",
    "model.layers.{}.post_attention_layernorm": "layers.{}.mlp_norm",
    "model.layers.{}.mlp.gate_proj": "layers.{}.mlp.gate_proj",
    "model.layers.{}.mlp.up_proj": "layers.{}.mlp.up_proj",
    "model.layers.{}.mlp.down_proj": "layers.{}.mlp.down_proj",
    "model.norm": "norm",
    "lm_head": "lm_head",
}
_QK_NORM = {
    "model.layers.{}.self_attn.q_norm": "layers.{}.attn.q_norm",
    "model.layers.{}.self_attn.k_norm": "layers.{}.attn.k_norm",
}
_SANDWICH = {
    "model.layers.{}.post_attention_layernorm": "layers.{}.attn_out_norm",
    "model.layers.{}.pre_feedforward_layernorm": "layers.{}.mlp_norm",
    "model.layers.{}.post_feedforward_layernorm": "layers.{}.mlp_out_norm",
}
_GPT2_MODULES = (
    Module("transformer.wte", ("embed_tokens",)),
    Module("transformer.wpe", ("embed_positions",)),
    Module("transformer.h.{}.ln_1", ("layers.{}.attn_norm",)),
    Module("transformer.h.{}.attn.c_attn", tuple(f"layers.{{}}.attn.{x}_proj" for x in "qkv"), transposed=True),
    Module("transformer.h.{}.attn.c_proj", ("layers.{}.attn.o_proj",), transposed=True),
    Module("transformer.h.{}.ln_2", ("layers.{}.mlp_norm",)),
    Module("transformer.h.{}.mlp.c_fc", ("layers.{}.mlp.up_proj",), transposed=True),
    Module("transformer.h.{}.mlp.c_proj", ("layers.{}.mlp.down_proj",), transposed=True),
    Module("transformer.ln_f", ("norm",)),
    Module("lm_head", ("lm_head",)),
)

# --- the table ----------------------------------------------------------------------------------------------------


_ROWS = (
    Family(
        "llama",
        "LlamaForCausalLM",
        "model.",
        _modules(_BLOCK),
        SIZES,
        (heads(None), width(None), activation("hidden_act", "silu"), rope(10000.0), biases, mlp_bias),
        write_llama,
        {},
        tied_by_default=False,
    ),
    Family(
        "mistral",
        "MistralForCausalLM",
        "model.",
        _modules(_BLOCK),
        SIZES,
        (heads(8), width(None), activation("hidden_act", "silu"), rope(10000.0), one_window),
        write_mistral,
        {},
        tied_by_default=False,
    ),
    Family(
        "qwen2",
        "Qwen2ForCausalLM",
        "model.",
        _modules(_BLOCK),
        SIZES,
        (heads(32), width(None), activation("hidden_act", "silu"), rope(10000.0), upper_windows),
        write_qwen,
        {"qkv_bias": True},
        tied_by_default=False,
    ),
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        "model.",
        _modules(_BLOCK | _QK_NORM),
        SIZES,
        (heads(32), width(128), activation("hidden_act", "silu"), rope(10000.0), biases, upper_windows),
        write_qwen,
        {"qk_norm": True},
        tied_by_default=False,
    ),
    Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        "model.",
        _modules(_BLOCK | _QK_NORM | _SANDWICH),
        SIZES,
        (
            heads(4),
            width(256),
            activation("hidden_activation", "gelu_pytorch_tanh"),
            rope(1000000.0),
            biases,
            alternating_windows,
            gemma_scales,
        ),
        write_gemma,
        {"qk_norm": True, "norm_offset": 1.0, "norm_outputs": True},
        tied_by_default=True,
        # transformers reads this cap and never applies it, so a checkpoint that names one is ambiguous
        forbidden={"use_bidirectional_attention": False, "attn_logit_softcapping": None},
    ),
    Family(
        "gpt2",
        "GPT2LMHeadModel",
        "transformer.",
        _GPT2_MODULES,
        GPT2_SIZES,
        (activation("activation_function", "gelu_new"), gpt2_rest),
        write_gpt2,
        {"norm": "layer", "learned_positions": True, "gated_mlp": False}
        | {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
        tied_by_default=True,
        forbidden={"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    ),
)
FAMILIES = {family.model_type: family for family in _ROWS}


OTHER_KINDS = {"bert": "an encoder", "resnet": "a network for images", "residual-cnn": "a network for images"}
"""Model types that other files of this room read."""
STATE_SUFFIXES = (".th", ".pt", ".pth")  # of torch's state dictionaries, which only networks for images are read from


def refuse_state(path: Path) -> None:
    """Raise ``UnknownFamily`` for a state dictionary of torch, where a language model is wanted."""
    if path.is_file() and path.suffix in STATE_SUFFIXES:
        raise UnknownFamily(
            f"{str(path)!r} is a state dictionary, which no language model is read from",
            remedy="A network for images can be compressed, exported with --to onnx, and measured by burnish quality",
        )


def find_family(raw: Raw) -> Family:
    """The row a config.json belongs to. Raises ``UnknownFamily`` naming the nearest."""
    name = raw.get("model_type")
    if not isinstance(name, str):
        raise UnknownFamily(f"config.json: model_type = {name!r} is no family", remedy=nearest("", list(FAMILIES)))
    if name in OTHER_KINDS:
        raise UnknownFamily(
            f"model_type {name!r} is {OTHER_KINDS[name]}, no language model",
            remedy="It can be compressed, exported with --to onnx, and measured by burnish quality",
        )
    if name not in FAMILIES:
        raise UnknownFamily(f"unknown model family {name!r}", remedy=nearest(name, list(FAMILIES)))
    return FAMILIES[name]


def read_config(raw: Raw) -> DecoderConfig:
    """The decoder a config.json describes.

    Raises ``UnknownFamily``, or ``BadCheckpoint`` for a value that is missing, of the wrong type or unsupported.
    """
    family = find_family(raw)
    forbid(raw, **family.forbidden)
    read: Fields = {field: size(raw, key) for field, key in family.keys.items()}
    read["tied_embeddings"] = flag(raw, "tie_word_embeddings", family.tied_by_default)
    read |= family.mechanisms
    for reader in family.read:
        read |= reader(raw, read)
    return DecoderConfig(**read)


def write_config(family: Family, config: DecoderConfig) -> dict[str, Any]:
    """A config.json that ``read_config`` turns back into ``config``.

    Raises ``BadCheckpoint`` naming the fields the family has no words for.
    """
    raw: dict[str, Any] = {"architectures": [family.architecture], "model_type": family.model_type}
    raw |= {key: getattr(config, field) for field, key in family.keys.items()}
    raw |= {"tie_word_embeddings": config.tied_embeddings} | family.write(config)
    back = read_config(raw)
    lost = [field.name for field in fields(config) if getattr(back, field.name) != getattr(config, field.name)]
    if lost:
        raise BadCheckpoint(
            f"family {family.model_type!r} cannot express {', '.join(lost)}", remedy="Save it as another family"
        )
    return raw
