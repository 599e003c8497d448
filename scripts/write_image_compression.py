"""Compress networks for images by every recipe that knows them, and write docs/compression-images.md.

    python scripts/write_image_compression.py [--data FOLDER] [--epochs N] [--recipes NAME ...] [--work FOLDER]

A small residual network is trained on the first 10,000 training digits of MNIST, compressed and judged by the command
line on test digits; one that lies in the folder ``--work`` is not trained again. The published ResNet-20 for CIFAR-10,
whose images are not to be had, is compressed by the recipes that need none.
"""

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from burnish.core.images import Images, read_images
from burnish.models.vision import Stage, VisionConfig, VisionModel
from burnish.models.vision_checkpoint import LoadedVision, load_vision, matrices, save_vision
from scripts.measured import ROOT, burnish

TRAIN = "vision/mnist/train-first10000-images-idx3-ubyte.gz"
TEST = "vision/mnist/t10k-images-idx3-ubyte.gz"
RESNET = "models/cifar10-resnet/resnet20-12fca82f.th"
CONFIG = VisionConfig(
    num_classes=10,
    stages=(
        Stage(width=16, inner=16, depth=1, stride=1),
        Stage(width=32, inner=32, depth=1, stride=2),
        Stage(width=64, inner=64, depth=1, stride=2),
    ),
    shortcut="pad",
    channels=1,
    image_size=28,
    mean=(0.13,),
    std=(0.31,),
)
RECIPES = {
    "int8": False,
    "int8-gptq": True,
    "int8-w8a8-static": True,
    "int4": False,
    "int4-imatrix": True,
    "int4-gptq": True,
    "int4-autoround": True,
    "magnitude-50": False,
    "wanda-50": True,
    "sparsegpt-50": True,
    "channels-25": True,
    "channels-25-relearn": True,
    "channels-25-relearn-int8": True,
}
"""Whether a recipe needs data."""
BATCH, RATE, SEED, SAMPLES, JUDGED = 64, 3e-3, 0, 256, 2_000
HEAD = """# What compressing networks for images costs

Written by `scripts/write_image_compression.py`. A residual network of {parameters:,} parameters ({size}), trained
here for {epochs} epochs on 10,000 digits of MNIST (seed {seed}), as images of CIFAR-10 cannot be passed on; compressed
with {samples} of the same digits, judged on {judged:,} test digits (sha256 `{sha}`). Accuracy with Wilson's 95 %
interval; won and lost: digits that only the variant, or only the network itself, gets right; KL in nats per image,
± half of its 95 % interval; ONNX: the share of the first 500 digits that ONNX Runtime puts into the class we do, with
codes behind DequantizeLinear and, for settled steps, as products of bytes. Time and memory are those of the whole
command on two cores that others used too.

| recipe | size | accuracy | won, lost | KL | ONNX | time | memory |
|---|---:|---:|---:|---:|---:|---:|---:|
"""
RESNET_HEAD = """
ResNet-20 for CIFAR-10, as published, by recipes without data. Its images are not here: what is told is the largest
relative error of a layer's weights, and how far ONNX Runtime's logits lie from ours on {count} random inputs, as a
share of their spread, with `session.qdq_matmulnbits_accuracy_level` 1: by default it rounds the inputs of the head to
bytes, and lies 1.8e-02 away (measured by hand).

| recipe | size | worst layer | ONNX Runtime |
|---|---:|---:|---:|
"""


