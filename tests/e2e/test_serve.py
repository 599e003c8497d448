"""burnish serve as its users meet it: the official client, clients that leave, an engine that dies, a signal."""

import asyncio
import json
import os
import random
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from pydantic import BaseModel, ConfigDict, Field

from tests.e2e.processes import PATIENCE_S, Running, burnish, children, maps, until
from tests.service.conformance import HELLO, Conformance, check_conservation, client, metrics, model, wait_until_free

__all__ = ["client", "model"]

ABORTED = 'burnish_requests_finished_total{reason="abort"}'


def chat(**options: Any) -> dict[str, Any]:
    """The body of a streamed chat of a certain length."""
    return {"model": "tiny", "messages": HELLO, "stream": True, "ignore_eos": True, "temperature": 0} | options


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The JSON of server-sent events, up to [DONE]."""
    for line in lines:
        if line == "data: [DONE]":
            return
        if line:
            yield json.loads(line.removeprefix("data: "))


class TestServed(Conformance):
    """Every promise to the official client, kept by the real thing."""


def test_only_the_engine_has_kernels_and_nobody_keeps_torch(server: Running) -> None:
    """The first start lowers the model with torch; an engine started after that never loads it."""
    assert not maps(server.process.pid, "libtorch")
    assert [maps(pid, "_native") for pid in children(server.process.pid)].count(True) == 1


class Pet(BaseModel):
    """What an answer is asked to be."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["cat", "dog"]
    age: Annotated[int, Field(ge=0, le=40)]
    toys: Annotated[list[Literal["ball", "bone"]], Field(max_length=2)]


def test_answers_are_parsed_by_the_official_client(client: OpenAI) -> None:
    """A model of random weights, at a high temperature."""
    answer = client.chat.completions.parse(
        model="tiny", messages=HELLO, response_format=Pet, n=4, seed=3, temperature=1.5, max_completion_tokens=400
    )
    assert all(choice.message.parsed is not None for choice in answer.choices)
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    with client.chat.completions.stream(
        model="tiny", messages=HELLO, response_format=Pet, seed=3, temperature=1.5, max_completion_tokens=400
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == answer.choices[0].message.parsed


@pytest.mark.parametrize(
    ("asked", "pattern"),
    [
        ({"regex": "[a-c]{3}-[0-9]{1,9}!"}, "[a-c]{3}-[0-9]{1,9}!"),
        ({"choice": ["yes", "no"]}, "yes|no"),
        ({"grammar": 'start: "x"~2..4 "y"'}, "x{2,4}y"),
        ({"json": {"const": 7}}, "7"),
        ({"json": True}, r"(?s).*"),
    ],
    ids=str,
)
def test_other_forms(client: OpenAI, asked: dict[str, Any], pattern: str) -> None:
    words: dict[str, Any] = {"model": "tiny", "max_tokens": 60, "extra_body": {"structured_outputs": asked}}
    plain = client.completions.create(prompt="Say", **words).choices[0]
    chat = client.chat.completions.create(messages=HELLO, **words).choices[0]
    for text in (plain.text, chat.message.content or ""):
        assert re.fullmatch(pattern, text)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_schema_that_is_none_is_a_bad_request(client: OpenAI, streamed: bool) -> None:
    schema: Any = {"name": "x", "schema": {"type": "objet"}}
    with pytest.raises(BadRequestError, match="objet") as caught:
        client.chat.completions.create(
            model="tiny",
            messages=HELLO,
            response_format={"type": "json_schema", "json_schema": schema},
            stream=streamed,
        )
    assert caught.value.code == "bad_grammar"


def test_the_page_and_the_metrics_are_there(base_url: str) -> None:
    assert "<html" in httpx.get(base_url).text
    found = metrics(base_url)
    check_conservation(found)
    assert found["burnish_requests_started_total"] > 0


def test_clients_that_leave_leave_nothing_behind(base_url: str) -> None:
    """64 streams at once, a third of which disconnect after a random number of chunks."""
    chance = random.Random(7)
    patience = [chance.randrange(1, 40) if number % 3 == 0 else None for number in range(64)]

    async def one(client: AsyncOpenAI, leaves_after: int | None) -> int:
        length = 1000 if leaves_after else 30
        stream = await client.chat.completions.create(
            model="tiny", messages=HELLO, stream=True, max_tokens=length, extra_body={"ignore_eos": True}
        )
        num_chunks = 0
        async with stream:
            async for _ in stream:
                num_chunks += 1
                if num_chunks == leaves_after:
                    break
        return num_chunks

    async def everyone() -> list[int]:
        async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0, timeout=PATIENCE_S) as client:
            streams = asyncio.gather(*(one(client, leaves_after) for leaves_after in patience))
            while not streams.done():  # the law holds at every look
                check_conservation(await asyncio.to_thread(metrics, base_url))
            return await streams

    before = metrics(base_url)
    counts = asyncio.run(everyone())
    assert [c for c, leaves_after in zip(counts, patience, strict=True) if leaves_after] == [p for p in patience if p]
    wait_until_free(base_url, within_s=PATIENCE_S)
    after = metrics(base_url)
    assert after["burnish_requests_started_total"] == before["burnish_requests_started_total"] + 64
    assert after[ABORTED] == before.get(ABORTED, 0) + sum(p is not None for p in patience)


