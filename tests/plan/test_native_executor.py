"""The native executor against the interpreter of the same plan: every family, every kind of keys."""

from pathlib import Path

import numpy as np
import pytest
import torch

from burnish.core.types import KeyKind
from burnish.kernels.native import native
from burnish.models.checkpoint import load_decoder
from burnish.plan.executor import Executor
from burnish.plan.lower import lower
from burnish.plan.native import NativeExecutor
from burnish.plan.ops import Arena, Plan
from tests.models import oracle
from tests.plan.paged import Paged, deviation, equal
from tests.plan.rounded import linear_names, round_layers
from tests.tiny import tiny_decoder

module = native()
if module is None:
    pytest.skip("installed without native kernels", allow_module_level=True)

BODIES: list[str] = module.bodies()
KINDS: list[KeyKind] = ["f32", "f16", "int8"]
SEQUENCES = oracle.SEQUENCES
TOLERANCE = 1e-5  # float32 in another order of additions
ROUNDING = 0.05  # what rounding activations to int8 does at most: test_interpreter.py derives it


def run_natively(plan: Plan, arena: Arena) -> Executor:
    assert module is not None
    return NativeExecutor(plan, arena, module)


@pytest.mark.parametrize("weights", ["dense", "int8"])
@pytest.mark.parametrize("name", oracle.VARIANTS)
def test_every_family_with_float_activations(name: str, weights: str, root: Path) -> None:
    decoder = load_decoder(oracle.saved(name, root)).decoder
    if weights != "dense":
        round_layers(decoder, weights)
    plan = lower(decoder, float_activations=linear_names(decoder))
    ours = Paged(plan, SEQUENCES, make=run_natively).chunked(13)
    theirs = Paged(plan, SEQUENCES).chunked(13)
    assert deviation(np.concatenate(ours), torch.from_numpy(np.concatenate(theirs))) < TOLERANCE


@pytest.mark.parametrize("inner_size", [128, 100])
@pytest.mark.parametrize("weights", ["int2-channel", "int4-channel", "int4-channel-asym", "int8-channel-asym"])
@pytest.mark.parametrize("floats", [True, False])
def test_channels_and_zero_points(weights: str, inner_size: int, floats: bool) -> None:
    decoder = round_layers(tiny_decoder(inner_size=inner_size), weights)
    plan = lower(decoder, float_activations=linear_names(decoder) if floats else ())
    ours = Paged(plan, SEQUENCES, make=run_natively).chunked(13)
    theirs = Paged(plan, SEQUENCES).chunked(13)
    rows = [
        deviation(one, torch.from_numpy(other))
        for a, b in zip(ours, theirs, strict=True)
        for one, other in zip(a, b, strict=True)
    ]
    is_exact = floats or weights == "int8-channel-asym"  # which takes floats anyway
    assert max(rows) < (TOLERANCE if is_exact else ROUNDING)
    assert min(rows) < TOLERANCE


@pytest.mark.parametrize("name", oracle.VARIANTS)
def test_every_family_with_int8_activations(name: str, root: Path) -> None:
    """Rows agree to float32's last bits until these push an input over the edge between two codes. That changes the
    row, and through attention the rows after it, by no more than rounding itself changes them.
    """
    plan = lower(round_layers(load_decoder(oracle.saved(name, root)).decoder, "int8"))
    ours = Paged(plan, SEQUENCES, make=run_natively).chunked(13)
    theirs = Paged(plan, SEQUENCES).chunked(13)
    assert deviation(np.concatenate(ours), torch.from_numpy(np.concatenate(theirs))) < ROUNDING
    rows = [
        deviation(one, torch.from_numpy(other))
        for a, b in zip(ours, theirs, strict=True)
        for one, other in zip(a, b, strict=True)
    ]
    assert min(rows) < TOLERANCE


@pytest.mark.parametrize("keys", KINDS)
def test_keys_of_every_kind(keys: KeyKind) -> None:
    """A key on the edge between two values of its kind may fall to either side: a step of 1/127 at most, or 2**-11."""
    plan = lower(tiny_decoder(windows=(None, 20)))
    ours = np.concatenate(Paged(plan, SEQUENCES, keys=keys, make=run_natively).chunked(13))
    theirs = np.concatenate(Paged(plan, SEQUENCES, keys=keys).chunked(13))
    assert deviation(ours, torch.from_numpy(theirs)) < {"f32": TOLERANCE, "f16": 2**-11, "int8": 1 / 127}[keys]


@pytest.mark.parametrize("keys", KINDS)
@pytest.mark.parametrize("weights", ["dense", "int8", "int4-g32"])
def test_a_row_is_the_same_to_the_bit_in_any_batch_chunking_body_and_number_of_threads(
    weights: str, keys: KeyKind
) -> None:
    decoder = tiny_decoder(windows=(None, 20))
    plan = lower(decoder if weights == "dense" else round_layers(decoder, weights))
    together = Paged(plan, SEQUENCES, keys=keys, make=run_natively).chunked(100)
    alone = [Paged(plan, [tokens], keys=keys, make=run_natively).chunked(100)[0] for tokens in SEQUENCES]
    assert equal(alone, together)
    for chunk, body in zip((1, 7, 16), (*BODIES, BODIES[0]), strict=False):

        def run(plan: Plan, arena: Arena, body: str = body) -> Executor:
            assert module is not None
            return NativeExecutor(plan, arena._replace(threads=2), module, body=body)

        assert equal(Paged(plan, SEQUENCES, keys=keys, seed=chunk, make=run).chunked(chunk), together)
