"""A server whose service times are known, in a process of its own; it keeps a log of what it did and when.

    python -m tests.measure.load.fake_server '{"ttft_s": 0.05, ...}'

It says its port and serves until it is killed. ``GET /log`` tells, per completion in the order they came, when the
request had come and when every piece was sent, by the monotonic clock that all processes of a machine share.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Manner:
    """What the server is like. Tokens of a prompt are twice its words and three."""

    ttft_s: float = 0.0
    gap_s: float = 0.0
    one_at_a_time: bool = False  # requests are served one after the other
    stalls_s: float = 0.0  # nothing moves for so long after the first request of the load, once
    usage: bool = True
    refuses: tuple[str, ...] = ()  # parameters that are answered with 400
    models_status: int = 200
    fail_from: int = 10**9  # completions from this number on go wrong, each fourth in another way
    closes: bool = False  # idle connections are closed without a word


@dataclass
class Served:
    """A line of the log."""

    path: str
    body: dict[str, Any]
    came_s: float
    sent_s: list[float]


class FakeServer:
    def __init__(self, manner: Manner) -> None:
        self.manner, self.log = manner, list[Served]()
        self._one = asyncio.Lock()
        self._stalled_until = 0.0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(
                    int(line.split(":")[1]) for line in head.split("\r\n") if "content-length" in line.lower()
                )
                body = await reader.readexactly(length)
                await self._answer(head.split()[1], body, writer)
                if self.manner.closes:
                    writer.close()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path == "/log":
            return _json(writer, 200, [asdict(served) for served in self.log])
        if path == "/v1/models":
            return _json(writer, self.manner.models_status, {"data": [{"id": "fake"}, {"id": "other"}]})
        if path not in ("/v1/completions", "/v1/chat/completions"):
            return _json(writer, 404, {"error": {"message": f"no {path}"}})
        asked = json.loads(body)
        for name in self.manner.refuses:
            if name in asked:
                return _json(writer, 400, {"error": {"message": f"unknown parameter {name}"}})
        served = Served(path, asked, time.monotonic(), [])
        self.log.append(served)
        if len(self.log) > self.manner.fail_from:
            return await self._fail(len(self.log) % 4, writer)
        if self.manner.one_at_a_time:
            async with self._one:
                return await self._stream(served, writer)
        return await self._stream(served, writer)

    async def _fail(self, way: int, writer: asyncio.StreamWriter) -> None:
        if way == 0:
            return _json(writer, 429, {"error": {"message": "too many"}})
        writer.write(SSE)
        if way == 1:
            _piece(writer, {"error": {"message": "the engine died"}})
        elif way == 2:
            _piece(writer, {"choices": [{"text": "half", "finish_reason": None}]})
        else:
            await asyncio.sleep(60)
        writer.write(b"0\r\n\r\n")
        return None

    async def _stream(self, served: Served, writer: asyncio.StreamWriter) -> None:
        asked, manner, chat = served.body, self.manner, "messages" in served.body
        writer.write(SSE)
        if chat:
            _piece(writer, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for index in range(asked["max_tokens"]):
            await self._wait(manner.gap_s if index else manner.ttft_s)
            served.sent_s.append(time.monotonic())
            _piece(writer, {"choices": [{"delta": {"content": "w"}} if chat else {"text": "w"}]})
        _piece(writer, {"choices": [{"delta": {}, "text": "", "finish_reason": "length"}]})
        if manner.usage and "stream_options" in asked:
            prompt = asked["messages"][0]["content"] if chat else asked["prompt"]
            usage = {"prompt_tokens": 3 + 2 * len(prompt.split()), "completion_tokens": asked["max_tokens"]}
            _piece(writer, {"choices": [], "usage": usage})
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    async def _wait(self, seconds: float) -> None:
        """Service time, and the stall if it falls into it."""
        if self.manner.stalls_s and len(self.log) == 3 and not self._stalled_until:  # two were the probe
            self._stalled_until = time.monotonic() + self.manner.stalls_s
        await asyncio.sleep(max(self._stalled_until - time.monotonic(), 0) + seconds)


def _piece(writer: asyncio.StreamWriter, told: dict[str, Any]) -> None:
    data = f"data: {json.dumps(told)}\n\n".encode()
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


def _json(writer: asyncio.StreamWriter, status: int, told: Any) -> None:
    data = json.dumps(told).encode()
    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%s" % (status, len(data), data))


async def _serve(manner: Manner) -> None:
    server = await asyncio.start_server(FakeServer(manner), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


class Fake(NamedTuple):
    """A running fake."""

    url: str

    def log(self) -> list[Served]:
        """Of all completions, those of the probe included."""
        with urlopen(Request(f"{self.url}/log", headers={"content-length": "0"})) as answer:
            return [Served(**line) for line in json.load(answer)]


@contextmanager
def fake(**manner: Any) -> Iterator[Fake]:
    """A server of this manner."""
    words = [sys.executable, "-m", "tests.measure.load.fake_server", json.dumps(asdict(Manner(**manner)))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Fake(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


if __name__ == "__main__":
    asyncio.run(_serve(Manner(**json.loads(sys.argv[1]))))
