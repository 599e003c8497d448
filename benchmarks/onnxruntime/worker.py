"""ONNX Runtime GenAI's worker: one generator over all prompts, token by token."""

from pathlib import Path

import numpy as np
import onnxruntime_genai as genai

from benchmarks.facts import read_bytes
from benchmarks.protocol import Arrivals, Load, Prompts, serve


class OnnxRuntime:
    """A loaded model."""

    def __init__(self, order: Load) -> None:
        self._folder = Path(order.model)
        config = genai.Config(order.model)
        config.overlay(_threads(order.threads))
        self._model = genai.Model(config)

    def read_bytes(self) -> int:
        """Bytes of weights that one decoded token reads."""
        return read_bytes(self._folder)

    def generate(self, prompts: Prompts, new_tokens: int, arrived: Arrivals) -> None:
        """Continue the prompts, all equally long, greedily."""
        length = len(prompts[0]) + new_tokens
        params = genai.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, batch_size=len(prompts), min_length=length, max_length=length)
        generator = genai.Generator(self._model, params)
        arrived.restart()
        generator.append_tokens(np.array(prompts, np.int32))
        for _ in range(new_tokens):
            generator.generate_next_token()
            arrived.note_all()


def _threads(count: int) -> str:
    return f'{{"model": {{"decoder": {{"session_options": {{"intra_op_num_threads": {count}}}}}}}}}'


if __name__ == "__main__":
    serve(OnnxRuntime)
