"""The process edge: binds the port, runs uvicorn, drains on SIGTERM and SIGINT."""

import asyncio
import errno
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from burnish.core.errors import BadSettings
from burnish.service.door import Door
from burnish.service.front import Front
from burnish.service.lifecycle import Lifecycle
from burnish.service.wire import Wire

LAST_BYTES_S = 2  # after the drain: time for connections to close


def bind(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes any free one. Raises ``BadSettings`` when it cannot be had."""
    if not 0 <= port <= 65535:
        raise BadSettings(f"there is no port {port}", remedy="Choose one from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise BadSettings(f"cannot listen on {host!r}, port {port}: no such address", remedy="Check --host") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise _refused(host, port, error) from None
    return listener


async def serve(
    make_app: Callable[[], Awaitable[FastAPI]],
    listener: socket.socket,
    *,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return; a second SIGINT ends at once.

    While ``make_app`` runs, the port answers that the server is live and not ready; a signal then ends it at once.
    ``announce`` is told the URL once requests are taken. Raises what ``make_app`` raises.
    """
    bound_host, bound_port = listener.getsockname()[:2]
    url = f"http://[{bound_host}]:{bound_port}" if ":" in bound_host else f"http://{bound_host}:{bound_port}"

    def ready() -> None:
        if announce:
            announce(url)

    await DrainingServer(make_app, ready).serve(sockets=[listener])


class DrainingServer(uvicorn.Server):
    """uvicorn, except that a signal starts the drain first, and that it then exits as if nothing had happened."""

    def __init__(self, make_app: Callable[[], Awaitable[FastAPI]], ready: Callable[[], None]) -> None:
        self._door = Door()
        super().__init__(
            uvicorn.Config(
                self._door,
                http=Wire,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=LAST_BYTES_S,
            )
        )
        self._make_app, self._ready = make_app, ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lifecycle: Lifecycle | None = None  # there is none before the application
        self._drain: asyncio.Task[None] | None = None
        self._signalled = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Make the application while serving. Raises what kept it from being made, after the port is closed."""
        self._loop = asyncio.get_running_loop()
        opening = asyncio.create_task(self._open())
        try:
            await super().serve(sockets)
        finally:
            opening.cancel()
        with suppress(asyncio.CancelledError):
            await opening

    async def _open(self) -> None:
        try:
            app = await self._make_app()
        except BaseException:
            self.should_exit = True
            raise
        front: Front = app.state.front
        self._door.app, self._lifecycle = app, front.lifecycle
        self._ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. SIGINT after that: exit now."""
        if self._signalled and sig == signal.SIGINT:
            self.should_exit = self.force_exit = True
        elif not self._signalled:
            self._signalled = True
            self.drain_soon()

    def drain_soon(self) -> None:
        """Start the drain from a signal handler or another thread."""
        assert self._loop is not None, "called while it serves"
        self._loop.call_soon_threadsafe(self._start_drain)

    def _start_drain(self) -> None:
        # A task is held weakly by the loop: without this reference it could vanish.
        self._drain = asyncio.ensure_future(self._drain_and_exit())

    async def _drain_and_exit(self) -> None:
        try:
            if self._lifecycle:
                await self._lifecycle.drain()
        finally:
            self.should_exit = True


def _refused(host: str, port: int, error: OSError) -> BadSettings:
    match error.errno:
        case errno.EADDRINUSE:
            return BadSettings(f"port {port} on {host} is in use", remedy="Choose another with --port")
        case errno.EACCES:
            return BadSettings(f"port {port} needs more rights than this user has", remedy="Choose one above 1023")
        case _:
            return BadSettings(f"cannot listen on {host}, port {port}: {error}", remedy="Check --host and --port")
