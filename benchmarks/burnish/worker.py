"""burnish's worker: its engine in this process, step by step, without its prefix cache.

The model is whatever ``burnish bench engine`` takes: a folder, an artifact, or random weights of a config.json.
"""

from benchmarks.protocol import Arrivals, Load, Prompts, serve
from burnish.assemble import open_measured
from burnish.core.types import FinishEvent, Request, Sampling, TokenEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.plan.ops import Linear

STEP_TOKENS = 1024  # all prompts of an order are read in one step
NUM_BLOCKS = 256


class Burnish:
    """An engine with a model."""

    def __init__(self, order: Load) -> None:
        self._plan = open_measured(order.model, order.variant)
        config = EngineConfig(
            num_blocks=NUM_BLOCKS,
            step_tokens=STEP_TOKENS,
            prefill_share=STEP_TOKENS,
            prefix_cache=False,
            threads=order.threads,
        )
        self._engine = Engine(self._plan, None, config)

    def read_bytes(self) -> int:
        """All linear weights, the head included; one row of the embeddings does not count."""
        tiles = [operation.weight for operation in self._plan.operations if isinstance(operation, Linear)]
        return sum(one.data.nbytes + (0 if one.scales is None else one.scales.nbytes) for one in tiles)

    def generate(self, prompts: Prompts, new_tokens: int, arrived: Arrivals) -> None:
        """Continue the prompts greedily."""
        sampling = Sampling(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        for number, prompt in enumerate(prompts):
            self._engine.add(Request(request_id=str(number), prompt=tuple(prompt), sampling=sampling))
        while self._engine.has_work:
            for event in self._engine.step():
                if isinstance(event, TokenEvent):
                    arrived.note(int(event.request_id), len(event.token_ids))
                elif isinstance(event, FinishEvent) and event.error is not None:
                    raise RuntimeError(event.error)


if __name__ == "__main__":
    serve(Burnish)
