"""A double behind a real server on loopback."""

from collections.abc import Iterator

import pytest

from tests.service.double import Double, serving


@pytest.fixture
def double() -> Double:
    return Double()


@pytest.fixture
def base_url(double: Double) -> Iterator[str]:
    with serving(double, drain_s=2.0) as url:
        yield url
