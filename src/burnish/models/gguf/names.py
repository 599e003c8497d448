"""The architectures of GGUF that burnish reads, and their tensors in the words of Hugging Face.

Source: ggml-org/llama.cpp, gguf-py/gguf/tensor_mapping.py and convert_hf_to_gguf.py.
"""

from collections.abc import Mapping
from typing import NamedTuple

from burnish.core.errors import UnknownFamily
from burnish.models.gguf.reader import Metadata

ROPE_FACTORS = "rope_freqs.weight"
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_SANDWICH = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


class Architecture(NamedTuple):
    """What the converter makes of a family."""

    family: str
    block: Mapping[str, str]  # module of a layer here -> in Hugging Face's words
    interleaved: bool = False  # rows of queries and keys are stored in adjacent rotary pairs
    norm_offset: float = 0.0  # added to the weights of norms


ARCHITECTURES = {
    "llama": Architecture("llama", _BLOCK, interleaved=True),
    "qwen2": Architecture("qwen2", _BLOCK),
    "qwen3": Architecture("qwen3", _BLOCK | _QK_NORM),
    "gemma3": Architecture("gemma3_text", _BLOCK | _QK_NORM | _SANDWICH, norm_offset=1.0),
}


def find_architecture(metadata: Metadata) -> tuple[str, Architecture]:
    """The architecture of a file and its name, which leads its keys. Raises ``UnknownFamily``."""
    name = metadata.need("general.architecture", str)
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnknownFamily(f"GGUF files of architecture {name[:40]!r} are not supported", remedy=f"Known: {known}")
    return name, ARCHITECTURES[name]


def full_name(architecture: Architecture, stored: str) -> str:
    """``blk.3.ffn_up.weight`` -> ``model.layers.3.mlp.up_proj.weight``; a name nobody knows stays."""
    module, _, kind = stored.rpartition(".")
    if module in _OUTER:
        return f"{_OUTER[module]}.{kind}"
    prefix, _, rest = module.partition(".")
    layer, _, part = rest.partition(".")
    if prefix != "blk" or part not in architecture.block:
        return stored
    return f"model.layers.{layer}.{architecture.block[part]}.{kind}"


def is_linear(name: str) -> bool:
    """Whether a full name is that of a linear layer's weight."""
    return name.endswith(("_proj.weight", "lm_head.weight"))
