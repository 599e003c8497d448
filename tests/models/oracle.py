"""Tiny random models made by transformers: the truth our families are held against."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor

TOKENS = torch.Generator().manual_seed(5)
SEQUENCES = [torch.randint(0, 96, (n,), generator=TOKENS).tolist() for n in (1, 7, 40, 90)]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
WIDE = {"head_dim": 32}


class Variant(NamedTuple):
    """A family, and what sets this model of it apart."""

    family: str
    changes: dict[str, Any] = {}  # noqa: RUF012 - never changed


VARIANTS = {
    "llama": Variant("llama"),
    "llama tied, biased, wide heads": Variant(
        "llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True} | WIDE
    ),
    "llama without groups": Variant("llama", {"num_key_value_heads": None}),
    "llama3 scaling": Variant("llama", {"rope_parameters": LLAMA3}),
    "linear scaling": Variant("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}}),
    "yarn scaling": Variant("llama", {"rope_parameters": YARN}),
    "yarn scaling with mscale": Variant("llama", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.3}}),
    "mistral": Variant("mistral", {"sliding_window": 16}),
    "mistral without window": Variant("mistral", {"sliding_window": None}),
    "qwen2": Variant("qwen2"),
    "qwen2 with windows": Variant("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": Variant("qwen3", WIDE),
    "qwen3 biased": Variant("qwen3", {"attention_bias": True, "head_dim": 16}),
    "gemma3": Variant("gemma3_text", {"sliding_window": 16, "query_pre_attn_scalar": 24} | WIDE),
    "gemma3 capped": Variant("gemma3_text", {"final_logit_softcapping": 3.0, "head_dim": 16}),
    "gemma3 scaled": Variant(
        "gemma3_text",
        {
            "sliding_window": 8,
            "head_dim": 16,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gpt2": Variant("gpt2"),
    "gpt2 unscaled, untied": Variant("gpt2", {"scale_attn_weights": False, "tie_word_embeddings": False}),
}
_SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": None,
}
_GPT2_SIZES: dict[str, Any] = {"vocab_size": 96, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128}
_GPT2_SIZES |= {"bos_token_id": 1, "eos_token_id": 2}


def make(variant: Variant) -> Any:
    """A seeded random model whose logits depend on every weight."""
    torch.manual_seed(0)
    sizes = _GPT2_SIZES if variant.family == "gpt2" else _SIZES
    config = transformers.AutoConfig.for_model(variant.family, **(sizes | variant.changes))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            wide = parameter.dim() == 2
            parameter.copy_(torch.randn_like(parameter) * (0.15 if wide else 0.3) + (0 if wide else parameter))
    return model


@cache
def saved(name: str, root: Path) -> Path:
    """Folder of a variant under ``root``, saved by transformers once."""
    folder = root / name.replace(" ", "-").replace(",", "")
    make(VARIANTS[name]).save_pretrained(folder)
    return folder


def logits(model: Any, tokens: list[int]) -> Tensor:
    """What transformers computes for one sequence (T, V)."""
    with torch.no_grad():
        rows: Tensor = model(torch.tensor([tokens])).logits[0]
    return rows


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest logit."""
    return float((ours - theirs).abs().max() / theirs.abs().max())
