"""Window arithmetic: every token scored once, with the context that was promised."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.errors import BadSettings
from burnish.measure.quality.windows import cut


@given(data=st.data(), num_tokens=st.integers(2, 400), length=st.integers(2, 90), first=st.integers(0, 1))
def test_every_token_is_scored_once_with_enough_context(
    data: st.DataObject, num_tokens: int, length: int, first: int
) -> None:
    stride = data.draw(st.integers(1, length - first))
    windows = cut(num_tokens, length=length, stride=stride, first_scored=first)
    scored = [token for window in windows for token in range(window.score_from, window.end)]
    assert scored == list(range(first, num_tokens))
    assert {window.end - window.begin for window in windows} == {min(length, num_tokens)}
    for window in windows[1:]:
        assert window.begin >= 0
        assert window.score_from - window.begin >= length - stride
        assert window.end - window.score_from <= stride


def test_a_text_that_fits_is_one_window() -> None:
    assert cut(10, length=10, stride=5, first_scored=1) == [(0, 1, 10)]


@pytest.mark.parametrize(("stride", "first"), [(0, 0), (-1, 0), (9, 0), (8, 1)])
def test_a_stride_that_cannot_be_is_refused(stride: int, first: int) -> None:
    with pytest.raises(BadSettings, match=rf"stride {stride} must be 1 to {8 - first}"):
        cut(100, length=8, stride=stride, first_scored=first)
