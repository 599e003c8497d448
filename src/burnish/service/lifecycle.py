"""Whether the service takes requests, and how it stops: drain first, cut what is left."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from burnish.core.errors import Unavailable
from burnish.core.types import Served
from burnish.service.config import ServiceConfig

FLUSH_S = 1.0  # time for the last error event to reach its client after the cut


class Lifecycle:
    """Ready while the engine is, until it drains; draining is for ever.

    Owns the deadline of every running answer, so that one call can end them all.
    """

    def __init__(self, served: Served, config: ServiceConfig) -> None:
        self._served, self._config = served, config
        self._deadlines: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self.draining = False

    def check_admission(self) -> None:
        """Raise ``Unavailable`` while draining."""
        if self.draining:
            raise Unavailable("the server is shutting down", remedy="Send the request again", code="draining")

    def check_ready(self) -> None:
        """Raise ``Unavailable`` unless new requests would be served."""
        self.check_admission()
        if not self._served.load().ready:
            raise Unavailable("the engine is starting or being restarted", remedy="Try again in a moment")

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Around the whole of an answer: raises ``Unavailable`` inside it when its time, or the server's, is over."""
        try:
            async with asyncio.timeout(self._config.request_timeout_s) as deadline:
                self._deadlines.add(deadline)
                self._idle.clear()
                try:
                    yield
                finally:
                    self._deadlines.discard(deadline)
                    if not self._deadlines:
                        self._idle.set()
        except TimeoutError:
            self.check_admission()
            limit = self._config.request_timeout_s
            raise Unavailable(f"the answer took longer than {limit} s", remedy="Ask for less", code="timeout") from None

    async def drain(self) -> None:
        """Admit nothing new, let running answers finish until the deadline, end the rest with an error."""
        self.draining = True
        try:
            async with asyncio.timeout(self._config.drain_s):
                await self._served.drain()
                await self._until_idle()
        except TimeoutError:
            for deadline in self._deadlines:
                if not deadline.expired():  # request_timeout_s has struck already: it is on its way out
                    deadline.reschedule(asyncio.get_running_loop().time())
            with suppress(TimeoutError):
                await asyncio.wait_for(self._until_idle(), FLUSH_S)

    async def _until_idle(self) -> None:
        if self._deadlines:
            await self._idle.wait()
