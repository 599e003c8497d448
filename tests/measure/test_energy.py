"""Energy: counters in a folder made to look like powercap, cards that are not there, and estimates that say so."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from burnish.measure.energy import EnergyMeter, Reading, estimate, read_counters, turned
from tests.tiny import FakeClock

TURN_UJ = 262_143_328_850  # what real packages have


def zone(powercap: Path, folder: str, name: str, microjoules: int) -> None:
    path = powercap / folder
    path.mkdir(parents=True, exist_ok=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", TURN_UJ)):
        (path / file).write_text(f"{value}\n")


def meter(powercap: Path, clock: FakeClock) -> EnergyMeter:
    return EnergyMeter(lambda: read_counters(powercap), clock)


@pytest.fixture(autouse=True)
def _no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def test_packages_and_memory_count_and_nothing_counts_twice(tmp_path: Path) -> None:
    clock = FakeClock()
    for at, (folder, name) in enumerate(
        [
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:2", "psys"),
            ("dtpm", "package-9"),
        ]
    ):
        zone(tmp_path, folder, name, 1_000_000 * at)
    watch = meter(tmp_path, clock)
    for folder, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:1", "dram"), ("intel-rapl:1", "package-1")):
        zone(tmp_path, folder, name, 10_000_000)
    clock.advance(2.0)
    energy = watch.stop(cpu_s=1.0)
    assert [part.source for part in energy.parts] == ["rapl"]
    assert energy.joules == pytest.approx(10 + 8 + 7)
    assert not energy.is_estimated


def test_a_counter_that_turned_goes_on(tmp_path: Path) -> None:
    clock = FakeClock()
    zone(tmp_path, "intel-rapl:0", "package-0", TURN_UJ - 3_000_000)
    watch = meter(tmp_path, clock)
    zone(tmp_path, "intel-rapl:0", "package-0", 4_000_000)
    clock.advance(1.0)
    assert watch.stop(cpu_s=0.0).joules == pytest.approx(7.0)
    assert turned(Reading("rapl", "a", 9.0, 10.0), Reading("rapl", "a", 1.0, 10.0)) == pytest.approx(2.0)


def test_samples_add_up_over_several_turns(tmp_path: Path) -> None:
    clock = FakeClock()
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    watch = meter(tmp_path, clock)
    for at in range(1, 7):
        zone(tmp_path, "intel-rapl:0", "package-0", at * TURN_UJ * 2 // 3 % TURN_UJ)
        clock.advance(200.0)
        watch.sample()
    assert watch.stop(cpu_s=0.0).joules == pytest.approx(4 * TURN_UJ / 1e6)


def test_a_turn_that_may_have_been_missed_is_estimated(tmp_path: Path) -> None:
    clock = FakeClock()
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    watch = meter(tmp_path, clock)
    clock.advance(300.0)  # at 1000 W more than one turn
    energy = watch.stop(cpu_s=100.0, watts_per_core=5.0)
    assert energy.parts == (estimate(100.0, 5.0),)


@pytest.mark.parametrize("damage", ["absent", "unreadable", "no number"])
def test_what_cannot_be_read_is_estimated_and_says_so(tmp_path: Path, damage: str) -> None:
    if damage != "absent":
        zone(tmp_path, "intel-rapl:0", "package-0", 0)
        (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    if damage == "no number":
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("?")
    energy = meter(tmp_path, FakeClock()).stop(cpu_s=2.0, watts_per_core=3.0)
    assert energy.is_estimated
    assert energy.joules == 6.0
    [part] = energy.parts
    assert (part.source, part.formula) == ("estimated", "3 W per core * 2 s of busy cores")


class NVMLError(Exception):
    pass


def test_cards_are_counted_and_the_processor_beside_them_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {0: 5_000, 1: 7_000}
    card = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=counts.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", card)
    watch = meter(tmp_path, FakeClock())
    counts.update({0: 6_500, 1: 8_000})
    energy = watch.stop(cpu_s=1.0, watts_per_core=4.0)
    assert [part.source for part in energy.parts] == ["nvml", "estimated"]
    assert [part.joules for part in energy.parts] == pytest.approx([2.5, 4.0])
    assert energy.is_estimated


def test_a_driver_that_is_not_there_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise NVMLError

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError, nvmlInit=fail))
    assert read_counters(tmp_path) == ()
