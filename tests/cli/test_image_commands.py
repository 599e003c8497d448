"""A network for images through the commands: compressed, measured, exported, refused where it must be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from burnish.assemble import load_checked_vision
from burnish.core.errors import VerificationFailed
from burnish.models.vision_checkpoint import load_vision
from burnish.registry.artifact import read_manifest
from tests.cli.conftest import Run
from tests.images import CifarNet, seeded


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dictionary of torch, as a training leaves it."""
    path = tmp_path_factory.mktemp("models") / "net.th"
    torch.save({"state_dict": seeded(CifarNet(widths=(16, 32), channels=1)).state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, network: Path) -> Path:
    """Blurred noise, with the classes the network itself finds in it."""
    noise = torch.rand(160, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels = (torch.nn.functional.avg_pool2d(noise, 3, 1, 1) * 255).to(torch.uint8)
    vision = load_vision(network).vision
    with torch.no_grad():
        labels = vision(vision.prepare(pixels)).argmax(1)
    file = tmp_path_factory.mktemp("images") / "digits.npz"
    np.savez(file, images=pixels.numpy(), labels=labels.numpy())
    return file


@pytest.mark.parametrize(
    "recipe", ["int8", "int8-gptq", "int8-w8a8-static", "sparsegpt-50", "int4-autoround-g32", "fp8-dynamic"]
)
def test_a_network_is_compressed_and_measured(
    burnish: Run, network: Path, digits: Path, tmp_path: Path, recipe: str
) -> None:
    data = () if recipe in ("int8", "fp8-dynamic") else ("--calibration", digits)
    made = burnish("compress", network, tmp_path / "x", "--recipe", recipe, *data, "--json")
    if recipe == "int4-autoround-g32":
        assert made.code == 2
        assert "stem.matrix has 9 inputs, no whole number of groups" in made.err
        assert not (tmp_path / "x").exists()
        return
    assert made.json["num_layers"] == 6
    manifest = read_manifest(tmp_path / "x")
    assert manifest is not None
    assert manifest.recipe == recipe
    assert len(manifest.golden.rows) == 4
    assert (manifest.calibration is None) == (recipe in ("int8", "fp8-dynamic"))
    words = ("quality", tmp_path / "x", "--against", network, "--data", digits)
    found = burnish(*words, "--json").json
    assert found["num_images"] == 160
    assert found["parent_accuracy"]["value"] == 1.0, "the labels are the parent's own answers"
    assert found["accuracy"]["value"] == found["agreement"]["value"]
    assert found["accuracy"]["value"] > (0.5 if recipe == "sparsegpt-50" else 0.9)
    assert found["num_won"] == 0
    assert found["kl"]["low"] <= found["kl"]["value"] <= found["kl"]["high"]
    assert "same likeliest class" in burnish(*words).out


def test_a_tensor_that_holds_no_number_is_named(burnish: Run, tmp_path: Path) -> None:
    state = seeded(CifarNet(widths=(16, 32), channels=1)).state_dict()
    state["linear.bias"][3] = float("inf")
    torch.save({"state_dict": state}, tmp_path / "net.th")
    complaint = burnish("compress", tmp_path / "net.th", tmp_path / "x").complaint
    assert complaint.startswith("tensor head.bias holds infinities or what is no number")
    assert not (tmp_path / "x").exists()


def test_what_is_stored_rounds_its_inputs(burnish: Run, network: Path, digits: Path, tmp_path: Path) -> None:
    burnish("compress", network, tmp_path / "x", "--recipe", "int8-w8a8-static", "--calibration", digits)
    vision = load_checked_vision(tmp_path / "x").vision
    assert vision.stem.matrix.input_scale is not None
    assert vision.stem.matrix.format.name == "int8"
    assert vision.head.input_zero_point is not None
    whole = load_vision(network).vision
    x = vision.prepare(torch.from_numpy(np.load(digits)["images"]))
    with torch.no_grad():
        assert not torch.equal(vision(x), whole(x))


def test_a_network_that_is_not_what_its_manifest_says_is_refused(burnish: Run, network: Path, tmp_path: Path) -> None:
    burnish("compress", network, tmp_path / "x", "--recipe", "int8")
    vision = load_vision(tmp_path / "x").vision
    file = tmp_path / "x" / "model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    tensors["blocks.0.convs.0.matrix.weight_scale"] = tensors["blocks.0.convs.0.matrix.weight_scale"].flip(0)
    assert vision.config.num_classes == 10
    save_file(tensors, file)
    with pytest.raises(VerificationFailed, match="golden"):
        load_checked_vision(tmp_path / "x")


@pytest.mark.parametrize("samples", [32, 100, 160, 999])
def test_as_many_images_are_used_as_were_asked_for(
    burnish: Run, network: Path, digits: Path, tmp_path: Path, samples: int
) -> None:
    words = ("compress", network, tmp_path / "x", "--recipe", "int8-gptq", "--calibration", digits)
    assert burnish(*words, "--samples", samples).code == 0
    manifest = read_manifest(tmp_path / "x")
    assert manifest is not None
    assert manifest.calibration is not None
    assert manifest.calibration.samples == min(samples, 160)


def test_bad_input_is_told_in_one_line(burnish: Run, network: Path, digits: Path, tmp_path: Path) -> None:
    few, grey = tmp_path / "few.npz", tmp_path / "colour.npz"
    np.savez(few, images=np.zeros((9, 1, 16, 16), np.uint8))
    np.savez(grey, images=np.zeros((200, 3, 16, 16), np.uint8))
    out = tmp_path / "out"
    calibrated = ("compress", network, out, "--recipe", "int8-gptq", "--calibration", digits)
    for words, fault in (
        (("compress", network, out, "--recipe", "int8-gptq", "--calibration", few), "holds 9 images, too few"),
        (("compress", network, out, "--recipe", "int8-gptq", "--calibration", grey), "has 3 channels"),
        ((*calibrated, "--samples", 31), "31 images are too few to calibrate with. Use 32 or more"),
        ((*calibrated, "--length", 64), "length 64 says nothing of images. Leave it out"),
        (("compress", network, out, "--recipe", "int8-gptq"), "needs calibration data"),
        (
            ("compress", network, out, "--recipe", "shrink-25", "--calibration", digits),
            "shrink knows other models only",
        ),
        (("compress", network, out, "--recipe", "int8-gptq", "--calibration", digits, "--memory", "1MB"), "of memory"),
        (("quality", network, "--data", few), "9 images are too few"),
        (("quality", network, "--against", network, "--data", grey), "images have 3 channels"),
        (("quality", network, "--data", digits, "--max-loss", 0.1, "--against", network), "a network for images takes"),
        (("compress", "builtin", out, "--recipe", "int8-w8a8-static", "--calibration", digits), "rounded row by row"),
    ):
        refused = burnish(*words)
        assert refused.code == 2, refused.err
        assert fault in " ".join(refused.err.split())
        assert not out.exists()


def test_a_network_is_shrunk_taught_and_rounded(burnish: Run, network: Path, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(
        '[[pass]]\nname = "channels"\nshare = 0.5\n[[pass]]\nname = "relearn"\nsteps = 30\n'
        '[[pass]]\nname = "static"\n[[pass]]\nname = "gptq"\nformats = ["int8"]\n'
    )
    words = ("compress", network, tmp_path / "x", "--recipe", tmp_path / "r.toml", "--calibration", digits)
    made = burnish(*words, "--samples", 120, "--json").json
    vision = load_checked_vision(tmp_path / "x").vision
    assert [stage.inner for stage in vision.config.stages] == [8, 16]
    assert made["bytes_after"] < 0.3 * made["bytes_before"]
    found = burnish("quality", tmp_path / "x", "--against", network, "--data", digits, "--json").json
    assert found["agreement"]["value"] > 0.5
    refused = burnish("compress", "builtin", tmp_path / "y", "--recipe", "channels-25", "--calibration", digits)
    assert "channels knows other models only" in refused.err


@pytest.mark.parametrize("recipe", ["int8-w8a8-static", "int8-w8a8-smoothquant"])
def test_a_run_whose_writing_failed_goes_on_where_it_was(
    burnish: Run, network: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    words = ("compress", network, tmp_path / "x", "--recipe", recipe, "--calibration", digits)
    monkeypatch.setattr("burnish.models.vision_checkpoint.write_tensors", full)
    assert "No space left" in burnish(*words).err
    monkeypatch.undo()
    assert burnish(*words).code == 0
    assert burnish("compress", network, tmp_path / "y", *words[3:]).code == 0
    again, whole = (load_vision(tmp_path / name).vision.state_dict() for name in "xy")
    assert all(torch.equal(value, whole[name]) for name, value in again.items())


def test_settled_steps_beside_sparse_weights_are_read_again(
    burnish: Run, network: Path, digits: Path, tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(
        'keep = ["stem.matrix"]\n[[pass]]\nname = "wanda"\nsparsity = "2:4"\n[[pass]]\nname = "static"\n'
        '[[pass]]\nname = "rtn"\nformats = ["int8-2:4", "int8"]\n'
    )
    made = burnish("compress", network, tmp_path / "x", "--recipe", tmp_path / "r.toml", "--calibration", digits)
    assert made.code == 0, made.err
    vision = load_checked_vision(tmp_path / "x").vision
    assert vision.stem.matrix.format.name == "int8"
    assert vision.head.format.name == "int8-2:4"
    assert vision.head.input_scale is not None
    refused = burnish("export", tmp_path / "x", tmp_path / "y", "--to", "hf")
    assert "is a network for images. Use --to onnx" in " ".join(refused.err.split())


def test_what_does_not_belong_together_is_refused(burnish: Run, network: Path, digits: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    data = ("--calibration", digits)
    (tmp_path / "r.toml").write_text('[[pass]]\nname = "magnitude"\nspared = ["head"]\n')
    (tmp_path / "n.toml").write_text('[[pass]]\nname = ["rtn"]\n')
    broken = {"list.pt": {"state_dict": [1]}, "flat.pt": {"conv1.weight": torch.zeros(3)}, "numbers.pt": {1: 2}}
    for name, content in broken.items():
        torch.save(content, tmp_path / name)
    (tmp_path / "text.pt").write_bytes(b"hello world")
    for words, fault in (
        (("compress", network, out, "--target", "gguf"), "runs decoders, no networks for images"),
        (("compress", network, out, "--float-activations", "head"), "--float-activations keeps inputs"),
        (("compress", network, out, "--recipe", tmp_path / "r.toml"), "unknown key 'spared'"),
        (("compress", network, out, "--recipe", tmp_path / "n.toml"), "unknown pass ['rtn']"),
        (("compress", network, out, "--recipe", "int8-gptq", *data, "--target", "gguf"), "runs decoders"),
        (("inspect", network), "is a state dictionary, which no language model is read from"),
        (("verify", network), "is a state dictionary"),
        (("quality", network, "--data", digits, "--against", "builtin"), "is no network for images"),
        (("compress", tmp_path / "list.pt", out), "no tensors of a residual network"),
        (("compress", tmp_path / "flat.pt", out), "no tensors of a residual network"),
        (("compress", tmp_path / "numbers.pt", out), "no tensors of a residual network"),
        (("compress", tmp_path / "text.pt", out), "holds no plain tensors. Save the network's state_dict"),
    ):
        refused = burnish(*words)
        assert refused.code in (2, 3, 4), refused
        assert fault in " ".join(refused.err.split())
        assert "Traceback" not in refused.err
        assert not out.exists()
