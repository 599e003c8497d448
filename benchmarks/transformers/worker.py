"""transformers' worker: the model called eagerly with its own cache, without the overhead of ``generate``."""

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.protocol import Arrivals, Load, Prompts, serve


class Transformers:
    """A model in memory; the variant is its type."""

    def __init__(self, order: Load) -> None:
        torch.set_num_threads(order.threads)
        torch.set_grad_enabled(False)
        self._model = AutoModelForCausalLM.from_pretrained(order.model, dtype=getattr(torch, order.variant)).eval()
        self._tied = json.loads((Path(order.model) / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]

    def read_bytes(self) -> int:
        """All parameters but the embeddings, unless these are the head as well."""
        total = sum(int(parameter.nbytes) for parameter in self._model.parameters())
        return total if self._tied else total - int(self._model.get_input_embeddings().weight.nbytes)

    def generate(self, prompts: Prompts, new_tokens: int, arrived: Arrivals) -> None:
        """Continue the prompts, all equally long, greedily."""
        ids, cache = torch.tensor(prompts), DynamicCache(config=self._model.config)
        for _ in range(new_tokens):
            output = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids = output.logits[:, -1].argmax(dim=-1, keepdim=True)
            arrived.note_all()


if __name__ == "__main__":
    serve(Transformers)
