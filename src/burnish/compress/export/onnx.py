"""One ONNX file of a model of any kind, for ONNX Runtime and, but for decoders, whatever else reads it."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from burnish.compress.export.onnx_decoder import check_decoder, decoder_model
from burnish.compress.export.onnx_encoder import encoder_model
from burnish.compress.export.onnx_graph import Graph
from burnish.compress.export.onnx_vision import vision_model
from burnish.compress.export.target import Asked, Prepared, Progress, Target, Written
from burnish.core.errors import BadSettings
from burnish.models.checkpoint import load_decoder
from burnish.models.decoder import Decoder
from burnish.models.encoder import Encoder
from burnish.models.encoder_checkpoint import is_encoder, load_encoder
from burnish.models.vision import VisionModel
from burnish.models.vision_checkpoint import is_vision, load_vision

if TYPE_CHECKING:
    import onnx

Model = Decoder | Encoder | VisionModel
MOST_BYTES = 2**31 - 1  # of a protocol buffer
_INSTALL = "Install it: pip install 'burnish[onnx]'"


def _prepare(model: Path, asked: Asked) -> Prepared:
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise BadSettings("the package onnx is not installed", remedy=_INSTALL) from None
    loaded = _load(model)
    if isinstance(loaded, Decoder):
        check_decoder(loaded.config)
    return Prepared(partial(_write, loaded, asked.type))


def _load(model: Path) -> Model:
    if is_encoder(model):
        return load_encoder(model).encoder
    return load_vision(model).vision if is_vision(model) else load_decoder(model, mapped=True).decoder


def _write(model: Model, kind: str, out: Path, moved: Progress) -> Written:
    import onnx

    graph = Graph(kind)
    with torch.inference_mode():
        made = _made(graph, model, moved)
    num_bytes = sum(len(tensor.raw_data) for tensor in made.graph.initializer)
    if num_bytes > MOST_BYTES:
        raise BadSettings(
            f"the weights take {num_bytes} bytes, and an ONNX file holds at most {MOST_BYTES}",
            remedy="Compress it first, or use --to gguf",
        )
    onnx.save(made, str(out))
    return Written(types=graph.types, num_rounded=graph.num_rounded, worst_relative_error=graph.worst_relative_error)


def _made(graph: Graph, model: Model, moved: Progress) -> "onnx.ModelProto":
    match model:
        case Encoder():
            return encoder_model(graph, model, moved)
        case VisionModel():
            return vision_model(graph, model, moved)
    return decoder_model(graph, model, moved)


TARGET = Target(
    about="One ONNX file; integers behind DequantizeLinear, those of decoders in MatMulNBits; or multiplied as bytes.",
    types=("auto", "f32", "int8"),
    embeddings=("auto",),
    prepare=_prepare,
)
