"""Windows that would score nothing are refused in one line."""

import pytest

from burnish.core.errors import BadSettings
from burnish.measure.quality.perplexity import QualityConfig


@pytest.mark.parametrize(
    ("context", "stride", "max_tokens", "told"),
    [
        (1, 1, None, "context 1 is too small. Use at least 2"),
        (0, 256, None, "context 0 is too small. Use at least 2"),
        (512, 0, None, "stride 0 does not fit windows of 512 tokens. Use 1 to 511"),
        (512, 512, None, "stride 512 does not fit windows of 512 tokens. Use 1 to 511"),
        (512, -1, None, "stride -1 does not fit windows of 512 tokens. Use 1 to 511"),
        (512, 256, 0, "max_tokens 0 is too small. Use 1 or more"),
    ],
)
def test_a_value_out_of_range_is_named(context: int, stride: int, max_tokens: int | None, told: str) -> None:
    with pytest.raises(BadSettings) as fault:
        QualityConfig(context=context, stride=stride, max_tokens=max_tokens)
    assert str(fault.value) == told


def test_the_narrowest_window_is_allowed() -> None:
    assert QualityConfig(context=2, stride=1, max_tokens=1).stride == 1
