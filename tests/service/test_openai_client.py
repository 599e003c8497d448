"""The official client against the double."""

import time

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

from burnish.core.errors import Overloaded, Unavailable
from burnish.core.types import Request
from tests.service.conformance import HELLO, Conformance, client, metrics, model, wait_until_free
from tests.service.double import TEXT, Double, serving
from tests.service.shapes import check_shape, need_published_schema

__all__ = ["client", "model"]


class TestDouble(Conformance):
    """All of it."""


def test_shapes_are_really_checked() -> None:
    need_published_schema()
    with pytest.raises(Exception, match="'id' is a required property"):
        check_shape("Model", {"object": "model", "created": 1, "owned_by": "x"})


def test_everything_asked_for_reaches_the_engine(client: OpenAI, model: str, double: Double) -> None:
    client.chat.completions.create(
        model=model,
        messages=[{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        temperature=0.5,
        top_p=0.25,
        presence_penalty=1.5,
        frequency_penalty=-0.5,
        logit_bias={"65": 5},
        seed=-3,
        stop="END",
        n=2,
        max_completion_tokens=9,
        logprobs=True,
        top_logprobs=4,
        user="me",
        metadata={"a": "b"},
        extra_body={
            "top_k": 7,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "stop_token_ids": [3, 4],
            "ignore_eos": True,
            "cache_salt": "tenant",
        },
    )
    first, second = double.seen
    sampling = first.sampling
    assert (sampling.seed, second.sampling.seed, sampling.n, first.salt) == (-3, -2, 1, "tenant")
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.25, 7, 0.125)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1.5, -0.5, 1.5)
    assert (sampling.logit_bias, sampling.stop, sampling.stop_token_ids) == (((65, 5.0),), ("END",), (3, 4))
    assert (sampling.ignore_eos, sampling.max_tokens, sampling.logprobs) == (True, 9, 4)
    assert bytes(first.prompt[1:]) == b"system: Be kind.\nuser: hi\nassistant: "


def test_whole_text_and_natural_end(client: OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"


def test_text_offsets_count_characters_not_bytes(client: OpenAI, model: str) -> None:
    choice = client.completions.create(model=model, prompt="a", max_tokens=300, logprobs=0).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.text_offset is not None
    bird = TEXT.encode().index("🦊".encode())
    assert choice.text == TEXT
    assert choice.logprobs.text_offset[bird : bird + 5] == [TEXT.index("🦊")] * 4 + [TEXT.index("🦊") + 1]
    assert choice.logprobs.text_offset[-1] == len(TEXT)  # the end token, which adds nothing
    assert choice.logprobs.tokens is not None
    assert choice.logprobs.tokens[bird] == "bytes:\\xf0"


def test_zero_top_p_means_the_likeliest_alone(client: OpenAI, model: str, double: Double) -> None:
    client.completions.create(model=model, prompt="a", top_p=0)
    assert 0 < double.seen[0].sampling.top_p < 1e-6


def test_null_is_absent(base_url: str) -> None:
    body = {"model": "double", "prompt": "a", "max_tokens": None, "stop": None, "tools": None, "stream": None}
    assert httpx.post(f"{base_url}/v1/completions", json=body).status_code == 200
    refused = httpx.post(f"{base_url}/v1/completions", json={**body, "wibble": None})
    assert refused.json()["error"]["param"] == "wibble"


def test_long_texts_are_tokenized_off_the_event_loop(base_url: str) -> None:
    answer = httpx.post(f"{base_url}/tokenize", json={"prompt": "a" * 100_000})
    assert answer.json()["count"] == 100_001


def test_timeout_of_the_client_frees_the_request(double: Double) -> None:
    double.hold = True
    with serving(double) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=0.2) as client:
        for stream in (False, True):
            with pytest.raises(openai.APITimeoutError):
                client.chat.completions.create(model="double", messages=HELLO, stream=stream)
            wait_until_free(url)
            assert not double.active


def test_time_limit_of_the_server(double: Double) -> None:
    double.hold = True
    with (
        serving(double, request_timeout_s=0.1) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="double", messages=HELLO)
        assert (caught.value.status_code, caught.value.code) == (503, "timeout")
        wait_until_free(url)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_refusals_before_the_first_token(double: Double, client: OpenAI, stream: bool, n: int) -> None:
    def refuse(request: Request, num_said: int) -> str | None:
        raise fault

    double.fail = refuse
    for fault, kind in ((Overloaded("full"), openai.RateLimitError), (Unavailable("down"), openai.InternalServerError)):
        with pytest.raises(kind) as caught:
            client.chat.completions.create(model="double", messages=HELLO, stream=stream, n=n)
        assert caught.value.status_code == fault.status
        assert caught.value.response.headers["retry-after"] == "1"
        check_shape("ErrorResponse", caught.value.response.json())


@pytest.mark.parametrize("n", [1, 3])
def test_engine_error_midway(double: Double, client: OpenAI, base_url: str, n: int) -> None:
    double.fail = lambda request, num_said: "the engine died" if num_said == 4 else None
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model="double", messages=HELLO, n=n)
    assert caught.value.code == "engine_error"
    assert "retry-after" in caught.value.response.headers
    said: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError, match="the engine died"):
        list(map(said.append, client.chat.completions.create(model="double", messages=HELLO, n=n, stream=True)))
    assert sum(chunk.choices[0].delta.content == "O" for chunk in said) == n
    wait_until_free(base_url)
    assert metrics(base_url)['burnish_requests_finished_total{reason="error"}'] >= 2


def test_unexpected_error_is_generic(double: Double, base_url: str, caplog: pytest.LogCaptureFixture) -> None:
    def stumble(request: Request, num_said: int) -> str | None:
        raise RuntimeError("secret of the house")

    double.fail = stumble
    answer = httpx.post(f"{base_url}/v1/completions", json={"model": "double", "prompt": "a"})
    assert answer.status_code == 500
    check_shape("ErrorResponse", answer.json())
    assert "secret" not in answer.text
    assert "secret of the house" in caplog.text


def test_leaving_midway_stops_the_engine_soon(double: Double, base_url: str) -> None:
    double.pause_s = 0.01
    body = {"model": "double", "messages": HELLO, "stream": True, "n": 3}
    with httpx.stream("POST", f"{base_url}/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert len(double.active) == 3
    end = time.monotonic() + 1
    while double.active and time.monotonic() < end:
        time.sleep(0.005)
    assert not double.active
    wait_until_free(base_url)


def test_a_model_without_tokenizer_takes_ids_only(double: Double) -> None:
    with serving(double, codec=None) as url, OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(model="double", prompt=[1, 2], max_tokens=2, logprobs=1)
        assert answer.choices[0].logprobs is not None
        assert answer.choices[0].logprobs.tokens == ["token_id:79", "token_id:110"]
        with pytest.raises(openai.BadRequestError, match="no tokenizer"):
            client.chat.completions.create(model="double", messages=HELLO)
        with pytest.raises(openai.BadRequestError, match="no beginning token"):
            client.completions.create(model="double", prompt=[])
        for path, body in (("tokenize", {"prompt": "a"}), ("detokenize", {"tokens": [1]})):
            assert httpx.post(f"{url}/{path}", json=body).status_code == 400


def test_streams_are_not_held_back_on_the_way(base_url: str) -> None:
    body = {"model": "double", "prompt": "a", "stream": True}
    headers = httpx.post(f"{base_url}/v1/completions", json=body).headers
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
