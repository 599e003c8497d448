"""Residual networks: read from transformers' folders and torch's state dictionaries, and the same function."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification

from burnish.core.errors import BadCheckpoint
from burnish.models.layers.conv import Conv2d
from burnish.models.vision_checkpoint import PREPROCESSOR, is_vision, load_vision, save_vision
from tests.images import CifarNet, seeded

SHARED = Path(__file__).parents[3] / "shared" / "data" / "models" / "cifar10-resnet"


@pytest.mark.parametrize("kernel", [1, 3, (3, 5)])
@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_matrix_over_patches_is_a_convolution(
    kernel: int | tuple[int, int], stride: int | tuple[int, int], dilation: int
) -> None:
    plain = seeded(nn.Conv2d(3, 8, kernel, stride=stride, padding=2, dilation=dilation))
    ours = Conv2d(3, 8, kernel=kernel, stride=stride, padding=2, dilation=dilation)
    ours.matrix.weight = nn.Parameter(plain.weight.flatten(1))
    assert plain.bias is not None
    ours.matrix.bias = nn.Parameter(plain.bias)
    x = torch.randn(2, 3, 11, 13, generator=torch.Generator().manual_seed(1))
    assert ours.places(11, 13) == tuple(plain(x).shape[2:])
    torch.testing.assert_close(ours(x), plain(x))


@pytest.mark.parametrize("layer_type", ["basic", "bottleneck"])
@pytest.mark.parametrize("first", [True, False])
def test_transformers_computes_the_same(tmp_path: Path, layer_type: str, first: bool) -> None:
    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[32, 64],
        depths=[2, 1],
        layer_type=layer_type,
        downsample_in_first_stage=first,
        num_labels=7,
    )
    theirs = seeded(ResNetForImageClassification(config)).eval()
    theirs.save_pretrained(tmp_path)
    pixels = torch.rand(3, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    loaded = load_vision(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded.vision(pixels), theirs(pixels).logits, rtol=1e-4, atol=1e-4)


def save_state(net: nn.Module, folder: Path, **pixels: object) -> Path:
    """A state dictionary as training scripts leave it, with what is said of pixels beside it."""
    torch.save({"state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, folder / "net.th")
    if pixels:
        (folder / PREPROCESSOR).write_text(json.dumps(pixels))
    return folder / "net.th"


@pytest.mark.parametrize(
    ("said", "mean", "std", "scale"),
    [
        ({"do_normalize": False, "image_mean": [0.25], "image_std": [0.5]}, 0.0, 1.0, 1 / 255),
        ({"image_mean": [0.25], "image_std": [0.5], "rescale_factor": 1 / 127.5}, 0.25, 0.5, 1 / 127.5),
        ({"do_normalize": False, "do_rescale": False}, 0.0, 1.0, 1.0),
        ({"image_mean": [120.0], "image_std": [60.0], "do_rescale": False}, 120.0, 60.0, 1.0),
    ],
)
def test_pixels_are_scaled_as_the_preprocessor_says(
    tmp_path: Path, said: dict[str, object], mean: float, std: float, scale: float
) -> None:
    net = seeded(CifarNet(widths=(8, 16), depth=1, channels=1)).eval()
    loaded = load_vision(save_state(net, tmp_path, **said)).vision
    pixels = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = net((pixels * scale - mean) / std)
        torch.testing.assert_close(loaded(loaded.prepare(pixels)), expected, rtol=1e-3, atol=1e-3)
    (tmp_path / PREPROCESSOR).write_text('{"rescale_factor": 0}')
    with pytest.raises(BadCheckpoint, match="rescale_factor is 0"):
        load_vision(tmp_path / "net.th")


@pytest.mark.parametrize("shortcut", ["pad", "project"])
def test_a_state_dictionary_tells_the_sizes(tmp_path: Path, shortcut: str) -> None:
    net = seeded(CifarNet(widths=(8, 16, 24), depth=2, shortcut=shortcut, channels=1, num_classes=5)).eval()
    path = save_state(net, tmp_path, image_mean=[0.25], image_std=[0.5], size={"height": 28, "width": 28})
    loaded = load_vision(path).vision
    pixels = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = net((pixels / 255 - 0.25) / 0.5)
        torch.testing.assert_close(loaded(loaded.prepare(pixels)), expected, rtol=1e-4, atol=1e-4)
    assert loaded.config.image_size == 28


@pytest.mark.parametrize("name", ["resnet20-12fca82f.th", "resnet56-4bfd9763.th"])
def test_published_networks_load(name: str) -> None:
    if not SHARED.exists():
        pytest.skip("the shared data is not beside the checkout")
    assert is_vision(SHARED / name)
    state = torch.load(SHARED / name, weights_only=True, map_location="cpu")["state_dict"]
    depth = (int(name[6:8]) - 2) // 6
    net = CifarNet(widths=(16, 32, 64), depth=depth, shortcut="pad", channels=3, num_classes=10).eval()
    net.load_state_dict({key.removeprefix("module."): value for key, value in state.items()}, strict=False)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(load_vision(SHARED / name).vision(x), net(x), rtol=1e-3, atol=1e-3)


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    path = save_state(seeded(CifarNet(widths=(8, 16), depth=1)), tmp_path)
    first = load_vision(path)
    (tmp_path / "own").mkdir()
    save_vision(first, tmp_path / "own")
    second = load_vision(tmp_path / "own")
    assert second.vision.config == first.vision.config
    state: dict[str, Tensor] = first.vision.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in second.vision.state_dict().items())


def test_faults_are_named_at_once(tmp_path: Path) -> None:
    state = CifarNet(widths=(8, 16), depth=1).state_dict()
    del state["layer1.0.bn1.running_var"]
    state["extra.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "net.pt")
    with pytest.raises(BadCheckpoint, match=r"missing layer1.0.bn1.running_var; unexpected extra.weight"):
        load_vision(tmp_path / "net.pt")
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(BadCheckpoint, match="holds no plain tensors"):
        load_vision(tmp_path / "text.pt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(BadCheckpoint, match="no tensors of a residual network"):
        load_vision(tmp_path / "other.pt")


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(BadCheckpoint, match="holds no plain tensors"):
        load_vision(tmp_path / "module.pt")


def test_inputs_are_rounded_to_settled_steps() -> None:
    layer = Conv2d(1, 1, kernel=1).matrix
    x = torch.tensor([[-9.0], [0.0], [0.24], [0.26], [200.0]])
    layer.round_inputs(torch.tensor([0.5]), torch.tensor([-120]))
    assert layer.rounded(x).flatten().tolist() == [-4.0, 0.0, 0.0, 0.5, 123.5]
    expected = functional.linear(layer.rounded(x), layer.weight, layer.bias)
    assert torch.equal(layer(x), expected)
