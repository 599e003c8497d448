"""Write a trained model in the Hugging Face layout."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer

from burnish.models.checkpoint import save_checkpoint
from burnish.models.decoder import Decoder
from burnish.models.families import FAMILIES, write_config
from scripts.builtin.tokenizer import end_tokens, write_tokenizer


def install(model: Decoder, tokenizer: Tokenizer, folder: Path) -> None:
    """Weights in bfloat16, configuration and tokenizer; the card is written apart."""
    ends = end_tokens()
    raw_config = write_config(FAMILIES["llama"], model.config) | {"bos_token_id": ends[0], "eos_token_id": ends[0]}
    save_checkpoint(model, folder, family="llama", dtype=torch.bfloat16, raw_config=raw_config)
    generation = {
        "bos_token_id": ends[0],
        "eos_token_id": ends,
        "pad_token_id": ends[0],
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.95,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(tokenizer, folder, model.config.max_positions)


def round_weights(model: Decoder) -> Decoder:
    """The same model with the weights that are shipped: rounded to bfloat16, still stored as float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
    return model
