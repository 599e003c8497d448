"""A recording asked for from another process: the orders, who obeys them there, and who waits for them here."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from burnish.core.errors import Conflict, Unavailable
from burnish.core.profile import Profile
from burnish.engine.recorder import Recorder


class Record(NamedTuple):
    """Record the next steps."""

    number: int  # of the recording, counted by who asks
    num_steps: int


class StopRecording(NamedTuple):
    """Hand over what there is."""

    number: int


class Recorded(NamedTuple):
    """What was recorded."""

    number: int
    profile: Profile


class Recordable(Protocol):
    """An engine, as far as it is recorded."""

    def record(self, num_steps: int) -> Recorder:
        """Record the next steps."""
        ...

    def stop_recording(self) -> None:
        """Record no more."""
        ...


class Recording:
    """In the engine's process: the recording asked for last."""

    def __init__(self, engine: Recordable) -> None:
        self._engine = engine
        self._recorder: Recorder | None = None
        self._number, self._is_stopped = 0, False

    @property
    def is_over(self) -> bool:
        """Whether ``take`` hands something over."""
        return self._recorder is not None and (self._is_stopped or self._recorder.is_full)

    def obey(self, order: Record | StopRecording) -> None:
        """Begin, or stop what was begun by the order of that number."""
        if isinstance(order, Record):
            self._number, self._is_stopped = order.number, False
            self._recorder = self._engine.record(order.num_steps)
        else:
            self._is_stopped = self._is_stopped or order.number == self._number

    def take(self) -> Recorded | None:
        """The recording, once, when it is over; nothing is recorded any more then."""
        if self._recorder is None or not self.is_over:
            return None
        profile, self._recorder = self._recorder.profile(), None
        self._engine.stop_recording()
        return Recorded(self._number, profile)


class Waiting:
    """In the client's process: at most one caller waits for a recording."""

    def __init__(self) -> None:
        self._number = 0
        self._wanted: asyncio.Future[Profile] | None = None

    async def record(
        self, send: Callable[[Record | StopRecording], None], num_steps: int, *, limit_s: float
    ) -> Profile:
        """The next steps, or those computed within the limit. A caller that leaves ends the recording.

        Raises ``Conflict`` while another waits, ``Unavailable`` when the engine's process ends.
        """
        if self._wanted is not None:
            raise Conflict("a profile is being recorded already", remedy="Ask again when it is done")
        self._number += 1
        wanted: asyncio.Future[Profile] = asyncio.get_running_loop().create_future()
        self._wanted = wanted
        send(Record(self._number, num_steps))
        try:
            done, _ = await asyncio.wait((wanted,), timeout=limit_s)
            if not done:
                send(StopRecording(self._number))
            return await wanted
        finally:
            if not wanted.done():
                send(StopRecording(self._number))
            self._wanted = None

    @property
    def is_recording(self) -> bool:
        """Whether a caller waits for steps to be recorded."""
        return self._wanted is not None

    def deliver(self, recorded: Recorded) -> None:
        """Hand over what came; one that nobody waits for any more is dropped."""
        if self._wanted is not None and not self._wanted.done() and recorded.number == self._number:
            self._wanted.set_result(recorded.profile)

    def fail(self, error: str) -> None:
        """The engine is gone, and the recording with it."""
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_exception(Unavailable(error, remedy="Ask again in a moment"))
