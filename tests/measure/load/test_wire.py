"""The HTTP client against servers that do odd things to it, and what the events of a stream say."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from burnish.core.errors import BadSettings
from burnish.measure.load.completions import Dialect, Heard
from burnish.measure.load.wire import Wire, WireError

Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[str]:
    """The server's address; its connections have ended when it is left."""
    tasks: list[asyncio.Future[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await server(reader, writer)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        listener.close()
        await asyncio.gather(*tasks)


def asked(server: Server, *, times: int = 1, idle_s: float = 0.0, path: str = "", **options: Any) -> list[Any]:
    """What requests, one after the other, come to: (status, body) or the fault."""

    async def run() -> list[Any]:
        async with listening(server) as url:
            wire = Wire(url + path, **options)
            found = []
            for _ in range(times):
                found.append(await ask_once(wire))
                await asyncio.sleep(idle_s)
            wire.close()
        return found

    return asyncio.run(run())


async def ask_once(wire: Wire) -> Any:
    body = bytearray()
    try:
        return await wire.ask("POST", "/v1/x", b"{}", lambda _, data: body.extend(data)), bytes(body)
    except WireError as error:
        return error


async def request(reader: asyncio.StreamReader) -> str:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    await reader.readexactly(2)
    return head


def test_connections_are_used_again() -> None:
    heads: list[list[str]] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append([])
        while True:
            heads[-1].append(await request(reader))
            writer.write(OK)

    assert asked(server, times=3, path="/base/v1/", api_key="secret") == [(200, b"ok")] * 3
    assert [len(of_one) for of_one in heads] == [3]
    head = heads[0][0].lower()
    assert head.startswith("post /base/v1/x http/1.1\r\nhost: 127.0.0.1:")
    assert "authorization: bearer secret\r\n" in head


def test_a_connection_closed_while_idle_is_replaced() -> None:
    num_requests = 0

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_requests
        await request(reader)
        num_requests += 1
        writer.write(OK)

    assert asked(server, times=4) == [(200, b"ok")] * 4
    assert asked(server, times=4, idle_s=0.05) == [(200, b"ok")] * 4, "the client has seen it close"
    assert num_requests == 8


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
    ],
)
def test_what_breaks_off_or_is_no_http(said: bytes) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(said)

    [found] = asked(server)
    assert isinstance(found, WireError)
    assert str(found)


def test_an_answer_that_only_the_end_of_the_connection_ends() -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.0 500 Oh\r\n\r\nwhole")

    assert asked(server, times=2) == [(500, b"whole")] * 2


def test_instants_are_those_of_the_arrival_not_of_the_parsing() -> None:
    """Two pieces that came before a busy moment are not late by it."""
    instants: list[float] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
        await asyncio.sleep(0.05)
        writer.write(b"k")

    def slow(now: float, data: bytes) -> None:
        instants.append(now)
        time.sleep(0.02)

    async def run() -> None:
        async with listening(server) as url:
            wire = Wire(url)
            before = time.monotonic()
            await asyncio.gather(*(wire.ask("POST", "/", b"{}", slow) for _ in range(8)))
            wire.close()
            assert max(instants[:8]) - before < 8 * 0.02, "the eighth waits for no other"

    asyncio.run(run())
    assert len(instants) == 16


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:80",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://höst",
        "http://host/a b",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(BadSettings, match=r"is no URL of a server. Write http://HOST:PORT"):
        Wire(url)


def test_a_key_of_several_lines_is_refused_and_not_told() -> None:
    with pytest.raises(BadSettings, match="the API key is no line of ASCII") as refused:
        Wire("http://host", api_key="secret\r\nhost: other")
    assert "secret" not in str(refused.value)


def event(**told: Any) -> bytes:
    return f"data: {json.dumps(told)}\n\n".encode()


def text(piece: str, **more: Any) -> bytes:
    return event(choices=[{"text": piece, **more}])


def heard(*pieces: bytes) -> Heard:
    """One piece a second."""
    found = Heard()
    for second, piece in enumerate(pieces):
        found.take(float(second), piece)
    return found


def test_pieces_with_text_are_noted() -> None:
    role = event(choices=[{"delta": {"role": "assistant", "content": ""}}])
    thought = event(choices=[{"delta": {"reasoning_content": "hm"}}])
    end = event(choices=[{"delta": {}, "finish_reason": "stop"}])
    usage = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 2})
    found = heard(role, thought, event(choices=[{"delta": {"content": "a"}}]), end, usage, b"data: [DONE]\n\n")
    assert found.text_s == [1.0, 2.0]
    assert (found.prompt_tokens, found.output_tokens) == (7, 2)
    assert found.failure(200) is None


def test_events_come_in_any_pieces() -> None:
    whole = b": comment\r\nid: 1\r\n" + text("a").replace(b"\n", b"\r\n") + text("b") + b"data:[DONE]\n\n"
    found = heard(*(whole[i : i + 1] for i in range(len(whole))))
    assert len(found.text_s) == 2
    assert found.is_done
    together = heard(b"", whole)
    assert together.text_s == [1.0, 1.0]


@pytest.mark.parametrize(
    ("status", "pieces", "kind", "detail"),
    [
        (429, [b'{"error": {"message": "too\\n many"}}'], "http 429", "too many"),
        (500, [b"Internal", b" Server Error"], "http 500", "Internal Server Error"),
        (400, [b'{"detail": "no"}'], "http 400", "{'detail': 'no'}"),
        (200, [text("a"), event(error={"message": "died", "code": 1})], "error event", "died"),
        (200, [text("a"), event(error="died")], "error event", "died"),
        (200, [text("a"), b"data: {broken\n\n"], "error event", "an event is no JSON object: {broken"),
        (200, [text("a")], "cut off", "the stream ended without its end"),
        (200, [b'{"choices": []}'], "cut off", "{'choices': []}"),
        (200, [b"data: [DONE]\n\n"], "no text", "the stream held no text"),
        (200, [event(choices=[3, None], usage=5), event(choices=None), b"data: [DONE]\n\n"], "no text", "held no text"),
    ],
)
def test_what_is_wrong_with_an_answer(status: int, pieces: list[bytes], kind: str, detail: str) -> None:
    failed = heard(*pieces).failure(status)
    assert failed is not None
    assert failed.kind == kind
    assert detail in failed.detail


def test_what_is_asked() -> None:
    asked = json.loads(Dialect(model="m").body("Once", 5))
    assert asked == {
        **{"model": "m", "prompt": "Once", "max_tokens": 5, "temperature": 0, "stream": True, "ignore_eos": True},
        "stream_options": {"include_usage": True},
    }
    chat = Dialect(model="m", chat=True, takes_usage=False, takes_ignore_eos=False)
    assert json.loads(chat.body("Once", 5)) == {
        **{"model": "m", "max_tokens": 5, "temperature": 0, "stream": True},
        "messages": [{"role": "user", "content": "Once"}],
    }
    assert (Dialect(model="m").path, chat.path) == ("/v1/completions", "/v1/chat/completions")
