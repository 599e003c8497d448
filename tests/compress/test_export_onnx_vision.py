"""Networks for images as ONNX: ONNX Runtime computes what we do, in floats and in bytes."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from burnish.cli.compress import Asked, write_variant
from burnish.cli.export import write_export
from burnish.models.vision import Stage, VisionConfig, VisionModel
from burnish.models.vision_checkpoint import LoadedVision, load_vision, matrices, save_vision
from tests.images import seeded

CONFIGS = {
    "padded": VisionConfig(
        num_classes=7,
        stages=(Stage(width=32, inner=32, depth=2, stride=1), Stage(width=64, inner=32, depth=1, stride=2)),
        stem=32,
        shortcut="pad",
        channels=1,
        image_size=16,
        mean=(0.3,),
        std=(0.4,),
    ),
    "bottleneck": VisionConfig(
        num_classes=7,
        stages=(Stage(width=64, inner=32, depth=1, stride=1), Stage(width=96, inner=32, depth=2, stride=2)),
        bottleneck=True,
        stem=32,
        stem_kernel=7,
        stem_stride=2,
        stem_pool=True,
        channels=1,
        image_size=32,
    ),
}


def silent(*_: object) -> None:
    """Nobody watches."""


@pytest.fixture(params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    vision = seeded(VisionModel(CONFIGS[request.param])).eval().requires_grad_(False)
    for layer in matrices(vision).values():  # so that logits stay of the size they are learned in
        layer.weight.mul_(0.5)
    (tmp_path / "model").mkdir()
    save_vision(LoadedVision(vision), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    noise = torch.rand(150, 1, 40, 36, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 255).to(torch.uint8).numpy()


def by_onnx_runtime(file: Path, x: torch.Tensor) -> NDArray[np.float32]:
    onnx.checker.check_model(onnx.load(file), full_check=True)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # else it rounds inputs to bytes
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(["logits"], {"pixel_values": x.numpy()})[0]
    return found


def compare(model: Path, file: Path, pixels: NDArray[np.uint8], **options: str) -> float:
    """How far ONNX Runtime's logits lie from ours, as a share of their spread, on images of any size."""
    write_export(model, file, "onnx", silent, **options)
    vision = load_vision(model).vision
    x = vision.prepare(torch.from_numpy(pixels[:20]))
    with torch.no_grad():
        ours = vision(x).numpy()
    return float(np.abs(by_onnx_runtime(file, x) - ours).max() / ours.std())


def test_floats_are_the_same(folder: Path, tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    assert compare(folder, tmp_path / "out.onnx", pixels) < 1e-4


@pytest.mark.parametrize("recipe", ["int8", "int4-g32"])
def test_integers_keep_their_codes_and_their_size(
    folder: Path, tmp_path: Path, pixels: NDArray[np.uint8], recipe: str
) -> None:
    if recipe == "int4-g32":
        (tmp_path / "r.toml").write_text('[[pass]]\nname = "rtn"\nformats = ["int4-g32", "int8"]\n')
        recipe = str(tmp_path / "r.toml")
    write_variant(folder, tmp_path / "small", recipe, silent)
    assert compare(tmp_path / "small", tmp_path / "out.onnx", pixels) < 1e-4
    compare(tmp_path / "small", tmp_path / "floats.onnx", pixels, type="f32")
    assert (tmp_path / "out.onnx").stat().st_size < 0.4 * (tmp_path / "floats.onnx").stat().st_size


@pytest.mark.parametrize("kind", ["auto", "int8"])
def test_settled_steps_are_those_of_the_artifact(
    folder: Path, tmp_path: Path, pixels: NDArray[np.uint8], kind: str
) -> None:
    """A rounding that falls the other way moves a logit by little; another grid would move all of them."""
    np.savez(tmp_path / "x.npz", images=pixels)
    write_variant(folder, tmp_path / "small", "int8-w8a8-static", silent, Asked(calibration=tmp_path / "x.npz"))
    assert compare(tmp_path / "small", tmp_path / "out.onnx", pixels, type=kind) < 0.03
    operators = {node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node}
    assert ("ConvInteger" in operators) == (kind == "int8")
    assert "QuantizeLinear" in operators
    assert "DynamicQuantizeLinear" not in operators


def test_bytes_times_bytes_do_not_saturate(folder: Path, tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    """Weights and inputs at the ends of their ranges: what sums in 16 bits would clip."""
    loaded = load_vision(folder)
    for layer in matrices(loaded.vision).values():
        layer.weight.copy_(layer.weight.sign() * layer.weight.abs().mean())  # every code is 127 or -127
    (tmp_path / "ends").mkdir()
    save_vision(loaded, tmp_path / "ends")
    bright = np.where(pixels > 127, 255, 0).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images=bright)
    write_variant(
        tmp_path / "ends", tmp_path / "small", "int8-w8a8-static", silent, Asked(calibration=tmp_path / "x.npz")
    )
    for kind in ("auto", "int8"):
        assert compare(tmp_path / "small", tmp_path / f"{kind}.onnx", bright, type=kind) < 0.03
