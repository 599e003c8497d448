"""GPTQ: better than rounding where inputs are correlated, the same where they are not, whole whatever the moment."""

import pytest
import torch
from torch import Tensor

from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.gptq import DAMPS, Gptq, Order, compensate, gptq, inverse_factor
from burnish.compress.passes.grid import quantize
from burnish.compress.passes.imatrix import SHRINKS, ImportanceRounding
from burnish.compress.statistics import Flow
from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.formats.table import FORMATS
from burnish.models.layers.linear import Linear
from tests.compress.parts import correlated, part_of

DAMP = DAMPS[0]
ORDERS: tuple[Order, ...] = ("natural", "static", "grouped")
NAMES = ("int8", "int4-g32", "int4-g64", "int4-g128", "int4-g32-asym", "int4-channel", "int8-channel-asym")


def integer(name: str) -> IntegerFormat:
    found = FORMATS[name]
    assert isinstance(found, IntegerFormat)
    return found


def lost(weight: Tensor, rows: Tensor, chosen: Quantized) -> float:
    """The outputs' squared error."""
    return float((rows @ (chosen.dequantize() - weight).T).square().sum())


def problem(seed: int, rows: int = 1024) -> tuple[Tensor, Tensor, Tensor]:
    """A weight (48, 256), inputs and their second moment."""
    inputs = correlated(rows, 256, seed)
    weight = torch.empty(48, 256).normal_(generator=torch.Generator().manual_seed(seed + 1000))
    return weight, inputs, inputs.T @ inputs / rows


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_it_loses_less_than_rounding_with_and_without_importance(name: str, order: Order, seed: int) -> None:
    weight, rows, moment = problem(seed)
    target = integer(name)
    compensated = lost(weight, rows, gptq(weight, moment, target, order=order))
    important = lost(weight, rows, quantize(weight, target, importance=moment.diagonal(), shrinks=SHRINKS, refit=True))
    nearest = lost(weight, rows, quantize(weight, target))
    assert compensated < 0.9 * important
    assert important < nearest


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("order", ORDERS)
def test_of_uncorrelated_inputs_it_is_rounding_by_importance(name: str, order: Order) -> None:
    weight, rows, _ = problem(5)
    target, diagonal = integer(name), rows.square().mean(0)
    damped = diagonal + DAMP * diagonal.mean()
    compensated = gptq(weight, diagonal.diag(), target, order=order)
    rounded = quantize(weight, target, importance=damped, shrinks=SHRINKS, refit=True)
    alike = torch.isclose(compensated.scales, rounded.scales, rtol=1e-5)
    assert alike.float().mean() > 0.99  # a tie may fall either way
    assert (compensated.codes == rounded.codes).float().mean() > 0.99


