"""From events to bytes: merges the choices of a request, follows its client, writes server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import NamedTuple, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from burnish.core.errors import BadRequest, Unavailable
from burnish.core.types import Event, FinishEvent, Request, Served
from burnish.service.faults import error_json, fault_of
from burnish.service.lifecycle import Lifecycle

DONE = b"data: [DONE]\n\n"
SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]
JSON_HEADERS = [(b"content-type", b"application/json")]


class ChoiceEvent(NamedTuple):
    """An event of one of the answer's choices."""

    choice: int
    event: Event


async def merge(served: Served, requests: Sequence[Request]) -> AsyncGenerator[ChoiceEvent, None]:
    """Events of all requests as they come, until each has finished.

    Holds at most one event per request: who reads slowly is served slowly. Closing it aborts every request.
    Raises what ``submit`` raises, and ``Unavailable`` when a request fails in the engine.
    """
    several = _several(served, requests) if len(requests) > 1 else _single(served, requests[0])
    async with aclosing(several):
        async for event in several:
            yield event


async def _single(served: Served, request: Request) -> AsyncGenerator[ChoiceEvent, None]:
    async with aclosing(_submit(served, request)) as stream:
        event: Event | None = None
        while not isinstance(event, FinishEvent):
            event = await _next(stream)
            yield ChoiceEvent(0, event)


async def _several(served: Served, requests: Sequence[Request]) -> AsyncGenerator[ChoiceEvent, None]:
    streams: list[AsyncGenerator[Event, None]] = []
    pending: dict[asyncio.Task[Event], int] = {}
    try:
        streams.extend(_submit(served, request) for request in requests)
        pending.update((asyncio.ensure_future(_next(stream)), index) for index, stream in enumerate(streams))
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=pending.__getitem__):
                event = task.result()
                index = pending.pop(task)
                if not isinstance(event, FinishEvent):
                    pending[asyncio.ensure_future(_next(streams[index]))] = index
                yield ChoiceEvent(index, event)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for stream in streams:
            await stream.aclose()


def _submit(served: Served, request: Request) -> AsyncGenerator[Event, None]:
    return cast(AsyncGenerator[Event, None], served.submit(request))  # Served promises that it can be closed


async def _next(stream: AsyncIterator[Event]) -> Event:
    try:
        event = await anext(stream)
    except StopAsyncIteration:
        raise Unavailable("the engine dropped the request", remedy="Send it again") from None
    if isinstance(event, FinishEvent) and event.reason in ("error", "abort"):
        reason = event.error or "the engine gave the request up"
        if event.is_refused:
            raise BadRequest(reason.rstrip("."), code="bad_grammar")
        raise Unavailable(reason.rstrip("."), remedy="Send it again", code="engine_error")
    return event


def sse(data: str) -> bytes:
    """One server-sent event. ``data`` is JSON, so it holds no line break."""
    return f"data: {data}\n\n".encode()


class Watched(Response):
    """An answer that is given up, its request aborted, the moment its client has gone."""

    def __init__(self, write: Callable[[Send], Coroutine[None, None, None]]) -> None:
        super().__init__()
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write until done or until the client disconnects. No task outlives this call."""
        work = asyncio.ensure_future(self._write(send))
        gone = asyncio.ensure_future(_disconnect(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            finished = work.done()
            work.cancel()
            gone.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if finished:
            work.result()


def streamed(lifecycle: Lifecycle, lines: AsyncGenerator[bytes, None]) -> Watched:
    """Server-sent events. An error before the first line is an ordinary error response, a later one an event."""

    async def write(send: Send) -> None:
        started = False
        try:
            async with lifecycle.answering(), aclosing(lines):
                async for line in lines:
                    if not started:
                        started = True
                        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
                    await send({"type": "http.response.body", "body": line, "more_body": True})
        except Exception as error:  # the status has been sent: the stream is the only way left to tell
            if not started:
                raise
            failed = sse(error_json(fault_of(error)).decode())
            await send({"type": "http.response.body", "body": failed, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return Watched(write)


def whole(lifecycle: Lifecycle, body: Callable[[], Awaitable[str]]) -> Watched:
    """One JSON document, written when it is complete."""

    async def write(send: Send) -> None:
        async with lifecycle.answering():
            content = (await body()).encode()
        length = (b"content-length", str(len(content)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*JSON_HEADERS, length]})
        await send({"type": "http.response.body", "body": content})

    return Watched(write)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
