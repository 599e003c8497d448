"""Orders and what their times mean."""

import random

import pytest

from benchmarks.protocol import Generate, check
from benchmarks.workloads import WORKLOADS, Workload, order, tokens_per_s

TWO = Workload("two", "two together", "decode", 2, 10, 3)


def test_prefill_lasts_until_the_last_prompt_has_its_first_token() -> None:
    assert tokens_per_s(TWO._replace(measures="prefill"), [[1.0, 5.0, 6.0], [4.0, 5.0, 6.0]]) == 20 / 4.0


def test_decode_counts_only_what_is_written_once_all_have_begun() -> None:
    assert tokens_per_s(TWO, [[1.0, 3.0, 6.0], [4.0, 5.0, 6.0]]) == 3 / 2.0


def test_a_lone_sequence_decodes_all_but_its_first_token() -> None:
    alone = TWO._replace(num_prompts=1)
    assert tokens_per_s(alone, [[0.5, 1.0, 1.5]]) == 2.0


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_prompts_are_as_ordered_and_never_repeat(workload: Workload) -> None:
    source = random.Random(0)
    first, second = (order(workload, 4096, source) for _ in range(2))
    prompts = [tuple(prompt) for prompt in (*first.prompts, *second.prompts)]
    assert len(set(prompts)) == 2 * workload.num_prompts
    assert {len(prompt) for prompt in prompts} == {workload.prompt_tokens}
    assert all(3 <= token < 4096 for prompt in prompts for token in prompt)
    assert first.new_tokens == workload.new_tokens


@pytest.mark.parametrize("token_s", [[[0.1, 0.2]], [[0.1, 0.2], [0.1]], [[0.1], [0.1]], [[], []]])
def test_too_few_tokens_are_not_taken_for_speed(token_s: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="not 2 each"):
        check(token_s, Generate(prompts=[[3], [4]], new_tokens=2))
