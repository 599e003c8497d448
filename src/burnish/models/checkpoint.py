"""Decoders in and out of checkpoint folders, one tensor at a time.

A load holds the decoder and one tensor more; what is missing, unexpected or misshapen is listed in one error.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from burnish.core.errors import BadCheckpoint, NotFound
from burnish.models import llama2c
from burnish.models.decoder import Decoder
from burnish.models.families import FAMILIES, Family, find_family, read_config, refuse_state, write_config
from burnish.models.foreign_weights import Conversions, ForeignLayer, load_foreign, refuse_fused, stored_targets
from burnish.models.formats import awq, gptq
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.foreign import Foreign
from burnish.models.formats.quantization_config import read_assignment, write_quantization
from burnish.models.formats.table import get
from burnish.models.gguf import location as gguf_location
from burnish.models.layers.linear import Linear
from burnish.models.raw_config import read_json
from burnish.models.tensor_files import INDEX, SHARD_BYTES, Stored, TensorFolder, write_tensors
from burnish.models.tensor_names import LinearName, Target, find_tensor, linears, targets
from burnish.models.tensor_placing import CONFIG, place, refuse_unfit

if TYPE_CHECKING:
    from burnish.models.gguf.tensors import GgufTensors

HEAD = "lm_head.weight"


class Loaded(NamedTuple):
    """A decoder and where it comes from."""

    decoder: Decoder
    family: str
    raw_config: dict[str, Any]
    weights: str  # name of the format most weights are stored in
    tensor_bytes: int  # of all tensors in the checkpoint

    @property
    def model(self) -> Decoder:
        """The module."""
        return self.decoder


def load_decoder(path: Path, *, mapped: bool = False) -> Loaded:
    """A decoder from a Hugging Face folder, or from a GGUF or llama2.c file (or the folder that holds one).

    Parameters become float32; integer weights stay packed. ``mapped``: the dense weights of linear layers stay in the
    mapped file, in its type, and take no memory of their own until they are used; the file must stay as it is.
    Raises ``NotFound``, ``UnknownFamily``, ``BadCheckpoint``.
    """
    refuse_state(path)
    single = gguf_location.find(path)
    file = llama2c.find(path)
    if file is not None:
        return _load_llama2c(file)
    raw = raw_config(path)
    family, decoder = find_family(raw), empty_decoder(raw)
    foreign, conversions = _foreign_layers(decoder, family, raw), Conversions()
    with open_tensors(path) as folder:
        names = _full_names(folder.tensors, family)
        wanted = stored_targets(foreign, targets(decoder, family))
        stored = {name: folder.tensors[theirs] for name, theirs in names.items()}
        optional = () if decoder.config.tied_embeddings is False else (HEAD,)
        refuse_unfit(wanted, stored, optional, CONFIG if single is None else "its metadata")
        for name, target in wanted.items():
            if target.ours:
                place(decoder, target, folder.read(names[name]), mapped=mapped)
        for layer in foreign:
            conversions.add(load_foreign(layer, lambda name: folder.read(names[name]) if name in names else None))
        if HEAD in names and HEAD not in wanted:
            _check_tied(folder.read(names[HEAD]), decoder)
    conversions.report(str(path))
    return _loaded(decoder, family.model_type, raw)


def raw_config(path: Path) -> dict[str, Any]:
    """A checkpoint's configuration in Hugging Face's words; no weight is read. Raises as ``load_decoder``."""
    single = gguf_location.find(path)
    if single is not None:
        from burnish.models.gguf.config import read_raw_config
        from burnish.models.gguf.reader import open_file

        return read_raw_config(open_file(single))
    refuse_state(path)
    file = llama2c.find(path)
    if file is None and not path.is_dir():
        raise NotFound(f"model folder {str(path)!r} does not exist", remedy="Check the path")
    return _read_folder_config(path) if file is None else llama2c.read(file).raw_config


def open_tensors(path: Path) -> "TensorFolder | GgufTensors":
    """The tensors of a folder or a GGUF file, under Hugging Face's names. Raises as ``load_decoder``."""
    single = gguf_location.find(path)
    if single is None:
        return TensorFolder(path)
    from burnish.models.gguf.reader import open_file
    from burnish.models.gguf.tensors import GgufTensors

    return GgufTensors(open_file(single))