def test_tokens_the_model_does_not_know_are_a_400(base_url: str) -> None:
    refused = httpx.post(f"{base_url}/v1/completions", json={"model": "tiny", "prompt": [5, 259]})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
    assert "token id 259 is not in the vocabulary. Use ids 0 to 258" in refused.json()["error"]["message"]


def test_an_engine_that_dies_is_replaced(server: Running, base_url: str) -> None:
    first = server.engine_pid
    assert first is not None
    body = chat(max_tokens=1900)
    threads, unseen = ThreadPoolExecutor(1), chat(max_tokens=1900, stream=False)
    with httpx.stream("POST", f"{base_url}/v1/chat/completions", json=body, timeout=PATIENCE_S) as answer:
        told = events(answer.iter_lines())
        next(told)
        whole = threads.submit(httpx.post, f"{base_url}/v1/chat/completions", json=unseen, timeout=PATIENCE_S)
        until(lambda: metrics(base_url)["burnish_requests_running"] == 2 or None, "two requests that run")
        os.kill(first, signal.SIGKILL)
        last = list(told)[-1]
    assert last["error"]["code"] == "engine_error"
    assert "again" in last["error"]["message"]
    down = until(lambda: not_ready(base_url), "an engine that is down")
    assert down.status_code == 503
    assert down.json()["error"]["code"] == "engine_unavailable"
    assert "retry-after" in down.headers
    assert httpx.get(f"{base_url}/health/live").status_code == 200
    until(lambda: not_ready(base_url) is None, "a new engine")
    assert whole.result().json()["usage"]["completion_tokens"] == 1900, "nobody had seen anything of it: begun anew"
    assert server.engine_pid not in (None, first)
    wait_until_free(base_url, within_s=PATIENCE_S)
    again = httpx.post(f"{base_url}/v1/chat/completions", json=chat(max_tokens=5, stream=False), timeout=PATIENCE_S)
    assert again.json()["usage"]["completion_tokens"] == 5


def not_ready(url: str) -> httpx.Response | None:
    answer = httpx.get(f"{url}/health/ready", timeout=PATIENCE_S)
    return None if answer.status_code == 200 else answer


def test_keys_protect_everything_but_health_and_sigterm_lets_streams_finish(tiny_folder: Path, tmp_path: Path) -> None:
    """One server for both, as each start takes seconds."""
    words = ("serve", tiny_folder, "--port", 0, "--threads", 1, "--api-key", "secret", "--name", "tiny")
    with burnish(tmp_path / "log.txt", *words) as running:
        check_keys(running.url)
        check_drain(running)
    assert "secret" not in (tmp_path / "log.txt").read_text()


def check_keys(url: str) -> None:
    for path in ("/", "/metrics", "/v1/models", "/docs", "/openapi.json", "/nowhere"):
        refused = httpx.get(url + path)
        assert refused.status_code == 401, path
        assert refused.json()["error"]["code"] == "invalid_api_key"
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"):
        assert httpx.post(url + path, json={}, headers={"Authorization": "Bearer guess"}).status_code == 401, path
    for path in ("/health/live", "/health/ready"):
        assert httpx.get(url + path).status_code == 200, path
    assert httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer secret"}).json()["data"][0]["id"] == "tiny"


def check_drain(running: Running) -> None:
    key = {"Authorization": "Bearer secret"}
    address, body = f"{running.url}/v1/chat/completions", chat(max_tokens=1000)
    with httpx.stream("POST", address, json=body, headers=key, timeout=PATIENCE_S) as answer:
        told = events(answer.iter_lines())
        next(told)
        running.process.terminate()
        draining = until(lambda: not_ready(running.url), "the drain")
        assert (draining.status_code, draining.json()["error"]["code"]) == (503, "draining")
        refused = httpx.post(address, json=body, headers=key)
        assert refused.status_code == 503
        rest = list(told)
    assert rest[-1]["choices"][0]["finish_reason"] == "length"
    assert running.process.wait(PATIENCE_S) == 0


@pytest.mark.slow
def test_up_ends_in_a_served_model(tiny_folder: Path, prose: Path, tmp_path: Path) -> None:
    """From a folder to a streamed chat with one command: slow, as it searches first."""
    words = ("up", tiny_folder, "--data", prose, "--port", 0, "--threads", 1)
    with burnish(tmp_path / "log.txt", *words, XDG_CACHE_HOME=str(tmp_path / "cache")) as running:
        body = chat(max_tokens=20, stream_options={"include_usage": True})
        with httpx.stream("POST", f"{running.url}/v1/chat/completions", json=body, timeout=PATIENCE_S) as answer:
            told = list(events(answer.iter_lines()))
        assert told[-1]["usage"]["completion_tokens"] == 20
        assert not maps(running.process.pid, "libtorch")
        running.process.terminate()
        assert running.process.wait(PATIENCE_S) == 0
    said = (tmp_path / "log.txt").read_text()
    assert all(word in said for word in ("as it is", "int8", "int4-g32", "Best: ", "curl -N"))
