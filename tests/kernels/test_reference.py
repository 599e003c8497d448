"""Every operation of the plain reference against torch or float64, and bit for bit against its own rows alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from burnish.kernels import ops, reference

RowOp = Callable[[Tensor], Tensor]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(ours: Tensor, truth: Tensor, tolerance: float = 2e-6) -> bool:
    """Within ``tolerance`` of the largest true value."""
    return bool((ours.double() - truth).abs().max() <= tolerance * truth.abs().max().clamp(min=1.0))


WIDTH = 100
NORM, BIAS = randn(WIDTH, seed=1), randn(WIDTH, seed=2)
WEIGHT, WEIGHT_BIAS = randn(72, WIDTH, seed=3), randn(72, seed=4)
ROW_OPS: dict[str, tuple[RowOp, RowOp]] = {
    "linear": (
        lambda x: ops.linear(x, WEIGHT, WEIGHT_BIAS),
        lambda x: x.double() @ WEIGHT.double().T + WEIGHT_BIAS.double(),
    ),
    "linear without bias": (lambda x: ops.linear(x, WEIGHT), lambda x: x.double() @ WEIGHT.double().T),
    "rms_norm": (
        lambda x: ops.rms_norm(x, NORM, 1e-5),
        lambda x: functional.rms_norm(x.double(), (WIDTH,), NORM.double(), 1e-5),
    ),
    "layer_norm": (
        lambda x: ops.layer_norm(x, NORM, BIAS, 1e-5),
        lambda x: functional.layer_norm(x.double(), (WIDTH,), NORM.double(), BIAS.double(), 1e-5),
    ),
    "silu": (ops.silu, lambda x: functional.silu(x.double())),
    "gelu": (ops.gelu, lambda x: functional.gelu(x.double())),
    "gelu_tanh": (ops.gelu_tanh, lambda x: functional.gelu(x.double(), approximate="tanh")),
}


@pytest.mark.parametrize("name", ROW_OPS)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_row_operations_agree_with_float64(name: str, scale: float) -> None:
    op, truth = ROW_OPS[name]
    x = randn(37, WIDTH) * scale
    assert close(op(x), truth(x))


@pytest.mark.parametrize("op", [ops.silu, ops.gelu, ops.gelu_tanh])
def test_activations_stay_finite_with_finite_gradients(op: RowOp) -> None:
    x = torch.tensor([-1e4, -90.0, -20.0, 0.0, 20.0, 1e4], requires_grad=True)
    y = op(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.isfinite(y).all()
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("name", ROW_OPS)
def test_a_row_is_the_same_alone_and_in_any_company(name: str, threads: int) -> None:
    op = ROW_OPS[name][0]
    x = randn(50, WIDTH)
    together = op(x)
    for row in range(0, 50, 7):
        assert torch.equal(op(x[row : row + 1])[0], together[row])
    for chunk in (3, 16, 17):
        assert torch.equal(torch.cat([op(part) for part in torch.split(x, chunk)]), together)
    shuffled = torch.randperm(50, generator=torch.Generator().manual_seed(9))
    assert torch.equal(op(x[shuffled]), together[shuffled])
    mates = x.clone()
    mates[1:] = 1e4
    assert torch.equal(op(mates)[0], together[0])


@pytest.mark.parametrize("name", ROW_OPS)
def test_a_row_is_the_same_with_one_thread_and_two(name: str) -> None:
    op, x, before = ROW_OPS[name][0], randn(50, WIDTH), torch.get_num_threads()
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(op(x))
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_linear_rows_are_independent_at_real_widths(threads: int) -> None:
    weight, x = randn(688, 256, seed=1), randn(70, 256)
    together = ops.linear(x, weight)
    assert all(
        torch.equal(ops.linear(x[i : i + n], weight), together[i : i + n]) for i, n in [(0, 1), (5, 33), (69, 1)]
    )


def test_rotate_turns_pairs_of_halves_by_their_angle() -> None:
    x, angles = randn(5, 3, 8), randn(5, 4, seed=1)
    pairs = torch.complex(*x.double().chunk(2, -1)) * torch.exp(1j * angles.double()).unsqueeze(1)
    assert close(ops.rotate(x, angles.cos(), angles.sin()), torch.cat((pairs.real, pairs.imag), -1))
    alone = ops.rotate(x[2:3], angles[2:3].cos(), angles[2:3].sin())
    assert torch.equal(alone[0], ops.rotate(x, angles.cos(), angles.sin())[2])


def test_write_keys_stores_rows_at_their_slots_only() -> None:
    cache, rows = torch.zeros(4, 8, 2, 3), randn(3, 2, 3)
    ops.write_keys(cache, torch.tensor([9, 31, 0]), rows)
    assert torch.equal(torch.stack((cache[1, 1], cache[3, 7], cache[0, 0])), rows)
    assert int((cache != 0).any(-1).any(-1).sum()) == 3


# --- attention ----------------------------------------------------------------------------------------------------

BLOCK, HEADS, GROUPS, DIM = 16, 6, 2, 16


class Context:
    """A few sequences whose keys and values lie in scattered blocks."""

    def __init__(self, lengths: list[int], *, heads: int = HEADS, groups: int = GROUPS, seed: int = 0) -> None:
        self.lengths = lengths
        self.q, self.k, self.v = (
            [randn(n, width, DIM, seed=seed + 10 * i + at) for at, n in enumerate(lengths)]
            for i, width in enumerate((heads, groups, groups))
        )
        per_sequence = max(-(-n // BLOCK) for n in lengths)
        order = torch.randperm(len(lengths) * per_sequence + 3, generator=torch.Generator().manual_seed(seed))
        self.tables = order[: len(lengths) * per_sequence].view(len(lengths), per_sequence)
        shape = (order.numel(), BLOCK, groups, DIM)
        # blocks of nobody hold values that would be noticed
        self.keys, self.values = torch.full(shape, 1e3), torch.full(shape, 1e3)
        for s, n in enumerate(lengths):
            positions = torch.arange(n)
            slots = self.tables[s, positions // BLOCK] * BLOCK + positions % BLOCK
            ops.write_keys(self.keys, slots, self.k[s])
            ops.write_keys(self.values, slots, self.v[s])

    def attend(self, spans: dict[int, tuple[int, int]], **rule: Any) -> dict[int, Tensor]:
        """Queries ``spans[s] = (first, end)`` of some sequences in one call."""
        members = list(spans)
        layout = ops.KeyLayout(
            tuple(end - first for first, end in spans.values()),
            tuple(end for _, end in spans.values()),
            self.tables[members],
        )
        rows = torch.cat([self.q[s][first:end] for s, (first, end) in spans.items()])
        out = ops.paged_attention(rows, self.keys, self.values, layout, **{"scale": DIM**-0.5} | rule)
        return dict(zip(members, torch.split(out, list(layout.query_lens)), strict=True))

    def truth(self, s: int, *, window: int | None = None, softcap: float | None = None) -> Tensor:
        """Dense attention in float64."""
        q, k, v = (t[s].double().transpose(0, 1) for t in (self.q, self.k, self.v))
        k, v = (t.repeat_interleave(q.shape[0] // k.shape[0], 0) for t in (k, v))
        scores = q @ k.transpose(1, 2) * DIM**-0.5
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        distance = torch.arange(q.shape[1]).unsqueeze(1) - torch.arange(q.shape[1])
        hidden = (distance < 0) | (distance >= (window or q.shape[1]))
        mixed: Tensor = (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v).transpose(0, 1)
        return mixed


RULES: list[dict[str, Any]] = [
    {},
    {"window": 1},
    {"window": 30},
    {"window": 300},
    {"softcap": 2.0},
    {"window": 257, "softcap": 1.0},
]
LENGTHS = [1, 5, reference.KEY_PARTITION - 1, reference.KEY_PARTITION, reference.KEY_PARTITION + 1, 300]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_paged_attention_agrees_with_dense_float64(rule: dict[str, Any]) -> None:
    context = Context(LENGTHS)
    results = context.attend({s: (0, n) for s, n in enumerate(LENGTHS)}, **rule)
    assert all(close(results[s], context.truth(s, **rule), 1e-5) for s in range(len(LENGTHS)))


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (4, 1), (1, 1), (12, 3)])
def test_paged_attention_for_every_grouping_of_heads(heads: int, groups: int) -> None:
    context = Context([70], heads=heads, groups=groups)
    assert close(context.attend({0: (0, 70)})[0], context.truth(0), 1e-5)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_attention_whole_chunked_and_one_by_one_is_the_same_to_the_bit(rule: dict[str, Any], threads: int) -> None:
    context = Context([300])
    whole = context.attend({0: (0, 300)}, **rule)[0]
    for chunk in (100, 256):
        parts = [context.attend({0: (at, min(at + chunk, 300))}, **rule)[0] for at in range(0, 300, chunk)]
        assert torch.equal(torch.cat(parts), whole)
    for position in (0, 1, 29, 30, 255, 256, 257, 286, 299):
        assert torch.equal(context.attend({0: (position, position + 1)}, **rule)[0][0], whole[position])


def test_attention_of_a_sequence_does_not_depend_on_its_batch_mates() -> None:
    context = Context(LENGTHS)
    spans = {s: (max(0, n - 3), n) for s, n in enumerate(LENGTHS)}
    together = context.attend(spans)
    for s, span in spans.items():
        assert torch.equal(context.attend({s: span})[s], together[s])
    backwards = context.attend(dict(reversed(spans.items())))
    assert all(torch.equal(backwards[s], together[s]) for s in spans)


def test_attention_does_not_depend_on_which_blocks_hold_the_context() -> None:
    one, other = Context([300], seed=0), Context([300], seed=0)
    moved = torch.randperm(other.keys.shape[0], generator=torch.Generator().manual_seed(1))
    other.keys, other.values = other.keys[moved], other.values[moved]
    other.tables = moved.argsort()[other.tables]
    assert torch.equal(one.attend({0: (0, 300)})[0], other.attend({0: (0, 300)})[0])


def test_attention_is_the_same_with_one_thread_and_two() -> None:
    lengths = [520, 3]
    context, before, results = Context(lengths), torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(torch.cat(list(context.attend({s: (0, n) for s, n in enumerate(lengths)}).values())))
    torch.set_num_threads(before)
    assert torch.equal(*results)
