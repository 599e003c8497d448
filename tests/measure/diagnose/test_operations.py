"""What operations move and multiply, against counts made by hand."""

import numpy as np
import pytest

from burnish.measure.diagnose.operations import Step, Work, places, stored_bytes, work
from burnish.measure.diagnose.roofline import Ceilings, ProductRate, ReadRate
from burnish.measure.machine import this_machine
from burnish.plan.lower import lower
from burnish.plan.ops import Attend, Embed, Linear
from tests.tiny import tiny_decoder

PLAN = lower(tiny_decoder())


def step(*pairs: tuple[int, int], num_last: int | None = None) -> Step:
    lens, contexts = np.array(pairs, np.int32).T
    return Step(lens, contexts, len(pairs) if num_last is None else num_last)


def test_every_operation_has_its_place() -> None:
    found = places(PLAN)
    assert [place.name for place in found if place.role not in ("other",)] == [
        *(f"{layer}.{role}" for layer in (0, 1) for role in ("qkv", "attention", "out", "up", "down")),
        "head",
    ]
    first = next(at for at, operation in enumerate(PLAN.operations) if isinstance(operation, Embed))
    assert found[first].layer is None
    assert len(found) == len(PLAN.operations)


def test_products_count_rows_inputs_and_outputs() -> None:
    product = next(op for op in PLAN.operations if isinstance(op, Linear))
    done = work(product, PLAN, step((1, 9), (3, 3)), "f16")
    weight = product.weight
    assert done.products == 4 * weight.inputs * weight.outputs
    assert done.weight_bytes == stored_bytes(weight)
    assert done.row_bytes == 4 * 4 * (weight.inputs + weight.outputs)


def test_logits_are_computed_for_the_rows_that_are_wanted() -> None:
    head = next(op for op in PLAN.operations if isinstance(op, Linear) and op.out < 0)
    assert (
        work(head, PLAN, step((5, 5), (1, 7), num_last=1), "f16").products == head.weight.inputs * head.weight.outputs
    )


def test_attention_sees_what_lies_before_a_row() -> None:
    attend = next(op for op in PLAN.operations if isinstance(op, Attend))
    done = work(attend, PLAN, step((3, 10), (1, 4)), "int8")
    pairs = 8 + 9 + 10 + 4
    assert done.products == 2 * pairs * 4 * 16
    assert done.weight_bytes == 2 * (10 + 4) * 2 * (16 + 4)


def test_a_window_bounds_what_is_seen() -> None:
    plan = lower(tiny_decoder(windows=(4, None)))
    attend = next(op for op in plan.operations if isinstance(op, Attend))
    assert attend.window == 4
    done = work(attend, plan, step((3, 10)), "f32")
    assert done.products == 2 * (4 + 4 + 4) * 4 * 16
    assert done.weight_bytes == 2 * 6 * 2 * 64  # the last row sees four keys, the first begins two before


def ceilings() -> Ceilings:
    return Ceilings(
        version="",
        machine=this_machine(),
        threads=1,
        kernels="none",
        reads=(ReadRate(1 << 20, 100.0), ReadRate(1 << 30, 10.0)),
        products=(ProductRate("f32", 50.0), ProductRate("int8", 200.0)),
    )


def test_the_longer_of_reading_and_computing_is_the_limit() -> None:
    limits = ceilings()
    assert limits.limit_s(Work(1000.0, 0.0, 10.0), "f32", 1 << 30) == 100.0
    assert limits.limit_s(Work(1000.0, 0.0, 1e6), "int8", 1 << 30) == 5000.0
    assert limits.ridge("f32", 1 << 30) == 5.0


def test_rates_between_the_sizes_measured_lie_between_theirs() -> None:
    limits = ceilings()
    assert limits.read_rate(1) == 100.0
    assert limits.read_rate(1 << 25) == pytest.approx(55.0)  # half-way, as sizes double
    assert limits.read_rate(1 << 40) == 10.0
    assert limits.product_rate("bf16") == 50.0
    assert limits.product_rate("sparse8") == 200.0


def test_work_adds_up() -> None:
    assert Work(1.0, 2.0, 3.0) + Work(10.0, 20.0, 30.0) == Work(11.0, 22.0, 33.0)
    assert Work(6.0, 4.0, 20.0).intensity == 2.0
