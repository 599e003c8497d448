"""How checkpoints of residual networks name their tensors, and what sizes follow from them: plain data.

A convolution and the normalisation behind it are one layer of ours.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from burnish.core.errors import BadCheckpoint
from burnish.models.raw_config import Raw, flag, forbid, size, word, wrong
from burnish.models.vision import Stage, VisionConfig

Shape = tuple[int, ...]


class Pair(NamedTuple):
    """A convolution and its normalisation."""

    conv: str
    norm: str


class Naming(NamedTuple):
    """Templates: ``stage`` and ``block`` count from 0, ``conv`` too; ``stage1`` and ``conv1`` from 1."""

    stem: Pair
    conv: Pair
    shortcut: Pair
    heads: tuple[str, ...]  # one of them


HUGGING_FACE = Naming(
    Pair("resnet.embedder.embedder.convolution", "resnet.embedder.embedder.normalization"),
    Pair(
        "resnet.encoder.stages.{stage}.layers.{block}.layer.{conv}.convolution",
        "resnet.encoder.stages.{stage}.layers.{block}.layer.{conv}.normalization",
    ),
    Pair(
        "resnet.encoder.stages.{stage}.layers.{block}.shortcut.convolution",
        "resnet.encoder.stages.{stage}.layers.{block}.shortcut.normalization",
    ),
    ("classifier.1",),
)
TORCHVISION = Naming(
    Pair("conv1", "bn1"),
    Pair("layer{stage1}.{block}.conv{conv1}", "layer{stage1}.{block}.bn{conv1}"),
    Pair("layer{stage1}.{block}.downsample.0", "layer{stage1}.{block}.downsample.1"),
    ("fc", "linear"),
)


def read_hugging_face(raw: Raw) -> VisionConfig:
    """The sizes in transformers' config.json of a ResNet. Raises ``BadCheckpoint``."""
    forbid(raw, hidden_act="relu", downsample_in_bottleneck=False)
    kind = word(raw, "layer_type", "bottleneck")
    if kind not in ("basic", "bottleneck"):
        raise wrong("layer_type", kind, "basic or bottleneck")
    widths, depths = _sizes(raw, "hidden_sizes"), _sizes(raw, "depths")
    if len(widths) != len(depths):
        raise wrong("depths", depths, f"a list of {len(widths)}, as hidden_sizes is")
    first = 2 if flag(raw, "downsample_in_first_stage", False) else 1
    labels = raw.get("id2label")
    return VisionConfig(
        num_classes=len(labels) if isinstance(labels, dict) and labels else size(raw, "num_labels", 2),
        stages=tuple(
            Stage(
                width=width,
                inner=width // 4 if kind == "bottleneck" else width,
                depth=depth,
                stride=2 if number else first,
            )
            for number, (width, depth) in enumerate(zip(widths, depths, strict=True))
        ),
        bottleneck=kind == "bottleneck",
        channels=size(raw, "num_channels", 3),
        stem=size(raw, "embedding_size", 64),
        stem_kernel=7,
        stem_stride=2,
        stem_pool=True,
        image_size=224,
    )


def _sizes(raw: Raw, key: str) -> list[int]:
    found: Any = raw.get(key)
    if not isinstance(found, list) or not found:
        raise wrong(key, found, "a list of sizes")
    return [size({key: one}, key) for one in found]


def read_shapes(shapes: Mapping[str, Shape]) -> VisionConfig:
    """The sizes of a ResNet in torchvision's names, as its tensors have them.

    A stem of 7 x 7 halves the image and is followed by a maximum, as in He et al.; one of 3 x 3 does neither, as in
    their networks for CIFAR. The first block of every stage but the first halves the image. Raises ``BadCheckpoint``.
    """
    stem, head = shapes.get("conv1.weight"), _head(shapes)
    stages: list[Stage] = []
    shapes = {name: shape for name, shape in shapes.items() if len(shape) == 4 or ".conv" not in name}
    while f"layer{len(stages) + 1}.0.conv1.weight" in shapes:
        stages.append(_stage(shapes, len(stages)))
    if stem is None or len(stem) != 4 or head is None or len(head) != 2 or not stages:
        raise BadCheckpoint(
            "these are no tensors of a residual network", remedy="Give a ResNet in torchvision's names, or export ONNX"
        )
    is_wide = stem[-1] == 7
    return VisionConfig(
        num_classes=head[0],
        stages=tuple(stages),
        bottleneck="layer1.0.conv3.weight" in shapes,
        channels=stem[1],
        stem=stem[0],
        stem_kernel=stem[-1],
        stem_stride=2 if is_wide else 1,
        stem_pool=is_wide,
        shortcut="project" if any(".downsample." in name for name in shapes) else "pad",
        image_size=224 if is_wide else 32,
    )


def _head(shapes: Mapping[str, Shape]) -> Shape | None:
    return next((shapes[f"{name}.weight"] for name in TORCHVISION.heads if f"{name}.weight" in shapes), None)


def _stage(shapes: Mapping[str, Shape], number: int) -> Stage:
    start = f"layer{number + 1}"
    depth = 0
    while f"{start}.{depth}.conv1.weight" in shapes:
        depth += 1
    last = max(conv for conv in (1, 2, 3) if f"{start}.0.conv{conv}.weight" in shapes)
    return Stage(
        width=shapes[f"{start}.0.conv{last}.weight"][0],
        inner=shapes[f"{start}.0.conv1.weight"][0],
        depth=depth,
        stride=2 if number else 1,
    )
