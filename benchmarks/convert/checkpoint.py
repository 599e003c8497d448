"""A Hugging Face folder of a shape: random weights in bfloat16 and a tokenizer of numbered words.

    python -m benchmarks.convert.checkpoint CONFIG.json OUT

A CONFIG.json that has a model.safetensors beside it is a real model, whose weights are taken.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

STD = 0.02  # as such models are initialized; keeps logits finite


def main(config: Path, out: Path) -> None:
    """Write the folder."""
    out.mkdir(parents=True)
    raw = json.loads(config.read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps(raw | {"pad_token_id": 0}, indent=1) + "\n", encoding="utf-8")
    weights = config.parent / "model.safetensors"
    if weights.is_file():
        shutil.copyfile(weights, out / "model.safetensors")
    else:
        save_file(random_weights(out), out / "model.safetensors", metadata={"format": "pt"})
    tokenizer(int(raw["vocab_size"])).save_pretrained(out)


def random_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Normal matrices, norms of one, by the names transformers gives them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    generator = torch.Generator().manual_seed(0)
    return {name: _random(tensor.shape, generator) for name, tensor in model.state_dict().items()}


def _random(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    made = torch.empty(shape, dtype=torch.bfloat16)
    return made.fill_(1.0) if len(shape) == 1 else made.normal_(std=STD, generator=generator)


def tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Token i is the word "ti": prompts are given as ids, the converters only want a vocabulary."""
    words = WordLevel({f"t{i}": i for i in range(vocab_size)}, unk_token="t0")
    made = Tokenizer(words)
    made.pre_tokenizer = WhitespaceSplit()
    special = {"unk_token": "t0", "bos_token": "t1", "eos_token": "t2", "pad_token": "t0"}
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
