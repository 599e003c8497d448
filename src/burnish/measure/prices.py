"""What an hour of a machine costs: a book in TOML, one section a machine, shipped as examples to be edited."""

import math
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from burnish.core.errors import BadSettings, nearest
from burnish.core.settings import make_config, read_settings

EXAMPLES = Path(__file__).parent / "prices.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """A kind of machine. Raises ``BadSettings`` for figures that are no price."""

    price_per_hour: float
    currency: str
    cores: int
    watts_per_core: float  # for estimates of energy
    as_of: date
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("price_per_hour", "watts_per_core"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise BadSettings(f"{name} = {value} is out of range", remedy="Use 0 or more")
        if self.cores < 1:
            raise BadSettings(f"cores = {self.cores} is out of range", remedy="Use 1 or more")
        if not self.currency.strip():
            raise BadSettings("currency is empty", remedy="Name one, as USD")


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceBook:
    """Prices by the name of the machine."""

    prices: dict[str, Price]

    def of(self, machine: str) -> Price:
        """The price of a machine. Raises ``BadSettings`` for an unknown one, naming the nearest known."""
        if machine not in self.prices:
            remedy = f"{nearest(machine, list(self.prices))}; or give a book of your own with --prices FILE"
            raise BadSettings(f"machine {machine!r} is not in the price book", remedy=remedy)
        return self.prices[machine]


def read_prices(file: Path | None = None) -> PriceBook:
    """A user's own book, or the examples. Raises ``BadSettings`` for a file that is no price book."""
    sections = read_settings(file or EXAMPLES, environment={})
    if not sections:
        raise BadSettings(f"price book {str(file)!r} names no machine", remedy='Write one, as ["my-machine"]')
    return PriceBook(prices={name: _price(name, values) for name, values in sections.items()})


def _price(name: str, values: dict[str, object]) -> Price:
    try:
        return make_config(Price, values, section=name)
    except BadSettings as error:
        if name in error.message:
            raise
        raise BadSettings(f"machine {name!r}: {error.message}", remedy=error.remedy) from None