def _read_folder_config(path: Path) -> dict[str, Any]:
    """config.json, with the settings older GPTQ and AWQ folders keep in a file of their own."""
    raw = read_json(path / CONFIG)
    for method, name in ((gptq.METHOD, gptq.FILE), (awq.METHOD, awq.FILE)):
        if raw.get("quantization_config") is None and (path / name).is_file():
            raw["quantization_config"] = {"quant_method": method} | read_json(path / name)
    return raw


def empty_decoder(raw: Mapping[str, Any]) -> Decoder:
    """A decoder whose tensors have shapes and formats, but no memory yet."""
    config = read_config(raw)
    with torch.device("meta"):
        decoder = Decoder(config)
        for (_, layer), stored in _assigned(decoder, find_family(raw), raw):
            weight_format = stored.becomes(layer.in_features) if isinstance(stored, Foreign) else stored
            layout = weight_format.layout(layer.out_features, layer.in_features)
            layer.store(weight_format, {k: torch.empty(s.shape, dtype=s.dtype) for k, s in layout.items()})
    return decoder.eval().requires_grad_(False)


class _Assigned(NamedTuple):
    name: LinearName
    stored: WeightFormat | Foreign


def _assigned(decoder: Decoder, family: Family, raw: Mapping[str, Any]) -> list[_Assigned]:
    """How the configuration says each linear layer is stored; nothing when it does not speak of it."""
    quantization, names = raw.get("quantization_config"), linears(decoder, family)
    if quantization is None:
        return []
    assignment = read_assignment(quantization, [name.theirs for name in names])
    return [_Assigned(name, assignment[name.theirs]) for name in names]


def _foreign_layers(decoder: Decoder, family: Family, raw: Mapping[str, Any]) -> list[ForeignLayer]:
    assigned = _assigned(decoder, family, raw)
    found = [ForeignLayer(*name, stored) for name, stored in assigned if isinstance(stored, Foreign)]
    refuse_fused(family, found)
    return found


def main_format(decoder: Decoder) -> str:
    """Name of the format most of the blocks' weights are stored in."""
    formats = [module.format.name for module in decoder.layers.modules() if isinstance(module, Linear)]
    return max(sorted(set(formats)), key=formats.count)


def _loaded(decoder: Decoder, family: str, raw: dict[str, Any]) -> Loaded:
    tensors = [*decoder.parameters(), *decoder.buffers()]
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    return Loaded(decoder, family, raw, main_format(decoder), num_bytes)


def _full_names(stored: Mapping[str, Stored], family: Family) -> dict[str, str]:
    """Full tensor name -> name in the file: a folder saved from the bare base model omits the family's prefix."""
    if any(name.startswith(family.prefix) for name in stored):
        return {name: name for name in stored}
    return {name if name == HEAD else family.prefix + name: name for name in stored}


def _check_tied(head: Tensor, decoder: Decoder) -> None:
    if not torch.equal(head.float(), decoder.embed_tokens.weight):
        raise BadCheckpoint(
            f"config.json ties the embeddings, yet {HEAD} differs from them", remedy="Set tie_word_embeddings to false"
        )


def _load_llama2c(file: Path) -> Loaded:
    checkpoint = llama2c.read(file)
    decoder = empty_decoder(checkpoint.raw_config)
    for name, array in checkpoint.tensors():
        shape = find_tensor(decoder, name).shape
        place(decoder, Target((name,), tuple(shape), torch.float32, False), torch.from_numpy(array))
    return _loaded(decoder, "llama", checkpoint.raw_config)


def with_decoder(loaded: Loaded, decoder: Decoder) -> Loaded:
    """A loaded model with another decoder of its family in its place, its other words kept."""
    raw = loaded.raw_config
    if decoder.config != loaded.decoder.config:
        raw = raw | write_config(FAMILIES[loaded.family], decoder.config)
    return _loaded(decoder, loaded.family, raw)


def random_decoder(config_json: Path, *, weights: str = "dense", seed: int = 0) -> Loaded:
    """Random weights of the shape in a config.json, made directly in the wanted format, the output head too.

    "int4" takes the largest groups that fit every layer. Raises ``BadRequest`` for an unknown format or one whose
    groups do not fit, ``BadCheckpoint`` for a bad config.
    """
    return random_of(read_json(config_json), weights=weights, seed=seed)


