"""The engine's own process: commands in, progress out. It ends when the pipe closes, so it never outlives its parent.

The border is crossed in batches: lists of commands go in, one ``Progress`` per step comes out.
"""

import logging
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple, Protocol

from burnish.core.errors import BurnishError
from burnish.core.types import Event, FinishEvent, Load, ModelCard, Request, Usage
from burnish.engine.recording import Record, Recordable, Recorded, Recording, StopRecording

log = logging.getLogger(__name__)


class Add(NamedTuple):
    """Queue this request."""

    request: Request


class Abort(NamedTuple):
    """Nobody waits for this request any more."""

    request_id: str


class Ready(NamedTuple):
    """The model is loaded."""

    card: ModelCard
    load: Load


class Failed(NamedTuple):
    """The model cannot be loaded; starting again would fail again."""

    error: BurnishError


class Progress(NamedTuple):
    """What a step, or commands between steps, brought about."""

    events: list[Event]
    load: Load
    recorded: Recorded | None = None


Command = Add | Abort | Record | StopRecording
Report = Ready | Failed | Progress


class Steppable(Recordable, Protocol):
    """An engine as the loop needs it."""

    @property
    def has_work(self) -> bool:
        """Whether a step would compute something."""
        ...

    def add(self, request: Request) -> None:
        """Queue a request."""
        ...

    def abort(self, request_id: str) -> list[Event]:
        """Stop a request."""
        ...

    def fail(self, error: str) -> list[Event]:
        """End everything that runs."""
        ...

    def step(self) -> list[Event]:
        """Compute one batch."""
        ...

    def load(self) -> Load:
        """Counts."""
        ...


Build = Callable[[], tuple[Steppable, ModelCard]]
"""Loads a model and makes its engine; runs in the engine's process, so it must be picklable."""


def run_engine(pipe: Connection, build: Build) -> None:
    """The engine's process: commands in, progress out, until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent decides when to stop
    try:
        engine, card = build()
    except BurnishError as error:
        pipe.send(Failed(error))
        return
    recording = Recording(engine)
    try:
        pipe.send(Ready(card, engine.load()))
        while True:
            pipe.send(_turn(pipe, engine, recording))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _turn(pipe: Connection, engine: Steppable, recording: Recording) -> Progress:
    """Take all commands that have arrived (waiting for one if there is nothing to do), then one step."""
    events: list[Event] = []
    while pipe.poll(0 if engine.has_work or events or recording.is_over else None):
        for command in pipe.recv():
            if isinstance(command, Record | StopRecording):
                recording.obey(command)
            else:
                events += _obey(engine, command)
    try:
        events += engine.step()
    except Exception:  # one batch fails, the engine goes on; the parent sees the events
        log.exception("a step failed")
        failed = engine.fail("the engine failed at this step; its log says why")
        if not failed:  # nothing ran, so failing it cannot help: the process ends and is replaced
            raise
        events += failed
    return Progress(events, engine.load(), recording.take())


def _obey(engine: Steppable, command: Add | Abort) -> list[Event]:
    if isinstance(command, Abort):
        return engine.abort(command.request_id)
    try:
        engine.add(command.request)
    except BurnishError as error:
        usage = Usage(len(command.request.prompt), 0)
        event = FinishEvent(request_id=command.request.request_id, reason="error", usage=usage, error=str(error))
        return [event]
    return []
