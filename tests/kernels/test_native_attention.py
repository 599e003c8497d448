"""Native attention against float64 softmax, and the promise that a row depends on nothing beside it."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from burnish.core.types import KeyKind
from burnish.kernels.native import native
from burnish.kernels.reference import stored_keys
from tests.kernels.test_native_linear import BODIES

module: Any = native()
if module is None:
    pytest.skip("installed without native kernels", allow_module_level=True)

Floats = NDArray[np.float32]


class Case(NamedTuple):
    """A sequence and how it is stored."""

    kind: KeyKind = "f32"
    heads: int = 4
    kv_heads: int = 2
    width: int = 16
    block_size: int = 16
    context: int = 300
    window: int = 0
    softcap: float = 0.0


CASES = [
    Case(),
    Case(kind="f16"),
    Case(kind="int8"),
    Case(heads=9, kv_heads=3, width=64, context=530),
    Case(heads=8, kv_heads=1, width=80, kind="f16"),
    Case(width=128, kind="int8", context=700),
    Case(width=6),
    Case(width=20, kind="int8"),
    Case(block_size=8),
    Case(block_size=5),
    Case(block_size=1, context=40),
    Case(block_size=300),
    Case(window=7),
    Case(window=100, kind="f16", context=600),
    Case(window=1),
    Case(softcap=5.0),
    Case(softcap=5.0, window=33, kind="int8"),
    Case(context=1),
]


class Filled(NamedTuple):
    """A cache that holds a sequence in shuffled blocks, and what was written."""

    cache: Any
    table: NDArray[np.int32]
    q: Floats  # (context, heads, width)
    k: Floats
    v: Floats


def fill(case: Case, body: str, seed: int = 0) -> Filled:
    source = np.random.default_rng(seed)
    num_blocks = -(-case.context // case.block_size)
    table = source.permutation(num_blocks + 3)[:num_blocks].astype(np.int32)
    q, k, v = (
        source.standard_normal((case.context, heads, case.width), dtype=np.float32)
        for heads in (case.heads, case.kv_heads, case.kv_heads)
    )
    cache = module.KeyCache(
        case.kind,
        num_blocks=num_blocks + 3,
        block_size=case.block_size,
        num_kv_heads=case.kv_heads,
        head_dim=case.width,
    )
    places = np.arange(case.context)
    slots = (table[places // case.block_size] * case.block_size + places % case.block_size).astype(np.int32)
    cache.write(slots, k, v, body=body)
    return Filled(cache, table, q, k, v)


def attend(filled: Filled, case: Case, body: str, *, first: int = 0, end: int | None = None, step: int = 16) -> Floats:
    """Rows ``first`` .. ``end`` of the sequence, as one chunk."""
    end = case.context if end is None else end
    out: Floats = filled.cache.attend(
        np.ascontiguousarray(filled.q[first:end]),
        filled.table,
        end,
        scale=case.width**-0.5,
        window=case.window,
        softcap=case.softcap,
        step=step,
        body=body,
    )
    return out


def exact(filled: Filled, case: Case) -> NDArray[np.float64]:
    """The textbook, in float64, on what the cache can hold."""
    k, v = (stored_keys(torch.from_numpy(t), case.kind).double().numpy() for t in (filled.k, filled.v))
    repeats = case.heads // case.kv_heads
    k, v = k.repeat(repeats, 1), v.repeat(repeats, 1)
    scores = np.einsum("qhd,khd->hqk", filled.q.astype(np.float64), k) * case.width**-0.5
    if case.softcap:
        scores = np.tanh(scores / case.softcap) * case.softcap
    queries, keys = np.arange(case.context)[:, None], np.arange(case.context)[None]
    hidden = (keys > queries) | ((keys <= queries - case.window) if case.window else False)
    scores = np.where(hidden, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed: NDArray[np.float64] = np.einsum("hqk,khd->qhd", weights, v).reshape(case.context, -1)
    return mixed


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_the_textbook(case: Case, body: str) -> None:
    filled = fill(case, body)
    assert np.abs(attend(filled, case, body) - exact(filled, case)).max() < 3e-6


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_depends_on_nothing_beside_it(case: Case) -> None:
    """All rows in one task, few per task, in chunks, one at a time; in other blocks: the same bits."""
    body = BODIES[0]
    filled = fill(case, body)
    whole = attend(filled, case, body, step=16)
    assert np.array_equal(attend(filled, case, body, step=1), whole)
    assert np.array_equal(attend(filled, case, body, step=5), whole)
    for size in (1, 7, 64):
        chunks = [
            attend(filled, case, body, first=i, end=min(i + size, case.context)) for i in range(0, case.context, size)
        ]
        assert np.array_equal(np.concatenate(chunks), whole), size


def test_what_lies_in_blocks_beyond_the_context_does_not_matter() -> None:
    """A freed block keeps what its last owner wrote, even what is no number."""
    case, body = Case(context=21), BODIES[0]
    filled = fill(case, body)
    before = attend(filled, case, body)
    rest = np.arange(21, 32, dtype=np.int32)
    slots = (filled.table[rest // 16] * 16 + rest % 16).astype(np.int32)
    dirt = np.full((len(rest), case.kv_heads, case.width), np.nan, np.float32)
    filled.cache.write(slots, dirt, dirt, body=body)
    assert np.array_equal(attend(filled, case, body), before)


@pytest.mark.parametrize("kind", ["f32", "f16", "int8"])
def test_a_query_of_no_numbers_stays_alone(kind: KeyKind) -> None:
    case = Case(kind=kind, context=40)
    filled = fill(case, BODIES[0])
    clean = attend(filled, case, BODIES[0])
    filled.q[17, 1, 3] = np.nan
    got = attend(filled, case, BODIES[0]).reshape(40, case.heads, case.width)
    assert np.isnan(got[17, 1]).all()
    got[17, 1] = clean.reshape(got.shape)[17, 1]
    assert np.array_equal(got.reshape(clean.shape), clean)


@pytest.mark.parametrize("kind", ["f32", "f16", "int8"])
def test_bodies_agree_to_the_bit(kind: KeyKind) -> None:
    case = Case(kind=kind, softcap=4.0, window=90)
    assert len({attend(fill(case, body), case, body).tobytes() for body in BODIES}) == 1


def test_rounding_to_half_precision_is_that_of_numpy() -> None:
    """Through the cache: one key whose value is read back by attention over itself alone."""
    values = np.concatenate([np.logspace(-9, 4.8, 500), [65504, 65519, 0, 6e-8, 2.98e-8, 2.99e-8]]).astype(np.float32)
    for body in BODIES:
        case = Case(kind="f16", heads=1, kv_heads=1, width=len(values) // 2 * 2, context=1)
        filled = fill(case, body)
        filled.cache.write(filled.table[:1] * 16, filled.k, values[None, None, : case.width].copy(), body=body)
        got = attend(filled, case, body)[0]
        assert np.array_equal(got, values[: case.width].astype(np.float16).astype(np.float32))
