"""Residual networks in and out of checkpoints: transformers' folders, state dictionaries of torch, and our own folders.

What is read from elsewhere has its normalisation multiplied into its convolutions, in float64. Our own folders hold
what is left: one matrix and one bias a layer, in any format.
"""

import json
import math
import pickle
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from burnish.core.errors import BadCheckpoint, NotFound
from burnish.models.families import STATE_SUFFIXES
from burnish.models.formats.foreign import Foreign
from burnish.models.formats.quantization_config import read_assignment, read_static, write_quantization
from burnish.models.layers.conv import Conv2d
from burnish.models.layers.linear import Linear
from burnish.models.raw_config import read_json, size
from burnish.models.tensor_files import SHARD_BYTES, TensorFolder, write_tensors
from burnish.models.tensor_names import Target, find_tensor
from burnish.models.tensor_placing import CONFIG, place, refuse_unfit
from burnish.models.vision import ResidualBlock, VisionConfig, VisionModel
from burnish.models.vision_names import HUGGING_FACE, TORCHVISION, Naming, Pair, read_hugging_face, read_shapes

MODEL_TYPE = "residual-cnn"
PREPROCESSOR = "preprocessor_config.json"
NORM_EPS = 1e-5
# what torch.load, which reads tensors only, raises for other files
_NO_TENSORS = (
    *(RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError),
    *(struct.error, pickle.UnpicklingError),
)
_NORM = ("weight", "bias", "running_mean", "running_var")
_CONFIG = TypeAdapter(VisionConfig)


class LoadedVision(NamedTuple):
    """A network and the names of its layers."""

    vision: VisionModel

    @property
    def model(self) -> VisionModel:
        """The module."""
        return self.vision

    @property
    def weights(self) -> str:
        """Name of the format most layers are stored in."""
        counts = Counter(layer.format.name for layer in matrices(self.vision).values())
        return counts.most_common(1)[0][0]


def matrices(vision: nn.Module) -> dict[str, Linear]:
    """The weights of all layers, by name."""
    return {name: layer for name, layer in vision.named_modules() if isinstance(layer, Linear)}


def is_vision(path: Path) -> bool:
    """Whether a path is a residual network: a folder, or a file of torch."""
    if path.is_file():
        return path.suffix in STATE_SUFFIXES
    return (path / CONFIG).is_file() and read_json(path / CONFIG).get("model_type") in (MODEL_TYPE, "resnet")


def load_vision(path: Path) -> LoadedVision:
    """A residual network from any of the three kinds of checkpoints.

    Raises ``NotFound``, ``BadCheckpoint``.
    """
    if path.is_file():
        return LoadedVision(_load_state(path))
    raw = read_json(path / CONFIG)
    if raw.get("model_type") == MODEL_TYPE:
        return LoadedVision(_load_own(path, raw))
    if raw.get("model_type") != "resnet":
        raise BadCheckpoint(f"{str(path)!r} is no network for images", remedy="Give a ResNet")
    if raw.get("quantization_config") is not None:
        raise BadCheckpoint(f"{str(path)!r} is stored in another tool's format", remedy="Give the dense network")
    config = _with_pixels(read_hugging_face(raw), path)
    with TensorFolder(path) as folder:
        return LoadedVision(_folded(config, HUGGING_FACE, {name: folder.read(name) for name in folder.tensors}))


