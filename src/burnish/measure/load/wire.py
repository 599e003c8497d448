"""An HTTP/1.1 client that notes when bytes arrive: asyncio's transports below, h11 above.

The clock is read in the callback in which the transport hands bytes over, before anything is done with them; they are
parsed in the next turn of the loop. So streams that a server feeds together are not each late by the parsing of those
before it, which a client that parses first (httpx: 0.3 ms a piece) would report as the server's latency.
"""

import asyncio
import ssl
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import h11

from burnish.core.errors import BadSettings

Hear = Callable[[float, bytes], None]
"""(instant of the monotonic clock, bytes of the body that arrived then)"""


class WireError(Exception):
    """The connection broke, or what came over it is no HTTP."""


class Wire:
    """Connections to one server, used again where the server allows it."""

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        is_plain = url.isascii() and url.isprintable() and " " not in url
        if not is_plain or parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise BadSettings(f"address {url!r} is no URL of a server", remedy="Write http://HOST:PORT")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise BadSettings("the API key is no line of ASCII", remedy="Give it as it was given to you")
        self._host = parts.hostname
        self._port = port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = [("host", parts.netloc.rpartition("@")[2]), ("accept-encoding", "identity")]
        if api_key is not None:
            self._headers.append(("authorization", f"Bearer {api_key}"))
        self._idle: list[_Connection] = []

    async def ask(self, method: str, path: str, body: bytes, hear: Hear) -> int:
        """Send a request and pass the body of the answer on as it comes; the answer's status.

        A connection the server has closed while it was idle is replaced. Raises ``OSError`` and ``WireError``.
        Cancelling it closes the connection.
        """
        headers = [*self._headers, ("content-length", str(len(body))), ("content-type", "application/json")]
        request = h11.Request(method=method, target=self._base + path, headers=headers)
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._ask(connection, request, body, hear)
            except WireError:
                if connection.has_heard:
                    raise
        return await self._ask(await self._connect(), request, body, hear)

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        return connection

    async def _ask(self, connection: "_Connection", request: h11.Request, body: bytes, hear: Hear) -> int:
        is_reusable = False
        try:
            status = await connection.ask(request, body, hear)
            is_reusable = connection.start_next()
        finally:
            if is_reusable:
                self._idle.append(connection)
            else:
                connection.close()
        return status


class _Connection(asyncio.Protocol):
    """One request at a time over one transport."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[int] | None = None
        self._status = 0
        self._hear: Hear | None = None
        self._is_lost = False
        self.has_heard = False  # anything since the request was sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._loop.call_soon(self._feed, time.monotonic(), data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._loop.call_soon(self._feed, time.monotonic(), b"")

    async def ask(self, request: h11.Request, body: bytes, hear: Hear) -> int:
        """Raises ``WireError``."""
        assert self._transport is not None
        self._hear, self._status, self.has_heard = hear, 0, False
        if self._is_lost:
            raise WireError("the server closed the connection")
        self._answer = self._loop.create_future()
        parts = (self._http.send(request), self._http.send(h11.Data(data=body)), self._http.send(h11.EndOfMessage()))
        self._transport.write(b"".join(part for part in parts if part))
        return await self._answer

    def start_next(self) -> bool:
        """Whether the connection can carry another request, and if so, make it ready for that."""
        if self._is_lost or self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        self._answer = self._hear = None
        return True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _feed(self, now: float, data: bytes) -> None:
        """Parse what arrived at ``now``; no bytes mean the end of the connection."""
        if self._answer is None or self._answer.done():
            return
        try:
            self.has_heard = self.has_heard or bool(data)
            self._http.receive_data(data)
            while self._take(now, self._http.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self._answer.set_exception(WireError(str(error)))

    def _take(self, now: float, event: object) -> bool:
        """Whether another event may be there."""
        assert self._answer is not None
        assert self._hear is not None
        if isinstance(event, h11.Response):
            self._status = event.status_code
        elif isinstance(event, h11.Data):
            self._hear(now, bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._answer.set_result(self._status)
            return False
        elif isinstance(event, h11.ConnectionClosed):
            self._answer.set_exception(WireError("the server closed the connection before it answered"))
            return False
        return event is not h11.NEED_DATA and event is not h11.PAUSED
