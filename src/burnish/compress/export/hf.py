"""A Hugging Face folder that transformers and vLLM open, without burnish's own files.

A folder is already what they read: its model files are copied as they are. Weights are unpacked to one float type when
that is asked for, and when the model is no folder.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from burnish.compress.export.target import Asked, Prepared, Progress, Target, Written
from burnish.core.errors import BadSettings
from burnish.models import llama2c
from burnish.models.checkpoint import Loaded, load_decoder, save_checkpoint
from burnish.models.formats.dense import DENSE
from burnish.models.formats.foreign import Error
from burnish.models.formats.quantization_config import OWN_METHOD
from burnish.models.gguf import location as gguf_location
from burnish.models.layers.linear import Linear
from burnish.models.raw_config import read_json
from burnish.models.tensor_files import INDEX, TensorFolder, shards
from burnish.models.tensor_placing import CONFIG
from burnish.models.tokenizer import FILES, load_tokenizer, save_tokenizer
from burnish.models.vision_checkpoint import is_vision

_DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
# settings GPTQ and AWQ keep beside the weights; what sentence-transformers reads; who may use the model
_BESIDE = ("quant*_config.json", "modules.json", "*_Pooling/config.json", "config_sentence_transformers.json")
_RIGHTS = ("LICENSE*", "NOTICE*")


def _prepare(model: Path, asked: Asked) -> Prepared:
    if is_vision(model):
        raise BadSettings(f"{str(model)!r} is a network for images", remedy="Use --to onnx")
    is_folder = gguf_location.find(model) is None and llama2c.find(model) is None
    if asked.type == "auto" and is_folder:
        _refuse_own(model)
        return Prepared(partial(_copy, model, _files(model)))
    loaded = load_decoder(model, mapped=True)
    load_tokenizer(model)
    dtype = None if asked.type == "auto" else _DTYPES[asked.type]
    return Prepared(partial(_save, model, loaded, dtype))


def _refuse_own(model: Path) -> None:
    """Raise ``BadSettings`` for formats that only burnish reads."""
    stored = read_json(model / CONFIG).get("quantization_config")
    if isinstance(stored, dict) and stored.get("quant_method") == OWN_METHOD:
        raise BadSettings(f"{str(model)!r} is stored in a format only burnish reads", remedy="Use --type bf16")


def _files(model: Path) -> list[Path]:
    """What makes the model, by its place in the folder. Raises as ``shards`` does."""
    named = [model / name for name in (CONFIG, INDEX, *FILES)]
    matching = [path for pattern in (*_BESIDE, *_RIGHTS) for path in sorted(model.glob(pattern))]
    return [path for path in dict.fromkeys((*shards(model), *named, *matching)) if path.is_file()]


def _copy(model: Path, files: list[Path], out: Path, moved: Progress) -> Written:
    with TensorFolder(model) as folder:
        types = Counter(stored.dtype for stored in folder.tensors.values())
    for done, source in enumerate(files):
        copy = out / source.relative_to(model)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
        moved(done + 1, len(files))
    return Written(types=types, num_rounded=0, worst_relative_error=0.0)


def _save(model: Path, loaded: Loaded, dtype: torch.dtype | None, out: Path, moved: Progress) -> Written:
    """Write a decoder: its integers as they are and floats in full, or everything in one float type."""
    rounding = [] if dtype is None else list(_unpack(loaded, dtype, moved))
    stored = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in loaded.decoder.buffers())
    name = str(dtype or torch.float32).removeprefix("torch.")
    stored[name] += len(list(loaded.decoder.parameters()))
    save_checkpoint(
        loaded.decoder, out, family=loaded.family, dtype=dtype or torch.float32, raw_config=loaded.raw_config
    )
    save_tokenizer(model, out)
    errors = [error.relative for error in rounding if error.lost]
    return Written(types=stored, num_rounded=len(errors), worst_relative_error=max(errors, default=0.0))


def _unpack(loaded: Loaded, dtype: torch.dtype, moved: Progress) -> Iterator[Error]:
    """Make every weight of the decoder floats of one type, one at a time; yields what that cost each tensor."""
    linears = [module for module in loaded.decoder.modules() if isinstance(module, Linear)]
    for done, layer in enumerate(linears):
        exact = layer.dense_weight()
        layer.store(DENSE, {"weight": exact.to(dtype)})
        yield _cost(exact, dtype)
        moved(done + 1, len(linears))
    unpacked = {id(layer.weight) for layer in linears}
    for parameter in loaded.decoder.parameters():
        if id(parameter) not in unpacked:
            yield _cost(parameter, dtype)


def _cost(exact: Tensor, dtype: torch.dtype) -> Error:
    lost = (exact.to(dtype).float() - exact).square().sum()
    return Error(float(lost), float(exact.float().square().sum()))


TARGET = Target(
    about="A Hugging Face folder for transformers and vLLM; integers as compressed-tensors, or floats of one type.",
    types=("auto", *_DTYPES),
    embeddings=("auto",),
    prepare=_prepare,
)