def _load_state(path: Path) -> VisionModel:
    """A state dictionary, alone or as ``state_dict`` of a training's checkpoint. Nothing in it is run."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise NotFound(f"{str(path)!r} does not exist", remedy="Check the path") from None
    except OSError as error:
        raise BadCheckpoint(f"{str(path)!r} cannot be read: {error.strerror}", remedy="Check the file") from None
    except _NO_TENSORS:
        raise BadCheckpoint(f"{str(path)!r} holds no plain tensors", remedy="Save the network's state_dict") from None
    state = found.get("state_dict", found) if isinstance(found, Mapping) else {}
    named = state.items() if isinstance(state, Mapping) else ()
    tensors = {str(name).removeprefix("module."): value for name, value in named if isinstance(value, Tensor)}
    config = read_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    return _folded(_with_pixels(config, path.parent), TORCHVISION, tensors)


def _with_pixels(config: VisionConfig, folder: Path) -> VisionConfig:
    """The configuration with what transformers' preprocessor file, if there is one, says of images."""
    if not (folder / PREPROCESSOR).is_file():
        return config
    raw = read_json(folder / PREPROCESSOR)
    mean, std = (raw.get(key) if raw.get("do_normalize", True) else None for key in ("image_mean", "image_std"))
    mean, std = (tuple(value) if isinstance(value, list) else () for value in (mean, std))
    are_numbers = all(isinstance(value, int | float) for value in (*mean, *std)) and all(value > 0 for value in std)
    if not are_numbers or len(mean) != len(std) or len(mean) not in (0, config.channels):
        raise BadCheckpoint(
            f"{PREPROCESSOR}: image_mean {mean} and image_std {std} do not fit {config.channels} channels",
            remedy="Give one number above 0 per channel",
        )
    factor = raw.get("rescale_factor", 1 / 255) if raw.get("do_rescale", True) else 1.0
    if not isinstance(factor, int | float) or isinstance(factor, bool) or not factor > 0:
        raise BadCheckpoint(f"{PREPROCESSOR}: rescale_factor is {factor!r}", remedy="Give a number above 0")
    scale = 255 * factor  # of what the network is to get over our pixels of 0 to 1
    if not math.isclose(scale, 1.0, rel_tol=1e-6):
        mean, std = mean or (0.0,) * config.channels, std or (1.0,) * config.channels
        mean, std = tuple(m / scale for m in mean), tuple(s / scale for s in std)
    sizes = raw.get("crop_size") or raw.get("size")
    height = sizes.get("height", sizes.get("shortest_edge")) if isinstance(sizes, dict) else sizes
    image_size = size({"size": height}, "size", config.image_size)
    return replace(config, mean=mean, std=std, image_size=image_size)


