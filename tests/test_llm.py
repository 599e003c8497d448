"""The Python API: outputs of every kind of prompt, together and alone, in threads and in streams."""

import asyncio
import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from burnish import LLM, Sampling
from burnish.core.errors import BadRequest, NotFound, PromptTooLong
from burnish.engine.config import EngineConfig
from burnish.llm import Output
from tests.conftest import shared
from tests.tiny import BOS

GREEDY = Sampling(max_tokens=12, temperature=0, ignore_eos=True)
PROMPTS = ["Once", "upon a time", "", "The quick brown fox jumps over the lazy dog."]


@pytest.fixture(scope="module")
def llm(tiny_folder: Path) -> Iterator[LLM]:
    threads = torch.get_num_threads()
    yield LLM(tiny_folder, EngineConfig(num_blocks=300, threads=1))
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did, no request and no block is left."""
    yield
    if "llm" in request.fixturenames:
        load = request.getfixturevalue("llm").load()
        assert (load.running, load.waiting, load.used_blocks) == (0, 0, 0)


async def collect(llm: LLM, prompt: str | list[int], sampling: Sampling = GREEDY) -> Output:
    last = None
    async for output in llm.stream(prompt, sampling):
        last = output
    assert last is not None
    return last


def test_one_prompt_is_a_list_of_one(llm: LLM) -> None:
    [output] = llm.generate("Once", GREEDY)
    assert (output.prompt_index, output.index, output.finish_reason, output.logprobs) == (0, 0, "length", None)
    assert len(output.token_ids) == 12
    assert output.text == llm.tokenizer.decode(output.token_ids)
    assert (output.usage.prompt_tokens, output.usage.completion_tokens) == (4, 12)


def test_the_default_is_sixteen_tokens(llm: LLM) -> None:
    assert llm.generate("Once")[0].usage.completion_tokens <= 16
    assert llm.generate([]) == []


def test_outputs_come_in_the_order_of_the_prompts_and_as_if_alone(llm: LLM) -> None:
    together = llm.generate(PROMPTS, GREEDY)
    assert [output.prompt_index for output in together] == [0, 1, 2, 3]
    for prompt, output in zip(PROMPTS, together, strict=True):
        [alone] = llm.generate(prompt, GREEDY)
        assert (alone.text, alone.token_ids) == (output.text, output.token_ids)
    assert len({output.text for output in together}) == 4


def test_token_ids_are_the_same_as_their_text(llm: LLM) -> None:
    ids = [llm.tokenizer.encode(prompt) for prompt in PROMPTS if prompt]
    texts = llm.generate([prompt for prompt in PROMPTS if prompt], GREEDY)
    assert [output.token_ids for output in llm.generate(ids, GREEDY)] == [output.token_ids for output in texts]


def test_an_empty_prompt_starts_from_bos(llm: LLM) -> None:
    empty, begin = llm.generate([[BOS]], GREEDY)[0], llm.generate("", GREEDY)[0]
    assert begin.token_ids == empty.token_ids
    assert begin.usage.prompt_tokens == 1


def test_choices_differ_and_can_be_had_again(llm: LLM) -> None:
    sampling = Sampling(max_tokens=10, n=3, seed=7, ignore_eos=True)
    outputs = llm.generate(["Once", "Twice"], sampling)
    assert [(o.prompt_index, o.index) for o in outputs] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert len({tuple(o.token_ids) for o in outputs}) == 6
    assert [o.token_ids for o in llm.generate(["Once", "Twice"], sampling)] == [o.token_ids for o in outputs]


def test_logprobs_of_the_chosen_and_of_the_likeliest(llm: LLM) -> None:
    sampling = Sampling(max_tokens=6, temperature=0, ignore_eos=True, logprobs=4)
    [output] = llm.generate("Once", sampling)
    assert output.logprobs is not None
    assert len(output.logprobs) == len(output.token_ids) == 6
    for token_id, found in zip(output.token_ids, output.logprobs, strict=True):
        assert found.top[0] == (token_id, found.logprob)  # greedy takes the likeliest
        assert [t.logprob for t in found.top] == sorted((t.logprob for t in found.top), reverse=True)
        assert len(found.top) == 4
        assert sum(math.exp(t.logprob) for t in found.top) <= 1 + 1e-6


def test_a_stop_string_ends_the_text_before_it(llm: LLM) -> None:
    [whole] = llm.generate("Once", GREEDY)
    cut = next(i for i in range(3, 11) if 0 < whole.text.find(whole.text[i]) == i and whole.text[i] != "\ufffd")
    stop = whole.text[cut]
    [stopped] = llm.generate("Once", Sampling(max_tokens=12, temperature=0, ignore_eos=True, stop=(stop,)))
    assert (stopped.text, stopped.finish_reason) == (whole.text[:cut], "stop")
    assert len(stopped.token_ids) < 12
    token = whole.token_ids[4]
    [stopped] = llm.generate("Once", Sampling(max_tokens=12, temperature=0, ignore_eos=True, stop_token_ids=(token,)))
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids[:4] == whole.token_ids[:4]


@pytest.mark.parametrize(
    ("bad", "fault", "words"),
    [
        ([[5] * 2048], PromptTooLong, "the prompt has 2048 tokens, the limit is 2048"),
        ([[5, 259]], BadRequest, "token id 259 is not in the vocabulary. Use ids 0 to 258"),
        ([[-1]], BadRequest, "token id -1 is not in the vocabulary"),
        ([[]], BadRequest, "the prompt is empty"),
        ([5, 6], BadRequest, "prompts are strings or lists of token ids. Put one list of ids into another"),
        (["a\ud800"], BadRequest, "text is not Unicode"),
    ],
)
def test_a_bad_prompt_leaves_nothing_running(llm: LLM, bad: list[str], fault: type[BadRequest], words: str) -> None:
    with pytest.raises(fault, match=words) as caught:
        llm.generate(["good", *bad, "never reached"], GREEDY)
    assert "\n" not in str(caught.value)
    assert llm.load().used_blocks == 0
    assert llm.generate("good", GREEDY)


def test_what_cannot_fit_is_refused(llm: LLM) -> None:
    with pytest.raises(PromptTooLong, match="Use max_tokens of at most 2044"):
        llm.generate("good", Sampling(max_tokens=2045))
    with pytest.raises(NotFound, match="'nowhere' does not exist"):
        LLM("nowhere")


def test_a_caller_may_queue_more_than_a_server_would(tiny_folder: Path) -> None:
    small = LLM(tiny_folder, EngineConfig(num_blocks=20, max_running=2, max_waiting=1, threads=1))
    assert len(small.generate(PROMPTS * 3, GREEDY)) == 12
    assert small.load().used_blocks == 0


def test_chat_speaks_through_the_template(llm: LLM) -> None:
    answer = llm.chat([("system", "Be kind."), ("user", "Hello")], GREEDY)
    [same] = llm.generate("system: Be kind.\nuser: Hello\nassistant: ", GREEDY)
    assert answer.token_ids == same.token_ids
    with pytest.raises(BadRequest, match="n = 2"):
        llm.chat([("user", "Hello")], Sampling(n=2))


def test_a_stream_grows_to_what_generate_says(llm: LLM) -> None:
    async def run() -> list[tuple[str, int, str | None]]:
        return [(o.text, len(o.token_ids), o.finish_reason) async for o in llm.stream("Once", GREEDY)]

    seen = asyncio.run(run())
    [whole] = llm.generate("Once", GREEDY)
    assert len(seen) >= 12
    assert all(after[0].startswith(before[0]) for before, after in itertools.pairwise(seen))
    assert [reason for _, _, reason in seen] == [None] * (len(seen) - 1) + ["length"]
    assert seen[-1][:2] == (whole.text, 12)


def test_streams_at_once_share_their_steps(llm: LLM) -> None:
    prompts = [f"Story {number}" for number in range(8)]
    alone = llm.generate(prompts, GREEDY)
    before = llm.load().steps

    async def run() -> list[Output]:
        return await asyncio.gather(*(collect(llm, prompt) for prompt in prompts))

    assert [output.token_ids for output in asyncio.run(run())] == [output.token_ids for output in alone]
    assert llm.load().steps - before < 8 * 12  # one after the other would need them all


def test_threads_and_streams_may_be_mixed(llm: LLM) -> None:
    expected = {prompt: llm.generate(prompt, GREEDY)[0].token_ids for prompt in PROMPTS}

    def generated(prompt: str) -> list[int]:
        return llm.generate(prompt, GREEDY)[0].token_ids

    def streamed(prompt: str) -> list[int]:
        return asyncio.run(collect(llm, prompt)).token_ids

    with ThreadPoolExecutor(8) as pool:
        found = [(p, pool.submit(way, p)) for p in PROMPTS * 3 for way in (generated, streamed)]
        for prompt, future in found:
            assert future.result(timeout=120) == expected[prompt]


def test_closing_a_stream_early_frees_its_blocks(llm: LLM) -> None:
    async def run() -> None:
        stream = llm.stream("Once", Sampling(max_tokens=1000, temperature=0, ignore_eos=True))
        async for output in stream:
            if len(output.token_ids) >= 3:
                break
        assert llm.load().used_blocks > 0
        await stream.aclose()  # type: ignore[attr-defined]
        assert (llm.load().used_blocks, llm.load().running) == (0, 0)

    asyncio.run(run())


def test_cancelling_a_stream_frees_its_blocks(llm: LLM) -> None:
    async def run() -> None:
        task = asyncio.create_task(collect(llm, "Once", Sampling(max_tokens=1000, temperature=0, ignore_eos=True)))
        while llm.load().running == 0:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert llm.load().used_blocks == 0


def test_several_choices_are_not_streamed(llm: LLM) -> None:
    with pytest.raises(BadRequest, match="n = 2 cannot be streamed"):
        asyncio.run(collect(llm, "Once", Sampling(n=2)))


@pytest.mark.parametrize("name", ["", "stories260K_v1.bin"])
def test_stories260k_tells_the_expected_story(name: str) -> None:
    folder = shared("models/stories260k")
    [story] = LLM(folder / name).generate("", Sampling(max_tokens=256, temperature=0))
    assert story.text == (folder / "expected_greedy.txt").read_text().rstrip("\n")
    assert story.usage.prompt_tokens == 1
