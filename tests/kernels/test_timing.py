"""What products and reads cost: figures that follow the work, whatever else the machine does."""

from statistics import median
from typing import Any

import numpy as np
import pytest

from burnish.kernels.native import best_body, native
from burnish.kernels.tiles import PANEL, Tiles, pack_codes, pack_floats
from burnish.kernels.timing import TimedProduct

module: Any = native()
if module is None:
    pytest.skip("installed without native kernels", allow_module_level=True)


def int8(inputs: int) -> Tiles:
    codes = np.ones((PANEL, inputs), np.int8)
    return pack_codes(codes, np.ones((PANEL, 1), np.float32), None, "int8")


def seconds(panel: Tiles, outputs: int, rows: int) -> float:
    body = best_body(module)
    timed = TimedProduct(outputs, panel, outputs * panel.inputs, module, threads=1, body=body, max_rows=rows)
    return median(timed.run(rows) for _ in range(15))


def test_more_outputs_and_more_rows_take_longer() -> None:
    panel = int8(512)
    one = seconds(panel, 256, 1)
    assert one > 0
    assert seconds(panel, 8 * 256, 1) > 3 * one
    assert seconds(panel, 256, 48) > 3 * one


def test_floats_are_timed_as_well() -> None:
    floats = pack_floats(np.ones((PANEL, 256), np.float32), "bf16")
    assert 0 < seconds(floats, 128, 1) < 1


def test_bytes_are_read_at_a_rate_that_can_be() -> None:
    rate = module.read_rate(num_bytes=1 << 24, threads=1, passes=3)
    assert 1e8 < rate < 1e12


@pytest.mark.parametrize("words", [{"num_bytes": 1}, {"threads": 0}, {"passes": 0}])
def test_a_read_that_measures_nothing_is_refused(words: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        module.read_rate(**({"num_bytes": 1 << 20, "threads": 1, "passes": 1} | words))
