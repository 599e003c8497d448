"""An engine over a tiny random model."""

from collections.abc import Callable

import pytest

from burnish.core.types import Event, FinishEvent, Request, Sampling, TokenEvent
from burnish.engine.config import EngineConfig
from burnish.engine.engine import Engine
from burnish.models.decoder import Decoder
from tests.tiny import ByteTokenizer, tiny_decoder

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="session")
def decoder() -> Decoder:
    return tiny_decoder(seed=3)


@pytest.fixture
def make_engine(decoder: Decoder) -> MakeEngine:
    def make(**settings: object) -> Engine:
        settings = {"num_blocks": 64, "block_size": 8, "threads": 1} | settings
        return Engine(decoder, ByteTokenizer(), EngineConfig(**settings))  # type: ignore[arg-type]

    return make


def request(name: str, prompt: list[int], **sampling: object) -> Request:
    """A greedy request unless told otherwise."""
    options: dict[str, object] = {"temperature": 0, "max_tokens": 12, "ignore_eos": True} | sampling
    return Request(request_id=name, prompt=tuple(prompt), sampling=Sampling(**options))  # type: ignore[arg-type]


def run(engine: Engine, requests: list[Request]) -> dict[str, list[Event]]:
    """All requests at once, to their end."""
    for item in requests:
        engine.add(item)
    return finish(engine)


def finish(engine: Engine) -> dict[str, list[Event]]:
    """Step until nothing is left; events by request."""
    events: dict[str, list[Event]] = {}
    while engine.has_work:
        for event in engine.step():
            events.setdefault(event.request_id, []).append(event)
        load = engine.load()
        assert load.free_blocks + load.cached_blocks + load.used_blocks == load.total_blocks
    assert engine.load().used_blocks == 0
    return events


def tokens(events: list[Event]) -> list[int]:
    """All tokens of a request's events."""
    return [t for event in events if isinstance(event, TokenEvent) for t in event.token_ids]


def text(events: list[Event]) -> str:
    """All text of a request's events."""
    return "".join(event.text for event in events if isinstance(event, TokenEvent))


def end(events: list[Event]) -> FinishEvent:
    """The last event, which must be the only finish."""
    assert sum(isinstance(event, FinishEvent) for event in events) == 1
    assert isinstance(events[-1], FinishEvent)
    return events[-1]
