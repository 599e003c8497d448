"""Write a trained model in the Hugging Face layout."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from burnish.models.decoder import Decoder, DecoderConfig
from scripts.builtin.tokenizer import end_tokens, write_tokenizer

_NAMES = ((".attn.", ".self_attn."), (".attn_norm.", ".input_layernorm."), (".mlp_norm.", ".post_attention_layernorm."))


def install(model: Decoder, tokenizer: Tokenizer, folder: Path) -> None:
    """Weights in bfloat16, configuration and tokenizer; the card is written apart."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {_published(name): weight.to(torch.bfloat16) for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    ends = end_tokens()
    _write_json(folder / "config.json", _configuration(model.config, ends[0]))
    generation: dict[str, object] = {"bos_token_id": ends[0], "eos_token_id": ends, "pad_token_id": ends[0]}
    sampling: dict[str, object] = {"do_sample": True, "temperature": 0.7, "top_p": 0.95}
    _write_json(folder / "generation_config.json", generation | sampling)
    write_tokenizer(tokenizer, folder, model.config.max_positions)


def round_weights(model: Decoder) -> Decoder:
    """The same model with the weights that are shipped: rounded to bfloat16, still stored as float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    return model


def _published(name: str) -> str:
    for ours, theirs in _NAMES:
        name = name.replace(ours, theirs)
    return f"model.{name}"


def _configuration(config: DecoderConfig, mark: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.inner_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tied_embeddings,
        "initializer_range": 0.02,
        "bos_token_id": mark,
        "eos_token_id": mark,
        "torch_dtype": "bfloat16",
    }


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
