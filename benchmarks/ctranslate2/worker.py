"""CTranslate2's worker: its generator, with a callback at every token."""

from pathlib import Path

import ctranslate2

from benchmarks.facts import read_bytes
from benchmarks.protocol import Arrivals, Load, Prompts, serve


class CTranslate2:
    """A loaded model; token i is the word "ti"."""

    def __init__(self, order: Load) -> None:
        self._folder = Path(order.model)
        self._generator = ctranslate2.Generator(
            order.model, device="cpu", compute_type=order.variant, inter_threads=1, intra_threads=order.threads
        )

    def read_bytes(self) -> int:
        """Bytes of weights that one decoded token reads."""
        return read_bytes(self._folder)

    def generate(self, prompts: Prompts, new_tokens: int, arrived: Arrivals) -> None:
        """Continue the prompts greedily."""

        def note(step: ctranslate2.GenerationStepResult) -> bool:
            arrived.note(step.batch_id)
            return False

        self._generator.generate_batch(
            [[f"t{token}" for token in prompt] for prompt in prompts],
            min_length=new_tokens,
            max_length=new_tokens,
            sampling_topk=1,
            end_token=[],
            include_prompt_in_result=False,
            callback=note,
        )


if __name__ == "__main__":
    serve(CTranslate2)
