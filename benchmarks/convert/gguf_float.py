"""A checkpoint as a GGUF file in F16, which llama.cpp's own quantizer takes further.

    python -m benchmarks.convert.gguf_float CHECKPOINT OUT.gguf

Names and the order of rotary pairs are those of the GGUF specification for the architecture "llama".
"""

import json
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors import safe_open

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def main(checkpoint: Path, out: Path) -> None:
    """Write the file."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(str(out), "llama", use_temp_file=False)
    add_shape(writer, config)
    add_vocabulary(writer, config["vocab_size"])
    with safe_open(checkpoint / "model.safetensors", framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118 - not a dict
            writer.add_tensor(gguf_name(name), as_stored(name, stored.get_tensor(name), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    """The metadata of the architecture."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(head_dim(config))
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(config["vocab_size"])


def add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """Numbered words; the first three are unknown, begin and end, as SentencePiece has them."""
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(size)])
    writer.add_token_scores([-float(i) for i in range(size)])
    writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (size - len(kinds)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def gguf_name(name: str) -> str:
    """``model.layers.3.mlp.up_proj.weight`` -> ``blk.3.ffn_up.weight``."""
    if name in NAMES:
        return NAMES[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def as_stored(name: str, tensor: torch.Tensor, config: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Norms in F32, matrices in F16; queries and keys with a head's rotary halves interleaved."""
    if tensor.dim() == 1:
        return tensor.float().numpy()
    if "q_proj" in name or "k_proj" in name:
        rows, columns = tensor.shape
        tensor = tensor.view(-1, 2, head_dim(config) // 2, columns).transpose(1, 2).reshape(rows, columns)
    return tensor.half().contiguous().numpy()


def head_dim(config: dict[str, Any]) -> int:
    """Width of a head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
