"""Limits: what users write, and what cannot be meant."""

import pytest

from burnish.core.errors import BadSettings
from burnish.measure.limits import Limit, is_kept, parse_limits

KNOWN = ("ttft_ms", "tpot_ms", "p50_ttft_ms", "p95_ttft_ms", "p99_ttft_ms", "loss_ratio")


def test_limits_are_read_in_their_order() -> None:
    written = ("ttft_ms<=200", " p95_ttft_ms < 1e3 ", "loss_ratio>=-0.5", "tpot_ms>0")
    found = parse_limits(written, KNOWN)
    assert found == (
        Limit("ttft_ms", "<=", 200.0),
        Limit("p95_ttft_ms", "<", 1000.0),
        Limit("loss_ratio", ">=", -0.5),
        Limit("tpot_ms", ">", 0.0),
    )
    assert [str(limit) for limit in found] == ["ttft_ms<=200", "p95_ttft_ms<1000", "loss_ratio>=-0.5", "tpot_ms>0"]


@pytest.mark.parametrize(
    ("comparison", "kept"), [("<=", (True, True, False)), ("<", (True, False, False)), (">=", (False, True, True))]
)
def test_comparisons(comparison: str, kept: tuple[bool, ...]) -> None:
    limit = Limit("ttft_ms", comparison, 5.0)
    assert tuple(limit.holds(value) for value in (4.0, 5.0, 6.0)) == kept


def test_what_was_not_measured_breaks_its_limits() -> None:
    limits = parse_limits(["ttft_ms<=5", "tpot_ms>=2"], KNOWN)
    assert is_kept(limits, {"ttft_ms": 5.0, "tpot_ms": 2.0})
    assert not is_kept(limits, {"ttft_ms": 5.1, "tpot_ms": 2.0})
    assert not is_kept(limits, {"ttft_ms": 5.0, "tpot_ms": None})
    assert is_kept((), {})


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ("tfft_ms<=200", "unknown name 'tfft_ms'. Did you mean 'ttft_ms'?"),
        ("p95_ttft<=200", "unknown name 'p95_ttft'. Did you mean 'p95_ttft_ms'?"),
        ("ttft_ms=200", "'ttft_ms=200' is no comparison. Write for example ttft_ms<=200"),
        ("ttft_ms", "is no comparison"),
        ("", "is no comparison"),
        ("ttft_ms<=fast", "compares with 'fast', which is no number. Write ttft_ms<=200"),
        ("ttft_ms<=200ms", "compares with '200ms'"),
        ("ttft_ms<=nan", "compares with 'nan'"),
        ("ttft_ms<=inf", "compares with 'inf'"),
    ],
)
def test_what_is_no_limit(written: str, fault: str) -> None:
    with pytest.raises(BadSettings) as refused:
        parse_limits([written], KNOWN)
    assert fault in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other", "fault"),
    [
        ("ttft_ms<=100", "ttft_ms>=200", "contradict"),
        ("ttft_ms<100", "ttft_ms>=100", "contradict"),
        ("p50_ttft_ms>=300", "p95_ttft_ms<=200", "contradict"),  # the median is never above a higher percentile
        ("ttft_ms<=100", "ttft_ms<=200", "say the same twice"),
        ("ttft_ms<=100", "ttft_ms<100", "say the same twice"),
    ],
)
def test_limits_that_cannot_both_be_meant(one: str, other: str, fault: str) -> None:
    for pair in ((one, other), (other, one)):
        with pytest.raises(BadSettings) as refused:
            parse_limits(pair, KNOWN)
        assert fault in str(refused.value)
        assert one in str(refused.value)
        assert other in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ttft_ms<=100", "ttft_ms>=100"),  # exactly 100 keeps both
        ("ttft_ms<=200", "ttft_ms>=100"),
        ("p99_ttft_ms>=300", "p50_ttft_ms<=200"),
        ("p95_ttft_ms<=100", "tpot_ms>=200"),
        ("ttft_ms<=100", "p95_ttft_ms>=200"),  # one is on every request, the other on the run
    ],
)
def test_limits_that_can(one: str, other: str) -> None:
    assert len(parse_limits((one, other), KNOWN)) == 2
