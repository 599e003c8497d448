"""OpenVINO GenAI's worker: the continuous batching pipeline, step by step, without its prefix cache."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai

from benchmarks.facts import read_bytes
from benchmarks.protocol import Arrivals, Load, Prompts, serve

MAX_BATCHED_TOKENS = 4096  # all prompts of an order are read in one step


class OpenVino:
    """A compiled model."""

    def __init__(self, order: Load) -> None:
        self._folder, self._number = Path(order.model), 0
        scheduler = genai.SchedulerConfig()
        scheduler.enable_prefix_caching = False
        scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
        scheduler.cache_size = 1  # GiB
        self._pipeline = genai.ContinuousBatchingPipeline(
            order.model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": order.threads, "NUM_STREAMS": 1}
        )

    def read_bytes(self) -> int:
        """Bytes of weights that one decoded token reads."""
        return read_bytes(self._folder)

    def generate(self, prompts: Prompts, new_tokens: int, arrived: Arrivals) -> None:
        """Continue the prompts greedily."""
        config = genai.GenerationConfig(max_new_tokens=new_tokens, min_new_tokens=new_tokens, ignore_eos=True)
        handles = [self._add(prompt, config) for prompt in prompts]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for number, handle in enumerate(handles):
                if handle.can_read():
                    arrived.note(number, sum(len(output.generated_ids) for output in handle.read().values()))

    def _add(self, prompt: list[int], config: genai.GenerationConfig) -> Any:
        self._number += 1
        return self._pipeline.add_request(self._number, ov.Tensor(np.array([prompt], np.int64)), config)


if __name__ == "__main__":
    serve(OpenVino)
