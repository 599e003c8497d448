"""Networks with fewer channels: what is left computes what it did, what mattered stays, and it learns again."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from burnish.compress.calibration import Calibration
from burnish.compress.channels import importance, shrunk_config, take
from burnish.compress.journal import Journal
from burnish.compress.passes.channels import Relearn, ShrinkChannels
from burnish.compress.passes.whole import NetworkMaterial
from burnish.compress.recipe import Recipe
from burnish.compress.run import apply_to_network
from burnish.core.errors import BadSettings
from burnish.core.records import CalibrationRecord
from burnish.models.layers.conv import Conv2d
from burnish.models.vision import ResidualBlock, Stage, VisionConfig, VisionModel
from tests.images import seeded

BASIC = VisionConfig(
    num_classes=6,
    stages=(Stage(width=16, inner=16, depth=2, stride=1), Stage(width=32, inner=32, depth=1, stride=2)),
    channels=1,
    image_size=12,
)
BOTTLENECK = VisionConfig(
    num_classes=6,
    stages=(Stage(width=32, inner=16, depth=1, stride=1), Stage(width=48, inner=24, depth=2, stride=2)),
    bottleneck=True,
    channels=1,
    image_size=12,
)


def network(config: VisionConfig) -> VisionModel:
    return seeded(VisionModel(config)).eval().requires_grad_(False)


def images(count: int = 40, seed: int = 1) -> Tensor:
    noise = torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(seed))
    return functional.avg_pool2d(noise, 3, 1, 1) * 3


def inner(vision: VisionModel) -> list[Conv2d]:
    blocks = [block for block in vision.blocks if isinstance(block, ResidualBlock)]
    return [conv for block in blocks for conv in block.convs if isinstance(conv, Conv2d)]


@pytest.mark.parametrize("config", [BASIC, BOTTLENECK])
@pytest.mark.parametrize("by", ["activations", "gradient"])
def test_channels_that_do_nothing_go_first(config: VisionConfig, by: str) -> None:
    """A quarter of each block's inner channels is made silent: without them the network is the same function."""
    vision = network(config)
    generator = torch.Generator().manual_seed(7)
    for block in vision.blocks:
        assert isinstance(block, ResidualBlock)
        for conv in list(block.convs)[:-1]:
            assert isinstance(conv, Conv2d)
            silent = torch.randperm(conv.out_channels, generator=generator)[: conv.out_channels // 2]
            conv.matrix.weight[silent] = 0
            assert conv.matrix.bias is not None
            conv.matrix.bias[silent] = -1
    target = shrunk_config(config, 0.5)
    small = take(vision, target, importance(vision, images(), by))  # type: ignore[arg-type]
    assert sum(p.numel() for p in small.parameters()) < 0.72 * sum(p.numel() for p in vision.parameters())
    torch.testing.assert_close(small(images(seed=2)), vision(images(seed=2)), rtol=1e-3, atol=1e-3)


def lost(vision: VisionModel, parent: VisionModel) -> float:
    fresh = images(200, seed=9)
    with torch.no_grad():
        ours, theirs = vision(fresh).log_softmax(-1), parent(fresh).log_softmax(-1)
    return float(functional.kl_div(ours, theirs, log_target=True, reduction="batchmean"))


def test_what_matters_most_stays_and_learns_again() -> None:
    parent = network(BASIC)
    data = images(256)
    worth = importance(parent, data, "activations")
    target = shrunk_config(BASIC, 0.5)
    kept = take(parent, target, worth)
    upside_down = take(parent, target, {conv: -value for conv, value in worth.items()})
    assert lost(kept, parent) < lost(upside_down, parent)
    losses: list[float] = []
    watched = NetworkMaterial(parent, data, lambda what, loss, step: losses.append(loss))
    learned = Relearn(steps=60, batch=32).apply(kept, watched)
    assert len(losses) == 60
    assert losses[-1] < losses[0]
    assert lost(learned, parent) < 0.5 * lost(kept, parent)
    assert all(not p.requires_grad for p in learned.parameters())
    again = Relearn(steps=60, batch=32).apply(kept, NetworkMaterial(parent, data))
    assert all(torch.equal(a, b) for a, b in zip(learned.parameters(), again.parameters(), strict=True))


def test_sizes_are_what_kernels_like() -> None:
    assert [stage.inner for stage in shrunk_config(BASIC, 0.25).stages] == [16, 24]
    assert [stage.width for stage in shrunk_config(BASIC, 0.5).stages] == [16, 32]
    assert ShrinkChannels(share=0.5).memory_bytes(nn.Linear(3, 2, bias=False)) == 24
    by_gradient = ShrinkChannels(share=0.5, by="gradient").memory_bytes(network(BASIC))
    assert by_gradient > 4 * 16 * 12 * 12 * 9 * 16 * 4, "patches of sixteen images wait for the way back"
    for share in (0.0, 1.0, -1):
        with pytest.raises(BadSettings, match="share"):
            shrunk_config(BASIC, share)
    with pytest.raises(BadSettings, match=r"share 0.01 takes no channel of any block, .*\. Use 0.126 or more"):
        shrunk_config(BASIC, 0.01)
    narrow = VisionConfig(num_classes=2, stages=(Stage(width=8, inner=4, depth=1, stride=1),))
    with pytest.raises(BadSettings, match="fewer than 8 channels"):
        shrunk_config(narrow, 0.5)
    with pytest.raises(BadSettings, match="rate 0 is too small"):
        Relearn(rate=0)
    with pytest.raises(BadSettings, match="by 'luck'"):
        ShrinkChannels(by="luck")  # type: ignore[arg-type]


def test_a_network_that_has_learned_is_not_taught_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent, recipe = network(BASIC), Recipe("x", "", (ShrinkChannels(share=0.5), Relearn(steps=2, batch=8)))
    record = CalibrationRecord(sha256="", samples=64, length=1, seed=0)
    data = Calibration(tokens=images(64), text=images(64), record=record)
    first = apply_to_network(parent, recipe, data, journal=Journal(tmp_path / "x", {}))
    monkeypatch.setattr(Relearn, "apply", lambda *_: pytest.fail("taught again"))
    again = apply_to_network(parent, recipe, data, journal=Journal(tmp_path / "x", {}))
    assert again.config == first.config != parent.config
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
