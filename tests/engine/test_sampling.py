"""Every link of the sampling chain with numbers small enough to check by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import BadRequest
from burnish.core.types import Sampling
from burnish.engine import sampling as chain
from burnish.engine.sampling import Row, sample

LOGITS = np.array([[2.0, 1.0, 0.0, -1.0]], dtype=np.float32)
PROBABILITIES = np.exp(LOGITS[0]) / np.exp(LOGITS[0]).sum()


def row(
    sampling: Sampling, *, prompt: tuple[int, ...] = (), output: list[int] | None = None, uniform: float = 0.0
) -> Row:
    return Row(sampling, prompt, output or [], uniform)


def test_bias_is_added_to_the_named_tokens() -> None:
    state = (row(Sampling(logit_bias=((2, 5.0), (0, -1.0)))),)
    assert chain.add_bias(LOGITS, state).tolist() == [[1.0, 1.0, 5.0, -1.0]]


def test_presence_and_frequency_count_the_output_only() -> None:
    state = (row(Sampling(presence_penalty=0.5, frequency_penalty=0.25), prompt=(3,), output=[0, 0, 1]),)
    assert chain.penalize_presence(LOGITS, state).tolist() == [[1.0, 0.25, 0.0, -1.0]]


def test_repetition_counts_prompt_and_output() -> None:
    state = (row(Sampling(repetition_penalty=2.0), prompt=(3,), output=[0]),)
    assert chain.penalize_repetition(LOGITS, state).tolist() == [[1.0, 1.0, 0.0, -2.0]]


def test_inputs_are_never_changed_and_other_rows_stay() -> None:
    logits = LOGITS.repeat(2, 0)
    asks = Sampling(logit_bias=((0, 1.0),), presence_penalty=1.0, repetition_penalty=2.0)
    for function in chain.CHAIN:
        out = function(logits, (row(asks, output=[1]), row(Sampling())))
        assert np.array_equal(logits, LOGITS.repeat(2, 0))
        assert np.array_equal(out[1], LOGITS[0])


@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=12),
    uniform=st.floats(0, 1, exclude_max=True),
    top_k=st.integers(0, 12),
    top_p=st.floats(1e-12, 1),
    min_p=st.floats(0, 1),
    temperature=st.one_of(st.just(0.0), st.floats(5e-324, 100)),
    repetition=st.floats(0.01, 100),
    bias=st.floats(-100, 100),
)
def test_whatever_is_asked_a_token_is_chosen(
    logits: list[float],
    uniform: float,
    top_k: int,
    top_p: float,
    min_p: float,
    temperature: float,
    repetition: float,
    bias: float,
) -> None:
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition,
        logit_bias=((0, bias),),
    )
    state = (row(sampling, prompt=(0,), output=[1], uniform=uniform),)
    [chosen] = sample(np.array([logits], dtype=np.float32), state)
    assert chosen.token_id is not None
    assert 0 <= chosen.token_id < len(logits)


def test_a_row_does_not_depend_on_its_batch() -> None:
    logits = np.random.default_rng(0).standard_normal((7, 50), dtype=np.float32)
    asks = [
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(temperature=0),
        Sampling(top_k=5, min_p=0.1),
        Sampling(repetition_penalty=1.3, frequency_penalty=0.5),
        Sampling(logit_bias=((3, 4.0),)),
        Sampling(temperature=1.8),
        Sampling(logprobs=3),
    ]
    state = tuple(row(s, output=[1, 2, 2], uniform=0.37 + i / 20) for i, s in enumerate(asks))
    together = sample(logits, state)
    alone = [sample(logits[i : i + 1], state[i : i + 1])[0] for i in range(7)]
    assert together == alone


def test_logprobs_are_of_the_model_not_of_the_filters() -> None:
    sampling = Sampling(temperature=0.1, top_k=1, logit_bias=((3, 100.0),), logprobs=2)
    [chosen] = sample(LOGITS, (row(sampling),))
    scores = np.log(PROBABILITIES)
    assert chosen.token_id == 3
    assert chosen.logprobs is not None
    assert chosen.logprobs.logprob == pytest.approx(float(scores[3]))
    assert [a.token_id for a in chosen.logprobs.top] == [0, 1]


def test_logits_that_are_no_numbers_fail_their_row_only() -> None:
    logits = LOGITS.repeat(4, 0)
    logits[1, 2] = float("nan")
    logits[2] = float("-inf")
    chosen = sample(logits, tuple(row(Sampling(temperature=0)) for _ in range(4)))
    assert [choice.token_id for choice in chosen] == [0, None, None, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2},
        {"presence_penalty": 2.1},
        {"frequency_penalty": -3},
        {"repetition_penalty": 0},
        {"max_tokens": -1},
        {"n": 0},
        {"logprobs": -1},
        {"stop": ("",)},
        {"stop": "the end"},
        {"stop_token_ids": [1]},
        {"logit_bias": {1: 1.0}},
        {"max_tokens": 1.5},
        {"seed": "x"},
        {"temperature": "hot"},
        {"temperature": True},
        {"logit_bias": ((1, 101.0),)},
    ],
)
def test_values_out_of_range_are_refused_with_a_remedy(wrong: dict[str, object]) -> None:
    with pytest.raises(BadRequest) as caught:
        Sampling(**wrong)  # type: ignore[arg-type]
    assert caught.value.remedy
    assert caught.value.param in wrong
    assert "\n" not in str(caught.value)
