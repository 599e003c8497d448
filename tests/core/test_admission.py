"""The proof that a request fits."""

import pytest

from burnish.core.admission import Limits, admit
from burnish.core.errors import BadRequest, PromptTooLong
from burnish.core.types import Request, Sampling

LIMITS = Limits(vocab_size=10, max_tokens=20)


def request(length: int, *, first: int = 1, **sampling: object) -> Request:
    prompt = (first, *(1,) * (length - 1)) if length else ()
    return Request(request_id="r", prompt=prompt, sampling=Sampling(**sampling))  # type: ignore[arg-type]


def test_a_request_may_fill_everything() -> None:
    assert admit(request(4, max_tokens=16), LIMITS) == 16
    assert admit(request(4, max_tokens=None), LIMITS) == 16
    assert admit(request(19, max_tokens=1), LIMITS) == 1


@pytest.mark.parametrize("wrong", [request(4, max_tokens=17), request(20, max_tokens=None), request(500, max_tokens=1)])
def test_what_never_fits_is_refused(wrong: Request) -> None:
    with pytest.raises(PromptTooLong, match="20"):
        admit(wrong, LIMITS)


@pytest.mark.parametrize(
    "wrong",
    [
        request(0),
        request(3, first=10),
        request(3, first=-1),
        request(3, stop_token_ids=(11,)),
        request(3, logit_bias=((99, 1.0),)),
    ],
)
def test_nonsense_is_refused(wrong: Request) -> None:
    with pytest.raises(BadRequest) as caught:
        admit(wrong, LIMITS)
    assert caught.value.remedy


def test_choices_are_separate_requests_with_separate_seeds() -> None:
    choices = request(3, n=3, seed=7).choices()
    assert [c.sampling.seed for c in choices] == [7, 8, 9]
    assert len({c.request_id for c in choices}) == 3
    assert all(c.sampling.n == 1 for c in choices)
