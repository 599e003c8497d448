"""GGUF files for the tests: written by the library of llama.cpp, as its converter names and orders things."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import sentencepiece
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
Types = Callable[[str], str]  # name of a tensor there -> its type


class Float:
    """Everything as F32."""

    def __call__(self, name: str) -> str:
        return "F32"


def matrices(kind: str) -> Types:
    """Matrices of layers in this type, the rest as F32."""
    return lambda name: kind if name.startswith("blk") and name.endswith("weight") and "norm" not in name else "F32"


def blocks(weight: Tensor, kind: str) -> np.ndarray[Any, Any]:
    """A weight (O, I) in blocks; random ones with sane scales where the library cannot quantize."""
    qtype = GGMLQuantizationType[kind]
    try:
        return np.asarray(gguf.quantize(weight.numpy(), qtype))
    except NotImplementedError:
        inputs, size = GGML_QUANT_SIZES[qtype]
        rows, per_row = weight.shape[0], weight.shape[1] // inputs
        made = np.random.default_rng(weight.shape[0]).integers(0, 256, (rows, per_row, size), dtype=np.uint8)
        for at in {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,), "Q4_K": (0, 2), "Q5_K": (0, 2)}.get(kind, (0,)):
            made[..., at : at + 2] = np.frombuffer(np.float16(3e-4).tobytes(), np.uint8)
        return made.reshape(rows, per_row * size)


def write(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    types: Types | None = None,
    *,
    tokenizer: Path | None = None,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Write the file; returns the tensors it means, in the names and rows of Hugging Face.

    ``changes`` replace values of the metadata, None removes one; "rope_freqs.weight" among ``tensors`` stays as it is.
    """
    types = types or Float()
    gemma = config["model_type"] == "gemma3_text"
    architecture = {"gemma3_text": "gemma3"}.get(config["model_type"], config["model_type"])
    writer = gguf.GGUFWriter(str(path), architecture)
    for key, value in (_metadata(architecture, config) | dict(changes or {})).items():
        if key == "general.architecture":
            writer.kv_data[0][key].value = value
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif value is not None:
            writer.add_array(key, value)
    if tokenizer is not None:
        add_byte_level(writer, tokenizer)
    meant: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        theirs = name if name == "rope_freqs.weight" else stored_name(name, gemma=gemma)
        kind = types(theirs)
        data = np.asarray(_rows(name, tensor, config).contiguous())
        if kind in ("F32", "F16"):
            data = data.astype(np.float16 if kind == "F16" else np.float32)
            writer.add_tensor(theirs, data)
            floats = torch.from_numpy(data.astype(np.float32))
        else:
            packed = blocks(torch.from_numpy(data), kind)
            writer.add_tensor(theirs, packed, raw_dtype=GGMLQuantizationType[kind])
            floats = torch.from_numpy(np.array(gguf.dequantize(packed, GGMLQuantizationType[kind])))
        meant[name] = _rows(name, floats, config, back=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


def stored_name(name: str, *, gemma: bool = False) -> str:
    module, _, kind = name.rpartition(".")
    names = _NAMES | (_GEMMA if gemma else {})
    if module in names:
        return f"{names[module]}.{kind}"
    layer, _, part = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{names[part]}.{kind}"


def _rows(name: str, tensor: Tensor, config: Mapping[str, Any], *, back: bool = False) -> Tensor:
    """What the converter does to a tensor, or its reverse, spelt out row by row."""
    if config["model_type"] == "gemma3_text" and name.endswith("norm.weight"):
        return tensor - 1 if back else tensor + 1
    if config["model_type"] != "llama" or ("q_proj" not in name and "k_proj" not in name):
        return tensor
    width = config["head_dim"]
    moved = torch.empty_like(tensor)
    for head in range(0, tensor.shape[0], width):
        for row in range(width):
            halves, pairs = head + row, head + (2 * row if row < width // 2 else 2 * (row - width // 2) + 1)
            source, target = (pairs, halves) if back else (halves, pairs)
            moved[target] = tensor[source]
    return moved


def _metadata(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters") or {}
    full = rope.get("full_attention", rope)
    found: dict[str, Any] = {
        "general.architecture": name,
        f"{name}.context_length": config["max_position_embeddings"],
        f"{name}.embedding_length": config["hidden_size"],
        f"{name}.block_count": config["num_hidden_layers"],
        f"{name}.feed_forward_length": config["intermediate_size"],
        f"{name}.attention.head_count": config["num_attention_heads"],
        f"{name}.attention.head_count_kv": config["num_key_value_heads"],
        f"{name}.attention.key_length": config["head_dim"],
        f"{name}.attention.value_length": config["head_dim"],
        f"{name}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{name}.rope.freq_base": float(full.get("rope_theta", config.get("rope_theta", 10000.0))),
    }
    if full.get("rope_type") in ("linear", "yarn"):
        found |= {f"{name}.rope.scaling.type": full["rope_type"], f"{name}.rope.scaling.factor": float(full["factor"])}
    if full.get("rope_type") == "yarn":
        found[f"{name}.rope.scaling.original_context_length"] = full["original_max_position_embeddings"]
    if name == "gemma3":
        found[f"{name}.attention.sliding_window"] = config["sliding_window"]
    return found


def add_byte_level(writer: gguf.GGUFWriter, folder: Path, pre: str = "gpt-2", *, adds_begin: bool = True) -> None:
    """The tokenizer.json of a folder as the converter writes byte-level BPE."""
    spec = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    added = {token["id"]: token for token in spec["added_tokens"]}
    ids = dict(spec["model"]["vocab"]) | {token["content"]: token_id for token_id, token in added.items()}
    ordered = sorted(ids, key=ids.__getitem__)
    kinds = [1 if i not in added else (3 if added[i]["special"] else 4) for i in range(len(ordered))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(ordered)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]])
    for key, add in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id)):
        named = config[key]
        add(ids[named if isinstance(named, str) else named["content"]])
    writer.add_add_bos_token(adds_begin)
    writer.add_chat_template(config["chat_template"])


def add_pieces(writer: gguf.GGUFWriter, model: Path) -> None:
    """A model of SentencePiece as the converter writes it."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    size = pieces.vocab_size()
    kinds = [
        2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1 for i in range(size)
    ]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(i) for i in range(size)])
    writer.add_token_scores([pieces.get_score(i) for i in range(size)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.add_unk_token_id(pieces.unk_id())


def write_vocabulary(path: Path, *add: Callable[[gguf.GGUFWriter], None]) -> Path:
    """A file of metadata alone."""
    writer = gguf.GGUFWriter(str(path), "llama")
    for one in add:
        one(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
