"""What any burnish server owes the official openai client, whatever model it serves.

Subclass ``Conformance`` next to a ``base_url`` fixture that points at a server without API keys.
"""

import asyncio
import itertools
import time
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

from tests.service.shapes import check_shape

HELLO: list[Any] = [{"role": "user", "content": "Tell me a story about a fox."}]
FIXED: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}}


def metrics(base_url: str) -> dict[str, float]:
    """Sample name (with labels) -> value."""
    lines = httpx.get(f"{base_url}/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def check_conservation(found: dict[str, float]) -> None:
    """started == finished by reason + running + waiting."""
    ended = sum(value for name, value in found.items() if name.startswith("burnish_requests_finished_total"))
    carried = found["burnish_requests_running"] + found["burnish_requests_waiting"]
    assert found["burnish_requests_started_total"] == ended + carried


def wait_until_free(base_url: str, within_s: float = 5.0) -> None:
    """Nothing waits, runs or holds a block, soon; the conservation law holds at every look."""
    end = time.monotonic() + within_s
    while True:
        found = metrics(base_url)
        check_conservation(found)
        if not (
            found["burnish_requests_running"]
            or found["burnish_requests_waiting"]
            or found['burnish_kv_blocks{state="used"}']
        ):
            return
        assert time.monotonic() < end, found
        time.sleep(0.02)


@pytest.fixture
def client(base_url: str) -> Any:
    """The official client."""
    with OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def model(client: OpenAI) -> str:
    """The name of the served model."""
    return client.models.list().data[0].id


class Conformance:
    """One test per promise."""

    def test_models(self, client: OpenAI, model: str) -> None:
        check_shape("ListModelsResponse", client.models.list().model_dump(mode="json"))
        check_shape("Model", client.models.retrieve(model).model_dump(mode="json", exclude_unset=True))
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("no/such")
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")

    def test_chat(self, client: OpenAI, model: str) -> None:
        answer = client.chat.completions.create(model=model, messages=HELLO, **FIXED)
        check_shape("CreateChatCompletionResponse", answer.model_dump(mode="json", exclude_unset=True))
        assert answer.id.startswith("chatcmpl-")
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 12
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12

    def test_chat_stream_says_the_same_and_ends_with_usage(self, client: OpenAI, model: str) -> None:
        answer = client.chat.completions.create(model=model, messages=HELLO, **FIXED)
        chunks: list[ChatCompletionChunk] = list(
            client.chat.completions.create(
                model=model, messages=HELLO, stream=True, stream_options={"include_usage": True}, **FIXED
            )
        )
        for chunk in chunks:
            check_shape("CreateChatCompletionStreamResponse", chunk.model_dump(mode="json", exclude_unset=True))
        assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == answer.choices[0].message.content
        assert [c.choices[0].finish_reason for c in chunks[:-1] if c.choices[0].finish_reason] == ["length"]
        assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks[:-1])
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert answer.usage is not None
        assert chunks[-1].usage.total_tokens == answer.usage.total_tokens

    def test_chat_stream_without_usage_has_none(self, client: OpenAI, model: str) -> None:
        for chunk in client.chat.completions.create(model=model, messages=HELLO, stream=True, **FIXED):
            assert len(chunk.choices) == 1
            assert "usage" not in chunk.model_fields_set

    def test_several_choices_count_the_prompt_once(self, client: OpenAI, model: str) -> None:
        one = client.chat.completions.create(model=model, messages=HELLO, seed=7, max_tokens=5)
        three = client.chat.completions.create(model=model, messages=HELLO, seed=7, max_tokens=5, n=3)
        assert [choice.index for choice in three.choices] == [0, 1, 2]
        assert three.choices[0].message.content == one.choices[0].message.content
        assert three.usage is not None
        assert one.usage is not None
        assert three.usage.prompt_tokens == one.usage.prompt_tokens
        streamed = ["", "", ""]
        for chunk in client.chat.completions.create(
            model=model, messages=HELLO, seed=7, max_tokens=5, n=3, stream=True
        ):
            streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
        assert streamed == [choice.message.content for choice in three.choices]

    def test_chat_logprobs(self, client: OpenAI, model: str) -> None:
        answer = client.chat.completions.create(model=model, messages=HELLO, logprobs=True, top_logprobs=3, **FIXED)
        check_shape("CreateChatCompletionResponse", answer.model_dump(mode="json", exclude_unset=True))
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert len(logprobs.content) == 12
        assert all(token.logprob <= 0 and len(token.top_logprobs) == 3 for token in logprobs.content)
        said = b"".join(bytes(token.bytes or []) for token in logprobs.content).decode("utf-8", "replace")
        assert answer.choices[0].message.content in said
        streamed = [
            token
            for chunk in client.chat.completions.create(
                model=model, messages=HELLO, logprobs=True, top_logprobs=3, stream=True, **FIXED
            )
            if chunk.choices[0].logprobs
            for token in chunk.choices[0].logprobs.content or []
        ]
        assert streamed == logprobs.content

    def test_text_parts_and_developer_role(self, client: OpenAI, model: str) -> None:
        parts: list[Any] = [{"type": "text", "text": "Tell me "}, {"type": "text", "text": "a story about a fox."}]
        split = client.chat.completions.create(model=model, messages=[{"role": "user", "content": parts}], **FIXED)
        plain = client.chat.completions.create(model=model, messages=HELLO, **FIXED)
        assert split.choices[0].message.content == plain.choices[0].message.content

    def test_own_answer_may_be_sent_back(self, client: OpenAI, model: str) -> None:
        answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=3)
        history = [*HELLO, answer.choices[0].message.model_dump(), {"role": "user", "content": "And then?"}]
        assert client.chat.completions.create(model=model, messages=history, max_tokens=3).choices

    def test_completions(self, client: OpenAI, model: str) -> None:
        answer = client.completions.create(model=model, prompt=["Once", "Twice"], n=2, max_tokens=4, seed=1)
        check_shape("CreateCompletionResponse", answer.model_dump(mode="json", exclude_unset=True))
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        alone = client.completions.create(model=model, prompt="Twice", max_tokens=4, seed=1)
        assert answer.choices[2].text == alone.choices[0].text

    def test_completions_from_ids_or_from_nothing(self, client: OpenAI, model: str, base_url: str) -> None:
        ids = httpx.post(f"{base_url}/tokenize", json={"prompt": "Once upon"}).json()["tokens"]
        text = client.completions.create(model=model, prompt="Once upon", **FIXED).choices[0].text
        for prompt in (ids, [ids]):
            assert client.completions.create(model=model, prompt=prompt, **FIXED).choices[0].text == text
        empty = client.completions.create(model=model, prompt="", **FIXED)
        assert empty.usage is not None
        assert empty.usage.prompt_tokens == 1

    def test_completion_stream_and_logprobs(self, client: OpenAI, model: str) -> None:
        answer = client.completions.create(model=model, prompt="Once", logprobs=2, **FIXED)
        check_shape("CreateCompletionResponse", answer.model_dump(mode="json", exclude_unset=True))
        text, logprobs = answer.choices[0].text, answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.tokens is not None
        assert logprobs.text_offset is not None
        assert len(logprobs.tokens) == len(logprobs.text_offset) == 12
        for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
            assert token.startswith("bytes:") or text[offset:].startswith(token) or offset + len(token) > len(text)
        chunks = list(client.completions.create(model=model, prompt="Once", logprobs=2, stream=True, **FIXED))
        assert "".join(chunk.choices[0].text for chunk in chunks) == text
        offsets = [c.choices[0].logprobs.text_offset or [] for c in chunks if c.choices[0].logprobs]
        assert list(itertools.chain.from_iterable(offsets)) == logprobs.text_offset

    def test_an_echo_says_the_prompt_and_how_likely_it_was(self, client: OpenAI, model: str) -> None:
        asked: dict[str, Any] = {"model": model, "prompt": "Once upon a", "logprobs": 2, **FIXED}
        plain, answer = client.completions.create(**asked), client.completions.create(echo=True, **asked)
        assert answer.usage == plain.usage
        assert answer.usage is not None
        text, logprobs, count = answer.choices[0].text, answer.choices[0].logprobs, answer.usage.prompt_tokens
        assert text == "Once upon a" + plain.choices[0].text
        assert logprobs is not None
        assert plain.choices[0].logprobs is not None
        assert logprobs.token_logprobs is not None
        assert [logprob is None for logprob in logprobs.token_logprobs] == [True] + [False] * (count + 11)
        assert logprobs.token_logprobs[count:] == plain.choices[0].logprobs.token_logprobs
        assert logprobs.tokens is not None
        assert logprobs.text_offset is not None
        for token, offset in zip(logprobs.tokens[1:count], logprobs.text_offset[1:count], strict=True):
            assert text[offset:].startswith(token)
        chunks = list(client.completions.create(echo=True, stream=True, **asked))
        assert "".join(chunk.choices[0].text for chunk in chunks) == text
        parts = [part for chunk in chunks if (part := chunk.choices[0].logprobs)]
        assert [one for part in parts for one in part.token_logprobs or []] == logprobs.token_logprobs
        assert [one for part in parts for one in part.text_offset or []] == logprobs.text_offset

    def test_an_echo_without_output_scores_a_text(self, client: OpenAI, model: str, base_url: str) -> None:
        ids = httpx.post(f"{base_url}/tokenize", json={"prompt": "Once upon a"}).json()["tokens"]
        echo: dict[str, Any] = {"model": model, "echo": True, "logprobs": 1, "temperature": 0}
        longer = client.completions.create(prompt="Once upon a", max_tokens=1, **echo).choices[0]
        answer = client.completions.create(prompt=[ids, ids], max_tokens=0, **echo)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 0
        assert longer.logprobs is not None
        assert longer.logprobs.token_logprobs is not None
        for choice in answer.choices:
            assert (choice.text, choice.finish_reason) == ("Once upon a", "length")
            assert choice.logprobs is not None
            assert choice.logprobs.token_logprobs == longer.logprobs.token_logprobs[:-1]
        bare = client.completions.create(model=model, prompt="Once", echo=True, max_tokens=0).choices[0]
        assert (bare.text, bare.logprobs) == ("Once", None)

    def test_completion_default_length_is_16(self, client: OpenAI, model: str) -> None:
        answer = client.completions.create(model=model, prompt="Once", temperature=0, extra_body={"ignore_eos": True})
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 16

    def test_tokenize_and_back(self, base_url: str) -> None:
        text = "Once upon a time, «Bonjour!» 🦊"
        body = {"prompt": text, "add_special_tokens": False}
        tokens = httpx.post(f"{base_url}/tokenize", json=body).json()
        assert tokens["count"] == len(tokens["tokens"])
        assert httpx.post(f"{base_url}/detokenize", json={"tokens": tokens["tokens"]}).json() == {"prompt": text}
        chat = httpx.post(f"{base_url}/tokenize", json={"messages": HELLO}).json()
        assert chat["count"] > 0

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"temperature": 3}, "temperature"),
            ({"n": 1000}, "n"),
            ({"top_logprobs": 3}, "top_logprobs"),
            ({"logprobs": True, "top_logprobs": 1000}, "logprobs"),
            ({"stop": ["x"] * 100}, "stop"),
            ({"logit_bias": {"999999999": 1}}, "logit_bias"),
            ({"max_tokens": 10**9}, "max_tokens"),
            ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"response_format": {"type": "xml"}}, "response_format"),
            ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.json_schema"),
            ({"extra_body": {"structured_outputs": {"regex": "a", "choice": ["b"]}}}, "structured_outputs"),
            ({"extra_body": {"structured_outputs": {"regexp": "a"}}}, "regexp"),
            ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
            ({"extra_body": {"temprature": 1}}, "temprature"),
            ({"extra_body": {"stop_token_ids": [999999999]}}, "stop_token_ids"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "user", "content": "x", "tool_call_id": "y"}]}, "tool_call_id"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "image_url"),
        ],
    )
    def test_bad_chat_requests(self, client: OpenAI, model: str, change: dict[str, Any], param: str) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{"model": model, "messages": HELLO, **change})
        check_shape("ErrorResponse", {"error": caught.value.body})
        assert caught.value.param == param

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"prompt": [999999999]}, "prompt"),
            ({"prompt": [[1, 2], [-1]]}, "prompt[1][0]"),
            ({"prompt": ["a"] * 1000}, "prompt"),
            ({"best_of": 2}, "best_of"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"suffix": "x"}, "suffix"),
            ({"logprobs": 1000}, "logprobs"),
        ],
    )
    def test_bad_completion_requests(self, client: OpenAI, model: str, change: dict[str, Any], param: str) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**{"model": model, "prompt": "a", **change})
        assert caught.value.param == param

    def test_too_long_a_prompt(self, client: OpenAI, model: str) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model=model, prompt=[1] * 100_000)
        assert caught.value.code == "context_length_exceeded"

    def test_wrong_model(self, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="gpt-9", messages=HELLO)
        assert caught.value.code == "model_not_found"

    def test_async_streams_of_which_a_third_leaves(self, base_url: str, model: str) -> None:
        async def one(client: AsyncOpenAI, number: int) -> int:
            stream = await client.chat.completions.create(model=model, messages=HELLO, stream=True, **FIXED)
            async with stream:
                num_chunks = 0
                async for _ in stream:
                    num_chunks += 1
                    if number % 3 == 0 and num_chunks > number % 5:
                        break
            return num_chunks

        async def everyone() -> list[int]:
            async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as client:
                return await asyncio.gather(*(one(client, number) for number in range(64)))

        before = metrics(base_url)
        assert min(asyncio.run(everyone())) >= 1
        wait_until_free(base_url)
        after = metrics(base_url)
        assert after["burnish_requests_started_total"] == before["burnish_requests_started_total"] + 64
