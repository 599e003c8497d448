"""Cost: the arithmetic by hand, and price books that are none."""

from pathlib import Path

import pytest

from burnish.core.errors import BadSettings
from burnish.measure.cost import Work, cost_of, energy_cost_of
from burnish.measure.energy import Energy, EnergyPart, estimate
from burnish.measure.prices import read_prices

BOOK = """
["mine"]
price_per_hour = 3.6
currency = "EUR"
cores = 8
watts_per_core = 5
as_of = 2026-01-31
"""
WORK = Work(seconds=100.0, prefill_s=10.0, decode_s=40.0, input_tokens=1000, output_tokens=500)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    (tmp_path / "prices.toml").write_text(BOOK)
    return tmp_path / "prices.toml"


def test_each_kind_of_token_bears_its_share_of_the_busy_time(book: Path) -> None:
    cost = cost_of(WORK, "mine", read_prices(book).of("mine"))
    # 0.001 EUR/s for 100 s is 0.1 EUR: a fifth for 1000 tokens read, the rest for 500 written
    assert cost.per_million == pytest.approx((0.02 / 1000 * 1e6, 0.08 / 500 * 1e6))
    assert cost.busy_share == 0.5
    assert cost.per_million_at_full_load == pytest.approx((10.0, 80.0))
    assert (cost.currency, cost.machine) == ("EUR", "mine")


def test_what_is_paid_is_what_the_tokens_cost(book: Path) -> None:
    cost = cost_of(WORK, "mine", read_prices(book).of("mine"))
    assert cost.per_million.input is not None
    assert cost.per_million.output is not None
    paid = cost.per_million.input * WORK.input_tokens + cost.per_million.output * WORK.output_tokens
    assert paid / 1e6 == pytest.approx(3.6 / 3600 * WORK.seconds)


def test_tokens_there_were_none_of_have_no_price(book: Path) -> None:
    work = Work(seconds=1.0, prefill_s=1.0, decode_s=0.0, input_tokens=10, output_tokens=0)
    assert cost_of(work, "mine", read_prices(book).of("mine")).per_million.output is None


def test_joules_are_shared_alike_and_keep_their_label() -> None:
    counted = energy_cost_of(WORK, Energy((EnergyPart("rapl", 50.0, "difference"),)))
    assert counted.joules_per_token == pytest.approx((10 / 1000, 40 / 500))
    assert not counted.is_estimated
    estimated = energy_cost_of(WORK, Energy((estimate(10.0, 5.0),)))
    assert estimated.joules_per_token == counted.joules_per_token
    assert estimated.is_estimated


def test_the_shipped_book_holds_dated_examples() -> None:
    prices = read_prices().prices
    assert len(prices) >= 5
    assert all(price.price_per_hour > 0 and price.as_of.year >= 2025 for price in prices.values())


def test_an_unknown_machine_is_told_the_nearest() -> None:
    with pytest.raises(BadSettings, match=r"'aws-c7i.large' is not in the price book. Did you mean 'aws-c7i.xlarge'"):
        read_prices().of("aws-c7i.large")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no machine"),
        ("price = 3\n", "stands outside a section"),
        ("[mine", "is not TOML"),
        (BOOK.replace("cores", "coers"), "unknown key 'coers' in settings section [mine]. Did you mean 'cores'?"),
        (BOOK.replace("cores = 8\n", ""), "lacks 'cores'"),
        (BOOK.replace("3.6", "-3.6"), "machine 'mine': price_per_hour = -3.6 is out of range"),
        (BOOK.replace("3.6", "nan"), "price_per_hour = nan is out of range"),
        (BOOK.replace("3.6", "inf"), "price_per_hour = inf is out of range"),
        (BOOK.replace("3.6", "'dear'"), "setting mine.price_per_hour = 'dear' is wrong"),
        (BOOK.replace("cores = 8", "cores = 0"), "cores = 0 is out of range"),
        (BOOK.replace("EUR", " "), "currency is empty"),
        (BOOK.replace("2026-01-31", "'soon'"), "mine.as_of = 'soon' is wrong"),
    ],
)
def test_a_file_that_is_no_price_book_says_why(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(BadSettings) as refused:
        read_prices(file)
    assert message in str(refused.value)


def test_a_book_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="does not exist"):
        read_prices(tmp_path / "none.toml")
