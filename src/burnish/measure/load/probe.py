"""Before the load: does the server answer, which model has it, what does it take, how long are words to it?"""

import asyncio
import json
from dataclasses import replace
from typing import NamedTuple

from burnish.core.errors import BadRequest, BadSettings, BurnishError, NotFound, Unauthorized, Unavailable
from burnish.measure.load.completions import Dialect, Heard
from burnish.measure.load.prompts import PromptWriter
from burnish.measure.load.run import Target
from burnish.measure.load.traffic import Arrival
from burnish.measure.load.wire import Hear, Wire, WireError

_FEW_WORDS, _MORE_WORDS = 8, 72  # two points of a line; more would not fit the smallest contexts
_REFUSED = (400, 422)


class _Answer(NamedTuple):
    status: int
    heard: Heard


def find_target(
    url: str,
    *,
    model: str | None = None,
    chat: bool = False,
    api_key: str | None = None,
    timeout_s: float = 600.0,
    max_in_flight: int = 512,
) -> Target:
    """Ask the server for its models and for two short answers; the model is its first by default.

    Parameters it refuses are not used again, so any OpenAI-compatible server will do. Where it counts the tokens of a
    prompt, words are fitted to them; else one word stands for one token. Raises ``BadSettings`` for a server that
    cannot be reached, ``Unauthorized``, ``NotFound``, ``Unavailable``, and ``BadRequest`` for one that takes nothing.
    """
    for name, value in (("timeout_s", timeout_s), ("max_in_flight", max_in_flight)):
        if not 0 < value < float("inf"):
            raise BadSettings(f"{name} {value:g} is out of range", remedy="Use a number above 0")
    probe = _Probe(url, Wire(url, api_key=api_key), timeout_s)
    dialect, writer = asyncio.run(probe.look(model, chat))
    return Target(url, dialect, writer, api_key, timeout_s, max_in_flight)


class _Found(NamedTuple):
    dialect: Dialect
    writer: PromptWriter


class _Probe:
    def __init__(self, url: str, wire: Wire, timeout_s: float) -> None:
        self._url, self._wire, self._timeout_s = url, wire, timeout_s

    async def look(self, model: str | None, chat: bool) -> _Found:
        try:
            dialect = Dialect(model=model or await self._first_model(), chat=chat)
            dialect, few = await self._understood(dialect)
            more = await self._ask(dialect, _MORE_WORDS)
            return _Found(dialect, _fitted(few.heard, more.heard))
        finally:
            self._wire.close()

    async def _first_model(self) -> str:
        body = bytearray()
        status = await self._send("GET", "/v1/models", b"", lambda _, data: body.extend(data))
        if status == 404:
            raise BadSettings(f"server {self._url!r} lists no models", remedy="Name one with --model")
        self._refuse(_Answer(status, Heard(rest=bytes(body))))
        try:
            return str(json.loads(body)["data"][0]["id"])
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            raise BadSettings(
                f"server {self._url!r} lists no models as OpenAI's API does", remedy="Name one with --model"
            ) from None

    async def _understood(self, dialect: Dialect) -> "_Understood":
        """The first of the ways to ask that the server does not refuse."""
        for usage, ignore_eos in ((True, True), (True, False), (False, True), (False, False)):
            tried = replace(dialect, takes_usage=usage, takes_ignore_eos=ignore_eos)
            answer = await self._ask(tried, _FEW_WORDS)
            if answer.status not in _REFUSED:
                break
        self._refuse(answer)
        return _Understood(tried, answer)

    async def _ask(self, dialect: Dialect, num_words: int) -> _Answer:
        arrival = Arrival(at_s=0.0, prompt_tokens=num_words, output_tokens=1)
        heard, body = Heard(), dialect.body(PromptWriter().write(arrival, num_words, seed=-1), 1)
        return _Answer(await self._send("POST", dialect.path, body, heard.take), heard)

    async def _send(self, method: str, path: str, body: bytes, hear: Hear) -> int:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._wire.ask(method, path, body, hear)
        except TimeoutError:
            told = f"nothing within {self._timeout_s:g} s"
        except (OSError, WireError) as error:
            told = str(error)
        raise BadSettings(f"server {self._url!r} does not answer: {told}", remedy="Start it, or correct the address")

    def _refuse(self, answer: _Answer) -> None:
        """Raise what an answer other than 200, or an error within its stream, means."""
        if answer.status == 200 and answer.heard.fault is None:
            return
        kinds: dict[int, type[BurnishError]] = {401: Unauthorized, 403: Unauthorized, 404: NotFound}
        remedies = {401: "Give its key with --api-key", 404: "Check the address and --model"}
        kind = kinds.get(answer.status, BadRequest if answer.status in _REFUSED else Unavailable)
        told = answer.heard.fault or answer.heard.told()
        raise kind(
            f"server {self._url!r} answers with status {answer.status}: {told.rstrip('.')}",
            remedy=remedies.get(answer.status, "See the log of the server"),
        )


class _Understood(NamedTuple):
    dialect: Dialect
    answer: _Answer


def _fitted(few: Heard, more: Heard) -> PromptWriter:
    """The line through two prompts; through one where the server did not take the longer one."""
    if few.prompt_tokens is None:
        return PromptWriter()
    if more.prompt_tokens is None or more.prompt_tokens <= few.prompt_tokens:
        return PromptWriter(tokens_per_word=max(1.0, few.prompt_tokens / _FEW_WORDS))
    tokens_per_word = (more.prompt_tokens - few.prompt_tokens) / (_MORE_WORDS - _FEW_WORDS)
    return PromptWriter(tokens_per_word, few.prompt_tokens - tokens_per_word * _FEW_WORDS)
