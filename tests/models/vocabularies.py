"""Tokenizer folders for the tests: GPT-2's byte-level BPE and Mistral's SentencePiece, from shared data."""

import json
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
CHAT += "{% if add_generation_prompt %}assistant:{% endif %}"


def write(folder: Path, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | config))
    return folder


def gpt2(source: Path, folder: Path) -> Path:
    """Byte-level BPE with an end token and a chat template."""
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(source / "vocab.json"), str(source / "vocab.bpe")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    backend.add_tokens(["<tool call>"])  # an added token that is text
    tokens = {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|endoftext|>"}}
    return write(folder, backend, tokens | {"chat_template": CHAT})


def mistral(source: Path, folder: Path) -> Path:
    """SentencePiece BPE with byte fallback, converted as transformers does."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(source / "tokenizer.model.v1"))
    ids = {pieces.id_to_piece(i): i for i in range(pieces.vocab_size())}
    ordered = sorted(ids, key=lambda piece: -pieces.get_score(ids[piece]))
    cuts = [(piece[:at], piece[at:]) for piece in ordered for at in range(1, len(piece))]
    merges = [(left, right) for left, right in cuts if left in ids and right in ids]
    backend = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", pair=None, special_tokens=[("<s>", 1)])
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    return write(folder, backend, {"bos_token": "<s>", "eos_token": "</s>"})
