"""One GGUF file for llama.cpp: architecture, tokenizer and weights.

By default every weight moves over as it is: integers become the blocks of 32 inputs that hold their codes (Q8_0 for
eight bits, Q4_0 for fewer, Q4_1 for four with zero points) and floats F16. Another type rounds only what it cannot hold
exactly. Matrices whose rows are no whole blocks, and embeddings unless told otherwise, are F16; vectors are F32.

Shapes: O outputs, I inputs, D width of a head.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType
from gguf.gguf_writer import GGUFWriter
from torch import Tensor

from burnish.compress.export.target import Asked, Prepared, Progress, Target, Written
from burnish.core.errors import BadCheckpoint
from burnish.models.checkpoint import Loaded, load_decoder
from burnish.models.families import FAMILIES
from burnish.models.formats.foreign import Error
from burnish.models.formats.ggml_blocks import TYPES, carried, error_of, fits, rounded
from burnish.models.formats.integer import IntegerFormat, Quantized
from burnish.models.gguf.names import ROPE_FACTORS
from burnish.models.gguf.write_config import Described, describe
from burnish.models.gguf.write_tensors import stored_name, stored_rows
from burnish.models.gguf.write_vocabulary import describe_words
from burnish.models.layers.linear import Linear
from burnish.models.raw_config import read_json
from burnish.models.tensor_names import find_tensor, linears, targets
from burnish.models.tokenizer import TEMPLATE, TOKENIZER_CONFIG, load_tokenizer, save_tokenizer

AUTO, FLOAT, FULL = "auto", "F16", "F32"
QUANTIZATION_VERSION = 2  # of the blocks, since 2023
_GUESSED = LlamaFileType.GUESSED  # by readers, from the tensors
_FILE_TYPES = {kind: LlamaFileType[f"MOSTLY_{kind}"] for kind in (FLOAT, *TYPES)}


class _Tensor(NamedTuple):
    """A tensor of the file and how to make it; ``stored`` puts its rows in the order of the file."""

    name: str
    type: str
    shape: tuple[int, ...]  # of its values
    values: Callable[[], Tensor]  # float32
    codes: Callable[[], Quantized | None]
    stored: Callable[[Tensor], Tensor]


class _Model(NamedTuple):
    """All that goes into a file."""

    loaded: Loaded
    described: Described
    metadata: dict[str, Any]
    asked: Asked


def _prepare(model: Path, asked: Asked) -> Prepared:
    loaded = load_decoder(model, mapped=True)
    described = describe(loaded.family, loaded.decoder.config)
    metadata = {"general.name": model.stem, "general.file_type": int(_FILE_TYPES.get(asked.type.upper(), _GUESSED))}
    metadata |= {"general.quantization_version": QUANTIZATION_VERSION}
    metadata |= described.metadata | _words(model, loaded.decoder.config.vocab_size)
    return Prepared(partial(_write, _Model(loaded, described, metadata, asked)))


def _words(model: Path, vocab_size: int) -> dict[str, Any]:
    """The metadata of the tokenizer, whatever kind of files it lies in."""
    tokenizer = load_tokenizer(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tokenizer(model, folder)
        config = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
        if (folder / TEMPLATE).is_file():
            config["chat_template"] = (folder / TEMPLATE).read_text(encoding="utf-8")
    return describe_words(tokenizer, config, vocab_size)


def _write(model: _Model, out: Path, moved: Progress) -> Written:
    writer = GGUFWriter(str(out), model.described.name)
    tensors = list(_tensors(model))
    try:
        for key, value in model.metadata.items():
            _ADD[type(value)](writer, key, value)
        for tensor in tensors:
            _announce(writer, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        errors = []
        for done, tensor in enumerate(tensors):
            errors.append(_write_tensor(writer, tensor))
            moved(done + 1, len(tensors))
    finally:
        writer.close()
    costs = [error.relative for error in errors if error.lost]
    types = Counter(tensor.type for tensor in tensors)
    return Written(types=types, num_rounded=len(costs), worst_relative_error=max(costs, default=0.0))


_ADD: dict[type, Callable[[GGUFWriter, str, Any], None]] = {
    bool: GGUFWriter.add_bool,
    int: GGUFWriter.add_uint32,
    float: GGUFWriter.add_float32,
    str: GGUFWriter.add_string,
    list: GGUFWriter.add_array,
}


def _tensors(model: _Model) -> Iterator[_Tensor]:
    """Every tensor of the file, by its name there."""
    decoder, (_, architecture, _, factors) = model.loaded.decoder, model.described
    family, head_dim = FAMILIES[model.loaded.family], decoder.config.head_dim
    layers = {name.theirs: name.layer for name in linears(decoder, family)}
    if factors is not None:
        yield _Tensor(ROPE_FACTORS, FULL, tuple(factors.shape), lambda: factors, _no_codes, lambda rows: rows)
    wanted = targets(decoder, family)
    for module, kind in dict.fromkeys(_part(name, layers) for name in wanted):
        name = f"{module}.{kind}"
        stored = partial(stored_rows, architecture, name, head_dim=head_dim)
        layer = layers.get(module) if kind == "weight" else None
        if layer is not None:
            chosen = _type(module, layer.in_features, layer, model.asked)
            shape = (layer.out_features, layer.in_features)
            yield _Tensor(
                stored_name(architecture, name), chosen, shape, layer.dense_weight, partial(_codes, layer), stored
            )
        else:
            parameter = find_tensor(decoder, wanted[name].ours[0]).detach()
            chosen = FULL if parameter.dim() == 1 else _type(module, parameter.shape[1], None, model.asked)
            yield _Tensor(
                stored_name(architecture, name), chosen, tuple(parameter.shape), parameter.float, _no_codes, stored
            )


class _Part(NamedTuple):
    module: str
    kind: str


def _part(name: str, layers: Mapping[str, Linear]) -> _Part:
    """Module and kind of a tensor of the checkpoint; the tensors of a packed weight are one weight here."""
    module, _, kind = name.rpartition(".")
    return _Part(module, "weight" if module in layers and kind != "bias" else kind)


def _no_codes() -> None:
    return None


def _codes(layer: Linear) -> Quantized | None:
    return layer.format.restore(layer.packed()) if isinstance(layer.format, IntegerFormat) else None


def _type(module: str, inputs: int, layer: Linear | None, asked: Asked) -> str:
    """The type a matrix is stored in."""
    is_outer = module.endswith(("embed_tokens", "lm_head"))
    wanted = asked.embeddings if is_outer and asked.embeddings != AUTO else asked.type
    if wanted == AUTO:
        wanted = FLOAT if layer is None else _same(layer)
    elif is_outer and asked.embeddings == AUTO and wanted.upper() in TYPES:
        wanted = "Q8_0"  # few bits cost a vocabulary more than a layer
    return wanted.upper() if fits(inputs) else FLOAT


def _same(layer: Linear) -> str:
    """The type whose blocks hold what a layer holds."""
    if not isinstance(layer.format, IntegerFormat):
        return FLOAT
    if layer.format.bits == 8:
        return "Q8_0"
    return "Q4_1" if layer.format.asymmetric and layer.format.bits == 4 else "Q4_0"


def _announce(writer: GGUFWriter, tensor: _Tensor) -> None:
    kind = GGMLQuantizationType[tensor.type]
    inputs, num_bytes = GGML_QUANT_SIZES[kind]
    stored = (*tensor.shape[:-1], tensor.shape[-1] // inputs * num_bytes)
    writer.add_tensor_info(tensor.name, stored, np.dtype(np.uint8), math.prod(stored), raw_dtype=kind)


def _write_tensor(writer: GGUFWriter, tensor: _Tensor) -> Error:
    """Write one tensor; what that cost. Raises ``BadCheckpoint`` for numbers the type has no room for."""
    values = tensor.values()
    if tensor.type in TYPES:
        codes = tensor.codes()
        blocks = None if codes is None else carried(tensor.type, codes)
        blocks = rounded(tensor.type, values) if blocks is None else blocks
        rows, error = blocks.rows, error_of(blocks, values)
    else:
        rows = values.half() if tensor.type == FLOAT else values
        error = Error(float((rows.float() - values).square().sum()), float(values.square().sum()))
    if not math.isfinite(error.lost):
        raise BadCheckpoint(f"{tensor.name} holds numbers float16 has no room for", remedy="Export it with --to hf")
    writer.write_tensor_data(tensor.stored(rows).contiguous().numpy())
    return error


TARGET = Target(
    about="One GGUF file for llama.cpp; integers in blocks of 32, floats as F16.",
    types=(AUTO, "f16", "q8_0", "q4_0", "q4_1"),
    embeddings=(AUTO, "f16", "q8_0"),
    prepare=_prepare,
)