def test_the_last_column_makes_up_for_the_first_as_well_as_any_code_could() -> None:
    """Two columns, by brute force: the first is rounded to nearest, the second to the best there is then."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(50):
        rows = torch.empty(32, 2).normal_(generator=generator) @ torch.empty(2, 2).normal_(generator=generator)
        moment = rows.T @ rows / 32
        weight = torch.empty(1, 2).uniform_(-6, 6, generator=generator)
        factor = inverse_factor(moment)
        assert factor is not None
        damped = moment + DAMP * moment.diagonal().mean() * torch.eye(2)
        rounder = Whole()
        compensate(weight.clone(), factor, rounder)
        first, second = (int(column) for column in rounder.chosen)

        def error(code: int, *, damped: Tensor = damped, first: int = first, weight: Tensor = weight) -> float:
            change = torch.tensor([[float(first), float(code)]]) - weight
            return float((change @ damped @ change.T).item())

        assert first == round(float(weight[0, 0]))
        assert error(second) <= min(error(code) for code in range(-40, 41)) * (1 + 1e-4)


class Whole:
    """Rounds to whole numbers."""

    def __init__(self) -> None:
        self.chosen: list[Tensor] = []

    def begin(self, weight: Tensor, first: int, last: int) -> None: ...

    def column(self, weight: Tensor, index: int) -> Tensor:
        self.chosen.append(weight[:, index].round())
        return self.chosen[-1]


@pytest.mark.parametrize("order", ORDERS)
def test_columns_that_are_never_used_are_rounded_to_nearest(order: Order) -> None:
    weight, rows, _ = problem(2)
    rows[:, 3::8] = 0
    target = integer("int4-g64")
    chosen = gptq(weight, rows.T @ rows / len(rows), target, order=order)
    steps = chosen.scales.abs().repeat_interleave(64, 1)
    within = weight.abs() <= 7 * steps  # not clipped
    error = (chosen.dequantize() - weight).abs()
    assert (error <= steps / 2 * 1.0001)[:, 3::8][within[:, 3::8]].all()


@pytest.mark.parametrize("rank", [1, 5])
def test_a_moment_of_low_rank_is_damped(rank: int) -> None:
    weight, rows, _ = problem(4, rows=rank)
    target = integer("int4-g128")
    chosen = gptq(weight, rows.T @ rows / rank, target)
    assert chosen.scales.isfinite().all()
    assert lost(weight, rows, chosen) < lost(weight, rows, quantize(weight, target))


def test_of_inputs_that_are_all_zero_nothing_is_lost_but_rounding() -> None:
    weight, _, _ = problem(6)
    target = integer("int4-g128")
    chosen = gptq(weight, torch.zeros(256, 256), target)
    assert (chosen.dequantize() - weight).norm() / weight.norm() < 0.2


def test_the_factor_is_that_of_the_inverse() -> None:
    _, _, moment = problem(3)
    factor = inverse_factor(moment)
    assert factor is not None
    damped = (moment + DAMP * moment.diagonal().mean() * torch.eye(256)).double()
    assert torch.allclose(factor.T.double() @ factor.double() @ damped, torch.eye(256).double(), atol=1e-3)
    assert torch.equal(factor, factor.triu())


def test_a_moment_that_no_damping_saves_has_no_factor() -> None:
    assert inverse_factor(torch.zeros(4, 4)) is None
    assert inverse_factor(torch.tensor([[1.0, 9.0], [9.0, 1.0]])) is None


@pytest.mark.parametrize(
    ("beside", "damp"), [(1.005, 0.01), (1.02, 10**-1.5), (1.05, 0.1), (1.2, 10**-0.5), (1.9, 1.0)]
)
def test_damping_is_raised_until_there_is_a_factor(beside: float, damp: float) -> None:
    """The moment's least eigenvalue is 1 - ``beside``: only as much damping as overcomes it will do."""
    moment = torch.tensor([[1.0, beside], [beside, 1.0]])
    factor = inverse_factor(moment)
    assert factor is not None
    torch.testing.assert_close(factor.T @ factor @ (moment + damp * torch.eye(2)), torch.eye(2), atol=1e-3, rtol=0)


def indefinite(moment: Tensor, stretch: float) -> Tensor:
    """A moment (I, I) whose columns are told to be more alike than any can be: no data has such a one."""
    alone = moment.diagonal().diag()
    made = alone + (moment - alone) * stretch
    assert torch.linalg.eigvalsh(made)[0] < -DAMP * made.diagonal().mean(), "the first try fails"
    return made


@pytest.mark.parametrize("order", ORDERS)
def test_a_moment_that_more_damping_saves_still_compensates(order: Order) -> None:
    weight, rows, moment = problem(4)
    target, stretched = integer("int4-g128"), indefinite(moment, 1.2)
    chosen = gptq(weight, stretched, target, order=order)
    important = quantize(weight, target, importance=moment.diagonal(), shrinks=SHRINKS, refit=True)
    assert chosen.scales.isfinite().all()
    assert lost(weight, rows, chosen) < 0.8 * lost(weight, rows, important)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["int4-g128", "int4-g32-asym"])
def test_a_moment_that_no_damping_saves_leaves_rounding_by_importance(name: str, order: Order) -> None:
    weight, _, moment = problem(4)
    stretched = indefinite(moment, 2.0)
    assert inverse_factor(stretched) is None
    chosen = gptq(weight, stretched, integer(name), order=order)
    rounded = quantize(weight, integer(name), importance=moment.diagonal(), shrinks=SHRINKS, refit=True)
    assert torch.equal(chosen.codes, rounded.codes)
    assert torch.equal(chosen.scales, rounded.scales)


def test_both_passes_store_what_they_choose_and_say_what_the_outputs_lost() -> None:
    choice = FormatChoice((integer("int4-g64"),))
    errors = []
    for made in (ImportanceRounding(choice), Gptq(choice)):
        torch.manual_seed(0)
        layer = Linear(256, 48, bias=True)
        weight, flow = layer.dense_weight().detach().clone(), Flow(hidden=correlated(512, 256).view(8, 64, 256))
        (record,) = made.apply(part_of(layer), flow)
        assert layer.format.name == record.format == "int4-g64"
        rows = flow.hidden.flatten(0, 1)[::2]
        expected = (rows @ (layer.dense_weight().detach() - weight).T).norm() / (rows @ weight.T).norm()
        assert record.output_error == pytest.approx(float(expected), rel=1e-3)
        errors.append(record.output_error or 0.0)
    assert errors[1] < 0.9 * errors[0]


def test_the_same_weight_and_moment_give_the_same_codes() -> None:
    weight, _, moment = problem(1)
    first, second = (gptq(weight.clone(), moment.clone(), integer("int4-g32")) for _ in range(2))
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.scales, second.scales)
