"""Encoders in and out of checkpoint folders: BERT's tensors, and what sentence-transformers says of pooling."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from burnish.core.errors import BadCheckpoint, UnknownFamily
from burnish.models.encoder import Encoder, EncoderConfig, Pooling
from burnish.models.families import Module
from burnish.models.formats.foreign import Foreign
from burnish.models.formats.quantization_config import read_assignment, read_static, write_quantization
from burnish.models.raw_config import Raw, number, read_json, size, wrong
from burnish.models.tensor_files import SHARD_BYTES, TensorFolder, write_tensors
from burnish.models.tensor_names import find_tensor, linears, targets
from burnish.models.tensor_placing import CONFIG, place, refuse_unfit

MODEL_TYPE = "bert"
MODULES, POOLING = "modules.json", "1_Pooling/config.json"  # sentence-transformers' files
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_POOLINGS: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}


class EncoderFamily(NamedTuple):
    """How a kind of encoder names its modules."""

    prefix: str  # of all tensors where a head stands beside the encoder
    modules: tuple[Module, ...]


_EMBEDDINGS = {
    "word_embeddings": "embed_tokens",
    "position_embeddings": "embed_positions",
    "token_type_embeddings": "embed_types",
    "LayerNorm": "embed_norm",
}
_LAYER = {
    "attention.self.query": "attn.q_proj",
    "attention.self.key": "attn.k_proj",
    "attention.self.value": "attn.v_proj",
    "attention.output.dense": "attn.o_proj",
    "attention.output.LayerNorm": "attn_norm",
    "intermediate.dense": "mlp.up_proj",
    "output.dense": "mlp.down_proj",
    "output.LayerNorm": "mlp_norm",
}
BERT = EncoderFamily(
    "bert.",
    (
        *(Module(f"embeddings.{theirs}", (ours,)) for theirs, ours in _EMBEDDINGS.items()),
        *(Module(f"encoder.layer.{{}}.{theirs}", (f"layers.{{}}.{ours}",)) for theirs, ours in _LAYER.items()),
    ),
)
_UNUSED = ("pooler.", "cls.", "embeddings.position_ids")  # heads of its training; constants


class LoadedEncoder(NamedTuple):
    """An encoder and where it comes from."""

    encoder: Encoder
    raw_config: dict[str, Any]

    @property
    def model(self) -> Encoder:
        """The module."""
        return self.encoder

    @property
    def weights(self) -> str:
        """Name of the format most layers are stored in."""
        counts = Counter(name.layer.format.name for name in linears(self.encoder, BERT))
        return counts.most_common(1)[0][0]


def is_encoder(path: Path) -> bool:
    """Whether a path is the folder of an encoder."""
    return (path / CONFIG).is_file() and read_json(path / CONFIG).get("model_type") == MODEL_TYPE


def read_encoder_config(folder: Path) -> EncoderConfig:
    """The sizes in config.json, and how sentence-transformers' files say that rows are pooled.

    Without such files rows are averaged, as that library does. Raises ``NotFound``, ``UnknownFamily``,
    ``BadCheckpoint``.
    """
    raw = read_json(folder / CONFIG)
    if raw.get("model_type") != MODEL_TYPE:
        raise UnknownFamily(f"model_type {raw.get('model_type')!r} is no encoder burnish knows", remedy="Known: bert")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise wrong("position_embedding_type", raw["position_embedding_type"], "absolute")
    activation = raw.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise wrong("hidden_act", activation, f"one of {', '.join(_ACTIVATIONS)}")
    hidden_size, num_heads = size(raw, "hidden_size"), size(raw, "num_attention_heads")
    if hidden_size % num_heads:
        raise wrong("num_attention_heads", num_heads, f"a divisor of hidden_size {hidden_size}")
    return EncoderConfig(
        vocab_size=size(raw, "vocab_size"),
        hidden_size=hidden_size,
        num_layers=size(raw, "num_hidden_layers"),
        num_heads=num_heads,
        inner_size=size(raw, "intermediate_size"),
        max_positions=size(raw, "max_position_embeddings"),
        num_types=size(raw, "type_vocab_size", 2),
        norm_eps=number(raw, "layer_norm_eps", 1e-12),
        activation=_ACTIVATIONS[activation],
        pooling=_read_pooling(folder),
        normalized=_is_normalized(folder),
    )


def _read_pooling(folder: Path) -> Pooling:
    if not (folder / POOLING).exists():
        return "mean"
    raw = read_json(folder / POOLING)
    asked = [key for key, value in raw.items() if key.startswith("pooling_mode_") and value is True]
    if len(asked) != 1 or asked[0] not in _POOLINGS:
        raise BadCheckpoint(
            f"{POOLING} asks for {', '.join(asked) or 'no pooling'}", remedy=f"Supported: one of {', '.join(_POOLINGS)}"
        )
    return _POOLINGS[asked[0]]


def _is_normalized(folder: Path) -> bool:
    if not (folder / MODULES).exists():
        return False
    try:
        listed = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        kinds = [str(one["type"]).rpartition(".")[2] for one in listed]
    except (OSError, ValueError, KeyError, TypeError):
        raise BadCheckpoint(f"{str(folder / MODULES)!r} is no list of modules", remedy="Fetch it again") from None
    for kind in kinds:
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise BadCheckpoint(f"{MODULES} asks for {kind}", remedy="Supported: Transformer, Pooling, Normalize")
    return "Normalize" in kinds


def load_encoder(folder: Path, *, mapped: bool = False) -> LoadedEncoder:
    """An encoder from a Hugging Face or sentence-transformers folder; ``mapped`` as for ``load_decoder``.

    Heads of its training are left out. Raises ``NotFound``, ``UnknownFamily``, ``BadCheckpoint``.
    """
    config, raw = read_encoder_config(folder), read_json(folder / CONFIG)
    with torch.device("meta"):
        encoder = Encoder(config)
        _store_formats(encoder, raw)
    encoder.eval().requires_grad_(False)
    wanted = targets(encoder, BERT)
    with TensorFolder(folder) as file:
        has_prefix = any(name.startswith(BERT.prefix) for name in file.tensors)
        names = {name.removeprefix(BERT.prefix) if has_prefix else name: name for name in file.tensors}
        stored = {name: file.tensors[theirs] for name, theirs in names.items()}
        refuse_unfit(wanted, stored, [name for name in stored if name.startswith(_UNUSED)], CONFIG)
        for name, target in wanted.items():
            place(encoder, target, file.read(names[name]), mapped=mapped)
    return LoadedEncoder(encoder, raw)


def _store_formats(encoder: Encoder, raw: Raw) -> None:
    """Give the layers the formats that the configuration says they are stored in."""
    if raw.get("quantization_config") is None:
        return
    named = linears(encoder, BERT)
    names = [name.theirs for name in named]
    assignment = read_assignment(raw["quantization_config"], names, may_be_static=True)
    static = read_static(raw["quantization_config"], names)
    for name, layer in named:
        stored = assignment[name]
        if isinstance(stored, Foreign):
            raise BadCheckpoint(f"{name} is stored in another tool's format", remedy="Compress it with burnish")
        layout = stored.layout(layer.out_features, layer.in_features)
        layer.store(stored, {key: torch.empty(spec.shape, dtype=spec.dtype) for key, spec in layout.items()})
        if name in static:
            layer.round_inputs(torch.empty(1), torch.empty(1, dtype=torch.int8))


def save_encoder(
    loaded: LoadedEncoder, folder: Path, *, dtype: torch.dtype = torch.float32, int8_activations: bool = False
) -> None:
    """Write config.json, tensors and what is said of pooling into a folder that exists; packed weights as they are.

    Layers of eight bits whose inputs are to be rounded too are held bytewise from then on.
    """
    encoder = loaded.encoder
    raw = {key: value for key, value in loaded.raw_config.items() if key not in ("quantization_config", "dtype")}
    raw |= {"architectures": ["BertModel"], "torch_dtype": str(dtype).removeprefix("torch.")}
    named = linears(encoder, BERT)
    for _, layer in named:
        if int8_activations or layer.input_scale is not None:
            layer.store_bytes()
    quantization = write_quantization(
        {name.theirs: name.layer.format for name in named},
        int8_activations=int8_activations,
        static=frozenset(name.theirs for name in named if name.layer.input_scale is not None),
    )
    if quantization is not None:
        # transformers makes a pooler of its own, which must not be looked for among the stored weights
        raw["quantization_config"] = quantization | {"ignore": [*quantization["ignore"], "pooler.dense"]}
    write_tensors(_named_tensors(encoder, dtype), folder, SHARD_BYTES)
    _write_json(folder / CONFIG, raw)
    kinds = ["Transformer", "Pooling", *(["Normalize"] if encoder.config.normalized else [])]
    paths = ["", Path(POOLING).parent.name, "2_Normalize"]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(zip(paths, kinds, strict=False))
    ]
    _write_json(folder / MODULES, modules)
    modes = {key: mode == encoder.config.pooling for key, mode in _POOLINGS.items()}
    _write_json(folder / POOLING, {"word_embedding_dimension": encoder.config.hidden_size} | modes)


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _named_tensors(encoder: Encoder, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, target in targets(encoder, BERT).items():
        tensor = find_tensor(encoder, target.ours[0]).detach()
        yield name, tensor.to(dtype if isinstance(tensor, torch.nn.Parameter) else tensor.dtype).contiguous()
