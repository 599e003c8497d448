"""Any module of linear and convolutional layers goes through the same walk and the same passes."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from burnish.compress.calibration import Calibration
from burnish.compress.chain import Chain
from burnish.compress.journal import Journal
from burnish.compress.module import compress_module
from burnish.compress.module_chain import module_chain, wrap
from burnish.compress.passes.static import LOWEST, STEPS, settle
from burnish.compress.recipes import find_recipe
from burnish.compress.run import apply_to_chain
from burnish.core.errors import BadRequest, BadSettings
from burnish.core.records import CalibrationRecord
from burnish.models.layers.conv import Conv2d, Rows
from tests.compress.parts import seen
from tests.images import seeded

RECORD = CalibrationRecord(sha256="0" * 64, samples=48, length=1, seed=0)


class Branches(nn.Module):
    """Two ways through an image that meet again; parts are registered in another order than they run in."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(24, 5)
        self.unused = nn.Linear(3, 3)
        self.left = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.right = nn.Conv2d(16, 8, 1, stride=1)
        self.stem = nn.Conv2d(3, 16, (3, 5), stride=2, padding=(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        left = functional.relu(self.depthwise(self.left(x)))
        both = torch.cat([left, self.right(x)], 1)
        out: Tensor = self.head(both.mean((2, 3)))
        return out


def images(count: int = 48) -> Tensor:
    """Neighbouring pixels are alike, as in photographs."""
    noise = torch.randn(count, 3, 20, 20, generator=torch.Generator().manual_seed(5))
    return functional.avg_pool2d(noise, 5, 1, 2) * 4


def data() -> Calibration:
    return Calibration(tokens=images(), text=torch.empty(0, dtype=torch.int64), record=RECORD)


@pytest.fixture
def parent() -> nn.Module:
    return wrap(seeded(Branches())).eval()


def chain(module: nn.Module) -> Chain:
    return module_chain(module, images(1))


def test_wrapping_changes_nothing_but_the_layers() -> None:
    plain = seeded(Branches()).eval()
    wrapped = wrap(copy.deepcopy(plain))
    torch.testing.assert_close(wrapped(images()), plain(images()))
    assert isinstance(wrapped.get_submodule("stem"), Conv2d)
    assert isinstance(wrapped.get_submodule("head"), Rows)
    assert isinstance(wrapped.get_submodule("depthwise"), nn.Conv2d), "groups stay what they are"


def test_parts_follow_one_another_as_they_run(parent: nn.Module) -> None:
    assert list(chain(parent).layers) == ["stem.matrix", "left.matrix", "right.matrix", "head.matrix"]


def change(recipe: str, parent: nn.Module) -> float:
    module, asked = copy.deepcopy(parent), find_recipe(recipe)
    records = apply_to_chain(chain(module), asked, data() if asked.needs.data else None)
    assert {record.name for record in records} == set(chain(parent).layers)
    fresh = images(96)[48:]
    with torch.no_grad():
        return float((module(fresh) - parent(fresh)).norm() / parent(fresh).norm())


def test_every_pass_works_on_it_and_better_ones_lose_less(parent: nn.Module) -> None:
    lost = {name: change(name, parent) for name in ("int8", "int8-gptq", "int8-w8a8-static", "magnitude-50")}
    lost |= {name: change(name, parent) for name in ("sparsegpt-50", "wanda-50")}
    assert lost["int8"] < 0.02
    assert lost["int8-w8a8-static"] < 0.05
    assert lost["int8"] < lost["int8-w8a8-static"]
    assert lost["sparsegpt-50"] < lost["wanda-50"]


def test_a_layer_is_fed_by_those_before_it_as_they_are_now(parent: nn.Module) -> None:
    parts = chain(parent)
    first = parts.begin(images())
    assert torch.equal(first, images())
    assert parts.door is not None
    before = parts.door(1)
    parts.layers["stem.matrix"].weight.data.zero_()
    assert not torch.equal(parts.door(1), before)


def test_a_killed_run_ends_as_one_that_was_not(parent: nn.Module, tmp_path: Path) -> None:
    whole, killed, resumed = (copy.deepcopy(parent) for _ in range(3))
    asked = find_recipe("int8-w8a8-static")
    apply_to_chain(chain(whole), asked, data())

    class Killed(Exception):
        pass

    def kill(done: int, _: int) -> None:
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        apply_to_chain(chain(killed), asked, data(), journal=Journal(tmp_path / "x", {}), progress=kill)
    apply_to_chain(chain(resumed), asked, data(), journal=Journal(tmp_path / "x", {}))
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
    assert resumed.state_dict().keys() == expected.keys()
    assert "stem.matrix.input_scale" in expected


def test_what_works_on_whole_decoders_is_refused(parent: nn.Module) -> None:
    with pytest.raises(BadSettings, match="shrink knows other models only"):
        apply_to_chain(chain(parent), find_recipe("shrink-25"), data())


def test_steps_hold_zero_and_all_that_was_seen() -> None:
    rows = torch.rand(512, 8, generator=torch.Generator().manual_seed(0)) * 4
    rows[7, 3] = 9.0
    scale, zero = settle(seen(rows))
    assert float(scale) == pytest.approx(9 / STEPS)
    assert int(zero) == LOWEST, "nothing is below zero"
    scale, zero = settle(seen(rows - 3))
    assert (LOWEST - int(zero)) * float(scale) == pytest.approx(-3, abs=float(scale))
    assert (LOWEST + STEPS - int(zero)) * float(scale) == pytest.approx(6, abs=float(scale))
    scale, zero = settle(seen(torch.zeros(4, 2)))
    assert float(scale) > 0
    assert int(zero) == LOWEST


@pytest.mark.parametrize("recipe", ["int4", "int4-gptq", "int4-autoround"])
def test_every_method_can_be_interrupted(parent: nn.Module, tmp_path: Path, recipe: str) -> None:
    asked = find_recipe(recipe)
    given = data() if asked.needs.data else None
    alone, kept = copy.deepcopy(parent), copy.deepcopy(parent)
    apply_to_chain(chain(alone), asked, given)
    apply_to_chain(chain(kept), asked, given, journal=Journal(tmp_path / "x", {}))
    again = copy.deepcopy(parent)
    apply_to_chain(chain(again), asked, given, journal=Journal(tmp_path / "x", {}))
    for name, value in alone.state_dict().items():
        assert torch.equal(value, kept.state_dict()[name])
        assert torch.equal(value, again.state_dict()[name])


def test_a_module_is_compressed_by_one_call() -> None:
    plain = seeded(Branches()).eval()
    made = compress_module(copy.deepcopy(plain), "int8-w8a8-static", images())
    assert [record.format for record in made.records] == ["int8"] * 4
    with torch.no_grad():
        apart = (made.module(images()) - plain(images())).norm() / plain(images()).norm()
    assert 1e-4 < apart < 0.05
    assert compress_module(nn.Linear(4, 3), "int8", torch.randn(2, 4)).records[0].name == "matrix"
    for module, recipe, data, fault in (
        (plain, "int8", images()[:0], "no sample"),
        (nn.ReLU(), "int8", images(), "no linear"),
        (plain, "int9", images(), "unknown recipe"),
        (plain, "shrink-25", images(), "shrink knows other models only"),
    ):
        with pytest.raises(BadSettings, match=fault):
            compress_module(copy.deepcopy(module), recipe, data)
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    both = nn.Sequential(attention, nn.Linear(8, 3))
    made = compress_module(both, "int8", torch.randn(2, 5, 8))
    assert [record.name for record in made.records] == ["1.matrix"], "torch's attention stays what it is"
    with pytest.raises(BadSettings, match="data is bfloat16"):
        compress_module(nn.Linear(8, 3), "int8", torch.randn(2, 8).bfloat16())
    broken = copy.deepcopy(plain)
    broken.left.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(BadRequest, match=r"left\.matrix holds infinities"):
        compress_module(broken, "int8-gptq", images())


def test_what_a_module_will_take_is_planned_and_refused_beforehand() -> None:
    plain = seeded(Branches()).eval()
    few, many = (compress_module(copy.deepcopy(plain), "int8-gptq", images(count)) for count in (16, 160))
    between = 4 * 2 * (160 - 16) * 3 * 20 * 20  # bytes of the images alone, and of what they become
    assert many.planned_bytes - few.planned_bytes > between
    kept = copy.deepcopy(plain)
    with pytest.raises(BadSettings) as refused:
        compress_module(kept, "int8-gptq", images(160), memory_bytes=2**20)
    line = str(refused.value)
    assert re.search(r"this takes [\d,]+ MiB of memory \(data \d+, statistics \d+, working \d+, libraries 64,", line)
    assert line.endswith("more than the 1 allowed. Allow more memory_bytes, or give fewer samples")
    torch.testing.assert_close(kept(images(2)), plain(images(2)))
    allowed = many.planned_bytes + 2**30  # the program itself may have grown since
    assert compress_module(kept, "int8-gptq", images(160), memory_bytes=allowed).records == many.records


TAKEN = """
import torch
from torch import nn
from burnish.compress.memory import LIBRARIES
from burnish.compress.module import compress_module
from burnish.core.memory import own_bytes
from burnish.measure.memory import peak_rss_bytes

def network(width):
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))

compress_module(network(8), "int8-gptq", torch.randn(32, 3, 16, 16))  # what libraries take when they are first used
module, images = network(64), torch.randn(256, 3, 32, 32)
held, before = own_bytes(), peak_rss_bytes()
planned = compress_module(module, "int8-gptq", images).planned_bytes - held - LIBRARIES
print(planned, peak_rss_bytes() - before)
"""


@pytest.mark.slow
def test_no_more_is_taken_than_was_planned() -> None:
    done = subprocess.run([sys.executable, "-c", TAKEN], capture_output=True, text=True, check=True)
    planned, taken = map(int, done.stdout.split())
    assert 2**25 < taken < planned < 4 * taken


class ByName(nn.Module):
    """Calls its layer with the name torch gives the argument."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(input=x)
        return out


def test_layers_may_be_called_by_keyword() -> None:
    data = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    plain = ByName()
    expected = plain(data).detach()
    made = compress_module(plain, "int8-gptq", data).module
    torch.testing.assert_close(made(data), expected, rtol=0.05, atol=0.05)