def main() -> None:
    """Train, compress, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--work", type=Path, default=None)
    asked = parser.parse_args()
    test = read_images(asked.data / TEST)
    with tempfile.TemporaryDirectory() as name:
        folder = asked.work or Path(name)
        if not (folder / "net").exists():
            (folder / "net").mkdir(parents=True)
            save_vision(LoadedVision(_train(read_images(asked.data / TRAIN), asked.epochs)), folder / "net")
        vision = load_vision(folder / "net").vision
        rows = [_network_row(folder, asked.data)]
        for recipe in asked.recipes:
            rows.append(_row(recipe, folder, asked.data, test))
            print(rows[-1], flush=True)
        head = HEAD.format(
            parameters=sum(parameter.numel() for parameter in vision.parameters()),
            size=_kibibytes((folder / "net" / "model.safetensors").stat().st_size),
            epochs=asked.epochs,
            seed=SEED,
            samples=SAMPLES,
            sha=test.sha256[:16],
            judged=JUDGED,
        )
        published = [_published_row(recipe, folder, asked.data) for recipe in ("int8", "int4", "magnitude-50")]
    page = head + "\n".join(rows) + "\n" + RESNET_HEAD.format(count=len(_noise())) + "\n".join(published) + "\n"
    (ROOT / "docs" / "compression-images.md").write_text(page, encoding="utf-8")


def _train(digits: Images, epochs: int) -> VisionModel:
    """Cross entropy by AdamW, the digits moved by up to two places; a rate that rises and falls as a cosine."""
    torch.manual_seed(SEED)
    vision = VisionModel(CONFIG)
    for layer in matrices(vision).values():
        torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        layer.weight.data.mul_(0.7)
    optimizer = torch.optim.AdamW(vision.parameters(), lr=RATE, weight_decay=1e-2)
    assert digits.labels is not None
    pixels, labels = torch.from_numpy(digits.pixels), torch.from_numpy(digits.labels)
    steps = epochs * (len(pixels) // BATCH)
    for step in range(steps):
        chosen = torch.randint(len(pixels), (BATCH,))
        across, down = torch.randint(-2, 3, (2,)).tolist()
        moved = torch.roll(pixels[chosen], (across, down), (2, 3))
        loss = functional.cross_entropy(vision(vision.prepare(moved)), labels[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.param_groups[0]["lr"] = RATE * min(1, 20 * step / steps) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
    return vision.eval().requires_grad_(False)


def _network_row(folder: Path, data: Path) -> str:
    found = burnish(["quality", str(folder / "net"), "--data", str(data / TEST), "--max-items", str(JUDGED)]).printed
    size = _kibibytes((folder / "net" / "model.safetensors").stat().st_size)
    return f"| the network itself | {size} | {_share(found['accuracy'])} | | | | | |"


def _row(recipe: str, folder: Path, data: Path, test: Images) -> str:
    out = folder / recipe
    words = ["compress", str(folder / "net"), str(out), "--recipe", recipe, "--samples", str(SAMPLES)]
    made = burnish([*words, *(["--calibration", str(data / TRAIN)] if RECIPES[recipe] else [])])
    words = ["quality", str(out), "--against", str(folder / "net"), "--data", str(data / TEST)]
    found = burnish([*words, "--max-items", str(JUDGED)]).printed
    kinds = ("auto", "int8") if "static" in recipe or recipe.endswith("-int8") else ("auto",)
    same = ", ".join(f"{100 * _agreement(out, kind, test):.1f} %" for kind in kinds)
    kl = found["kl"]
    cells = [
        f"`{recipe}`",
        _kibibytes(made.printed["bytes_after"]),
        _share(found["accuracy"]),
        f"{found['num_won']}, {found['num_lost']}",
        f"{kl['value']:.5f} ± {(kl['high'] - kl['low']) / 2:.5f}",
        same,
        f"{made.seconds:.0f} s",
        f"{made.peak_bytes / 2**20:,.0f} MiB",
    ]
    return f"| {' | '.join(cells)} |"


def _agreement(artifact: Path, kind: str, test: Images) -> float:
    vision = load_vision(artifact).vision
    x = vision.prepare(torch.from_numpy(test.pixels[:500]))
    with torch.inference_mode():
        ours = vision(x).numpy()
    return float((_by_onnx_runtime(artifact, kind, x.numpy()).argmax(1) == ours.argmax(1)).mean())


def _by_onnx_runtime(artifact: Path, kind: str, x: NDArray[Any]) -> NDArray[Any]:
    import onnxruntime

    file = artifact.with_name(f"{artifact.name}-{kind}.onnx")
    burnish(["export", str(artifact), str(file), "--to", "onnx", "--type", kind])
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")  # floats stay floats
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run(["logits"], {"pixel_values": x})[0]
    return found


def _noise() -> NDArray[np.float32]:
    return np.random.default_rng(SEED).standard_normal((64, 3, 32, 32), np.float32)


def _published_row(recipe: str, folder: Path, data: Path) -> str:
    out = folder / f"resnet20-{recipe}"
    made = burnish(["compress", str(data / RESNET), str(out), "--recipe", recipe]).printed
    with torch.inference_mode():
        ours = load_vision(out).vision(torch.from_numpy(_noise())).numpy()
    apart = np.abs(_by_onnx_runtime(out, "auto", _noise()) - ours).max() / ours.std()
    size = f"{_kibibytes(made['bytes_before'])} -> {_kibibytes(made['bytes_after'])}"
    return f"| `{recipe}` | {size} | {100 * made['worst_relative_error']:.1f} % | {apart:.1e} |"


def _share(interval: dict[str, float]) -> str:
    return f"{100 * interval['value']:.2f} % ({100 * interval['low']:.2f} to {100 * interval['high']:.2f})"


def _kibibytes(count: float) -> str:
    return f"{count / 2**10:,.0f} KiB"


if __name__ == "__main__":
    main()