def _folded(config: VisionConfig, naming: Naming, tensors: Mapping[str, Tensor]) -> VisionModel:
    """A network of convolutions and the normalisation behind each."""
    with torch.device("meta"):
        vision = VisionModel(config)
    pairs = dict(_pairs(vision, naming))
    head = next((name for name in naming.heads if f"{name}.weight" in tensors), naming.heads[0])
    shapes = _theirs(vision, pairs, head)
    faults = [f"missing {name}" for name in shapes if name not in tensors]
    faults += [f"unexpected {n}" for n in tensors if n not in shapes and not n.endswith("num_batches_tracked")]
    faults += [
        f"{name} has shape {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if faults:
        listed = "; ".join(faults[:20])
        raise BadCheckpoint(f"{len(faults)} tensors do not fit the network: {listed}", remedy="Fetch the weights again")
    for conv, pair in pairs.items():
        weight, bias = _fold(tensors, pair)
        _give(conv.matrix, weight.flatten(1), bias)
    _give(vision.head, tensors[f"{head}.weight"], tensors[f"{head}.bias"])
    return vision.eval().requires_grad_(False)


def _pairs(vision: VisionModel, naming: Naming) -> Iterator[tuple[Conv2d, Pair]]:
    yield vision.stem, naming.stem
    numbers = [(stage, block) for stage, row in enumerate(vision.config.stages) for block in range(row.depth)]
    for (stage, block), module in zip(numbers, vision.blocks, strict=True):
        assert isinstance(module, ResidualBlock)
        for number, conv in enumerate(module.convs):
            assert isinstance(conv, Conv2d)
            places = {"stage": stage, "stage1": stage + 1, "block": block, "conv": number, "conv1": number + 1}
            yield conv, Pair(*(template.format(**places) for template in naming.conv))
        if module.shortcut is not None:
            places = {"stage": stage, "stage1": stage + 1, "block": block}
            yield module.shortcut, Pair(*(template.format(**places) for template in naming.shortcut))


def _theirs(vision: VisionModel, pairs: Mapping[Conv2d, Pair], head: str) -> dict[str, tuple[int, ...]]:
    """Every tensor a checkpoint must hold, and its shape."""
    shapes: dict[str, tuple[int, ...]] = {}
    for conv, pair in pairs.items():
        shapes[f"{pair.conv}.weight"] = (conv.out_channels, conv.in_channels, *conv.kernel)
        shapes |= {f"{pair.norm}.{name}": (conv.out_channels,) for name in _NORM}
    outputs, inputs = vision.head.out_features, vision.head.in_features
    return shapes | {f"{head}.weight": (outputs, inputs), f"{head}.bias": (outputs,)}


def _fold(tensors: Mapping[str, Tensor], pair: Pair) -> tuple[Tensor, Tensor]:
    """The weight and bias that compute what a convolution and its normalisation do."""
    scale, shift, mean, variance = (tensors[f"{pair.norm}.{name}"].double() for name in _NORM)
    factor = scale / (variance + NORM_EPS).sqrt()
    return tensors[f"{pair.conv}.weight"].double() * factor.view(-1, 1, 1, 1), shift - mean * factor


def _give(layer: Linear, weight: Tensor, bias: Tensor) -> None:
    layer.weight = nn.Parameter(weight.float().contiguous().clone(), requires_grad=False)
    layer.bias = nn.Parameter(bias.float().contiguous().clone(), requires_grad=False)


def _load_own(folder: Path, raw: dict[str, Any]) -> VisionModel:
    known = {name: raw[name] for name in VisionConfig.__dataclass_fields__ if name in raw}
    try:
        config = _CONFIG.validate_python(known)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise BadCheckpoint(f"config.json: {where}: {fault['msg']}", remedy="Make the artifact again") from None
    with torch.device("meta"):
        vision = VisionModel(config)
        _store_formats(vision, raw.get("quantization_config"))
    wanted = {
        name: Target((name,), tuple(tensor.shape), tensor.dtype, False) for name, tensor in _tensors(vision).items()
    }
    with TensorFolder(folder) as file:
        refuse_unfit(wanted, file.tensors, (), CONFIG)
        for name, target in wanted.items():
            place(vision, target, file.read(name))
    return vision.eval().requires_grad_(False)


def _store_formats(vision: VisionModel, stored: Any) -> None:
    if stored is None:
        return
    layers = matrices(vision)
    static = read_static(stored, list(layers))
    for name, found in read_assignment(stored, list(layers), may_be_static=True).items():
        if isinstance(found, Foreign):
            raise BadCheckpoint(f"{name} is stored in another tool's format", remedy="Compress it with burnish")
        layer = layers[name]
        layout = found.layout(layer.out_features, layer.in_features)
        layer.store(found, {key: torch.empty(spec.shape, dtype=spec.dtype) for key, spec in layout.items()})
        if name in static:
            layer.round_inputs(torch.empty(1), torch.empty(1, dtype=torch.int8))


def _tensors(vision: nn.Module) -> dict[str, Tensor]:
    return dict(vision.named_parameters()) | dict(vision.named_buffers())


def save_vision(
    loaded: LoadedVision, folder: Path, *, dtype: torch.dtype = torch.float32, int8_activations: bool = False
) -> None:
    """Write config.json and tensors into a folder that exists; packed weights as they are, floats as ``dtype``.

    Layers of eight bits whose inputs are to be rounded too are held bytewise from then on.
    """
    vision = loaded.vision
    layers = matrices(vision)
    raw: dict[str, Any] = {"model_type": MODEL_TYPE} | asdict(vision.config)
    static = frozenset(name for name, layer in layers.items() if layer.input_scale is not None)
    for name, layer in layers.items():
        if int8_activations or name in static:
            layer.store_bytes()
    quantization = write_quantization(
        {name: layer.format for name, layer in layers.items()}, int8_activations=int8_activations, static=static
    )
    if quantization is not None:
        raw["quantization_config"] = quantization
    named = ((name, find_tensor(vision, name).detach()) for name in _tensors(vision))
    floats = ((name, tensor.to(dtype) if name in dict(vision.named_parameters()) else tensor) for name, tensor in named)
    write_tensors(((name, tensor.contiguous()) for name, tensor in floats), folder, SHARD_BYTES)
    (folder / CONFIG).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