def random_of(raw: Mapping[str, Any], *, weights: str = "dense", seed: int = 0) -> Loaded:
    """The same of what a config.json holds."""
    decoder, generator = empty_decoder(raw), torch.Generator().manual_seed(seed)
    weight_format = get(_largest_groups(decoder) if weights == "int4" else weights)
    for module in decoder.modules():
        if isinstance(module, Linear):
            module.store(weight_format, weight_format.random(module.out_features, module.in_features, generator))
    for module in decoder.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_meta:
                made = _random_parameter(module, name, parameter, generator)
                module._parameters[name] = nn.Parameter(made, requires_grad=False)
    return _loaded(decoder, find_family(raw).model_type, dict(raw))


def _largest_groups(decoder: Decoder) -> str:
    inputs = {module.in_features for module in decoder.modules() if isinstance(module, Linear)}
    return next((f"int4-g{size}" for size in (128, 64) if not any(i % size for i in inputs)), "int4-g32")


def _random_parameter(owner: nn.Module, name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Embeddings are random; norms and biases do nothing."""
    if like.dim() == 2:
        return torch.empty(like.shape).normal_(std=0.02, generator=generator).bfloat16().float()
    return torch.full(like.shape, 1.0 - getattr(owner, "offset", 0.0) if name == "weight" else 0.0)


def save_checkpoint(
    decoder: Decoder,
    folder: Path,
    *,
    family: str,
    dtype: torch.dtype = torch.float32,
    raw_config: Mapping[str, Any] | None = None,
    int8_activations: bool = False,
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a Hugging Face folder: config.json and safetensors, float parameters as ``dtype``, packed weights as is.

    ``raw_config`` keeps a checkpoint's own words; without it config.json is written from the decoder.
    ``int8_activations``: engines that follow the file round the inputs of int8 layers too, row by row; the decoder
    then holds those layers bytewise. The folder appears complete or not at all; one that exists keeps its other files.
    Raises ``BadCheckpoint`` when the family cannot express the decoder.
    """
    row = FAMILIES[family]
    raw = dict(raw_config) if raw_config is not None else write_config(row, decoder.config)
    if read_config(raw) != decoder.config:
        raise BadCheckpoint("the given config.json does not describe this decoder", remedy="Pass the one it came from")
    raw |= {"architectures": [row.architecture], "torch_dtype": str(dtype).removeprefix("torch.")}
    raw.pop("dtype", None)
    raw.pop("quantization_config", None)
    named = linears(decoder, row)
    if int8_activations:
        for _, layer in named:
            layer.store_bytes()
    assignment = {name.theirs: name.layer.format for name in named}
    quantization = write_quantization(assignment, int8_activations=int8_activations)
    if quantization is not None:
        if decoder.config.tied_embeddings:  # others make a head of it, which has no stored weights of its own
            quantization["ignore"].append(HEAD.removesuffix(".weight"))
        raw["quantization_config"] = quantization
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_tensors(_named_tensors(decoder, row, dtype), staging, max_shard_bytes)
        (staging / CONFIG).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
        _publish(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _named_tensors(decoder: Decoder, family: Family, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, target in targets(decoder, family).items():
        parts = [find_tensor(decoder, ours).detach() for ours in target.ours]
        tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
        is_parameter = isinstance(find_tensor(decoder, target.ours[0]), nn.Parameter)
        yield (
            name,
            (tensor.t() if target.transposed else tensor).to(dtype if is_parameter else tensor.dtype).contiguous(),
        )


def _publish(staging: Path, folder: Path) -> None:
    """Move what was staged into place: the whole folder, or file by file with config.json last."""
    if not folder.exists():
        staging.chmod(0o755)
        staging.rename(folder)
        return
    for stale in [*folder.glob("model*.safetensors"), folder / INDEX]:
        if not (staging / stale.name).exists():
            stale.unlink(missing_ok=True)
    for path in sorted(staging.iterdir(), key=lambda p: p.name == CONFIG):
        path.replace(folder / path.name)
