"""One ONNX file of an encoder or of a network for images, for ONNX Runtime and whatever else reads it."""

from functools import partial
from pathlib import Path

import torch

from burnish.compress.export.onnx_encoder import encoder_model
from burnish.compress.export.onnx_graph import Graph
from burnish.compress.export.onnx_vision import vision_model
from burnish.compress.export.target import Asked, Prepared, Progress, Target, Written
from burnish.core.errors import BadSettings
from burnish.models.encoder import Encoder
from burnish.models.encoder_checkpoint import is_encoder, load_encoder
from burnish.models.vision import VisionModel
from burnish.models.vision_checkpoint import is_vision, load_vision

_INSTALL = "Install it: pip install 'burnish[onnx]'"


def _prepare(model: Path, asked: Asked) -> Prepared:
    if not is_encoder(model) and not is_vision(model):
        raise BadSettings(
            f"{str(model)!r} is neither an encoder nor a network for images; --to onnx writes no other models",
            remedy="Use --to gguf",
        )
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise BadSettings("the package onnx is not installed", remedy=_INSTALL) from None
    loaded = load_encoder(model).encoder if is_encoder(model) else load_vision(model).vision
    return Prepared(partial(_write, loaded, asked.type))


def _write(model: Encoder | VisionModel, kind: str, out: Path, moved: Progress) -> Written:
    import onnx

    graph = Graph(kind)
    with torch.inference_mode():
        make = encoder_model(graph, model, moved) if isinstance(model, Encoder) else vision_model(graph, model, moved)
    onnx.save(make, str(out))
    return Written(types=graph.types, num_rounded=graph.num_rounded, worst_relative_error=graph.worst_relative_error)


TARGET = Target(
    about="One ONNX file of an encoder or a network for images; integers behind DequantizeLinear, or multiplied as "
    "bytes.",
    types=("auto", "f32", "int8"),
    embeddings=("auto",),
    prepare=_prepare,
)
