"""The ``quantization_config`` of a checkpoint: which module is stored in which format.

burnish writes that of compressed-tensors (quantization/quant_config.py and quant_args.py, version 0.20), and reads
those of GPTQ and AWQ too, and what it makes itself of a GGUF file's types. A model with sparse weights, for which
compressed-tensors has no layout, says so by a method of its own, so that other engines refuse it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, cast

from burnish.core.errors import BadCheckpoint
from burnish.models.formats import awq, ggml, gptq
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.compressed_tensors import CompressedTensors
from burnish.models.formats.dense import DENSE
from burnish.models.formats.foreign import Foreign
from burnish.models.formats.fp8 import Float8Format
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.sparse import SparseFormat
from burnish.models.formats.table import FORMATS

METHOD, OWN_METHOD = "compressed-tensors", "burnish"
INT8_LAYOUT, PACKED_LAYOUT = "int-quantized", "pack-quantized"
SPARSE_LAYOUT, FP8_LAYOUT = "int-sparse24", "float-quantized"
Scheme = IntegerFormat | Float8Format
"""A format that a config group can speak of."""
_NAMED = [stored for stored in FORMATS.values() if isinstance(stored, Scheme)]
_SCHEMES = [*_NAMED, *(one.as_bytes() for one in _NAMED if isinstance(one, IntegerFormat) and one.bits == 8)]
_UNSAID = ("compressed", "mixed-precision")  # layouts of a group that leave it to the activations
Assignment = Mapping[str, WeightFormat]  # module name in the checkpoint -> its format


class _Group(NamedTuple):
    targets: tuple[str, ...]
    stored: WeightFormat | Foreign


def read_assignment(
    quantization: Any, modules: Iterable[str], *, may_be_static: bool = False
) -> dict[str, WeightFormat | Foreign]:
    """How each linear module is stored. Raises ``BadCheckpoint`` for a scheme burnish does not read.

    ``may_be_static``: the kind of model can have inputs rounded to steps settled beforehand (``read_static``).
    """
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if not isinstance(quantization, dict) or method not in _READERS:
        known = ", ".join(_READERS)
        raise BadCheckpoint(f"quantization method {str(method)[:80]!r} is not supported", remedy=f"Known: {known}")
    if not may_be_static and method in (METHOD, OWN_METHOD) and read_static(quantization, modules := list(modules)):
        raise BadCheckpoint(
            "quantization_config: activations are supported as dynamic 8-bit integers of the inputs only",
            remedy="Compress the weights only",
        )
    return _READERS[method](quantization, modules)


def read_static(quantization: Mapping[str, Any], modules: Iterable[str]) -> frozenset[str]:
    """The modules whose inputs are rounded to steps that were settled beforehand, one scale for all of them."""
    groups = quantization.get("config_groups")
    if quantization.get("quant_method") not in (METHOD, OWN_METHOD) or not isinstance(groups, dict):
        return frozenset()
    static = [group for group in groups.values() if isinstance(group, dict) and _are_static(group)]
    patterns = [_patterns(group.get("targets") or [], "targets") for group in static]
    ignored = _patterns(quantization.get("ignore") or [], "ignore")
    return frozenset(
        name
        for name in modules
        if not _matches(name, ignored) and any("Linear" in found or _matches(name, found) for found in patterns)
    )


def _are_static(group: Mapping[str, Any]) -> bool:
    activations = group.get("input_activations")
    return isinstance(activations, dict) and {key: activations.get(key) for key in _STATIC} == _STATIC


def _read_compressed(quantization: Mapping[str, Any], modules: Iterable[str]) -> dict[str, WeightFormat | Foreign]:
    for key in ("kv_cache_scheme", "transform_config", "sparsity_config"):
        if quantization.get(key):
            raise BadCheckpoint(f"quantization_config: {key} is not supported", remedy="Compress it again without")
    groups = quantization.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise BadCheckpoint("quantization_config: config_groups is no object of groups", remedy="Correct config.json")
    ignored = _patterns(quantization.get("ignore") or [], "ignore")
    read = [_read_group(group, quantization.get("format")) for group in groups.values()]
    return {name: DENSE if _matches(name, ignored) else _find(name, read) for name in modules}


_READERS: dict[str, Callable[[Mapping[str, Any], Iterable[str]], dict[str, WeightFormat | Foreign]]] = {
    METHOD: _read_compressed,
    gptq.METHOD: gptq.read_gptq,
    awq.METHOD: awq.read_awq,
    ggml.METHOD: ggml.read_gguf,
    OWN_METHOD: _read_compressed,
}


def _read_group(group: Mapping[str, Any], default_layout: object) -> _Group:
    layout, weights = group.get("format") or default_layout, group.get("weights")
    kind = weights.get("type", "int") if isinstance(weights, dict) else "int"
    is_known = _are_left_alone(group.get("input_activations"), kind) or (kind == "int" and _are_static(group))
    if not is_known or group.get("output_activations"):
        raise BadCheckpoint(
            "quantization_config: activations are supported as dynamic eight bits of the weights' kind, inputs only",
            remedy="Compress the weights only",
        )
    if isinstance(weights, dict):
        targets = _patterns(group.get("targets") or [], "targets")
        layouts = (FP8_LAYOUT, PACKED_LAYOUT, INT8_LAYOUT) if layout in _UNSAID else (layout,)
        for weight_format in reversed(_SCHEMES) if group.get("input_activations") else _SCHEMES:
            if _layout(weight_format) in layouts and _agrees(weights, weight_format):
                return _Group(targets, weight_format)
        foreign = _foreign(layout, _found(weights), weights.get("actorder"))
        if foreign is not None:
            return _Group(targets, foreign)
    raise BadCheckpoint(
        f"quantization_config: format {str(layout)[:40]!r} with weights {str(weights)[:200]} is not supported",
        remedy=f"Known: integers of 4 or 8 bits, packed or not, floats of 8 bits; best {', '.join(sorted(FORMATS))}",
    )


def _are_left_alone(activations: object, kind: str) -> bool:
    """Whether what a scheme does to a layer's inputs needs no tensors of its own.

    The native kernels round inputs of integer weights to int8 anyway; those of ``kind`` "float" stay floats here.
    """
    if not isinstance(activations, dict):
        return not activations
    found = (activations.get("num_bits"), activations.get("type", "int"), activations.get("dynamic"))
    return found == (8, kind, True)


def _foreign(layout: object, found: Mapping[str, Any], actorder: object) -> CompressedTensors | None:
    """A scheme burnish reads and does not write."""
    is_known = found["type"] == "int" and found["num_bits"] in (4, 8) and not found["dynamic"]
    is_known = is_known and found["strategy"] in ("group", "channel", "tensor") and isinstance(found["symmetric"], bool)
    size = found["group_size"]
    is_grouped = isinstance(size, int) and not isinstance(size, bool) and size > 0
    if not is_known or layout not in (INT8_LAYOUT, PACKED_LAYOUT) or is_grouped != (found["strategy"] == "group"):
        return None
    if found["strategy"] == "tensor" and layout == PACKED_LAYOUT:
        return None
    return CompressedTensors(
        cast(Literal["pack-quantized", "int-quantized"], layout),
        found["num_bits"],
        found["strategy"],
        size,
        found["symmetric"],
        actorder in ("group", "dynamic"),
    )


def _agrees(weights: Mapping[str, Any], weight_format: Scheme) -> bool:
    actorder_is_free = weights.get("actorder") in (None, "static", "weight")  # scales keep their places
    return actorder_is_free and _found(weights) == _arguments(weight_format)


def _found(weights: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says of weights, its defaults filled in."""
    found = {key: weights.get(key, default) for key, default in _WEIGHT_DEFAULTS.items()}
    strategy = found["strategy"] or ("channel" if found["group_size"] in (None, -1) else "group")
    return found | {"strategy": strategy, "group_size": None if found["group_size"] == -1 else found["group_size"]}


_WEIGHT_DEFAULTS = {
    "num_bits": 8,
    "type": "int",
    "symmetric": True,
    "strategy": None,
    "group_size": None,
    "dynamic": False,
}


def _arguments(weight_format: Scheme) -> dict[str, Any]:
    if isinstance(weight_format, Float8Format):
        return _WEIGHT_DEFAULTS | {"type": "float", "strategy": "channel"}
    return {
        "num_bits": weight_format.bits,
        "type": "int",
        "symmetric": not weight_format.asymmetric,
        "strategy": "channel" if weight_format.group_size is None else "group",
        "group_size": weight_format.group_size,
        "dynamic": False,
    }


_BY_ROW = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
_STATIC = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "tensor", "dynamic": False}


def _layout(weight_format: Scheme) -> str:
    if isinstance(weight_format, Float8Format):
        return FP8_LAYOUT
    if isinstance(weight_format, SparseFormat):
        return SPARSE_LAYOUT
    return INT8_LAYOUT if weight_format.bytewise else PACKED_LAYOUT


def _patterns(found: Any, key: str) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(pattern, str) for pattern in found):
        raise BadCheckpoint(f"quantization_config: {key} is no list of names", remedy="Correct config.json")
    for pattern in found:
        try:
            re.compile(pattern.removeprefix("re:"))
        except re.error as error:
            raise BadCheckpoint(f"quantization_config: pattern {pattern!r}: {error}", remedy="Correct it") from None
    return tuple(found)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.match(p[3:], name) if p.startswith("re:") else p == name for p in patterns)


def _find(name: str, groups: list[_Group]) -> WeightFormat | Foreign:
    for group in groups:
        if "Linear" in group.targets or _matches(name, group.targets):
            return group.stored
    return DENSE


def write_quantization(
    assignment: Assignment, *, int8_activations: bool = False, static: frozenset[str] = frozenset()
) -> dict[str, Any] | None:
    """The ``quantization_config`` of an assignment, None when everything is dense.

    ``int8_activations``: layers stored bytewise are to have their inputs rounded as well, row by row. Those of
    eight-bit floats always are: that is what engines on GPUs have kernels for. ``static``: layers whose inputs are
    rounded to steps stored beside the weight; all layers of a format are, or none.
    """
    used = sorted({f for f in assignment.values() if isinstance(f, Scheme)}, key=lambda f: f.name)
    if not used:
        return None
    members = {f: [name for name, other in assignment.items() if other == f] for f in used}
    return {
        "quant_method": OWN_METHOD if any(isinstance(f, SparseFormat) for f in used) else METHOD,
        "quantization_status": "compressed",
        "format": _layout(used[0]) if len({_layout(f) for f in used}) == 1 else "mixed-precision",
        "config_groups": {
            f"group_{index}": {
                "targets": ["Linear"] if len(used) == 1 else members[weight_format],
                "weights": _arguments(weight_format),
                "input_activations": _activations(weight_format, int8_activations, static & {*members[weight_format]}),
                "output_activations": None,
                "format": _layout(weight_format),
            }
            for index, weight_format in enumerate(used)
        },
        "ignore": [name for name, weight_format in assignment.items() if not isinstance(weight_format, Scheme)],
        "kv_cache_scheme": None,
    }


def _activations(weight_format: Scheme, int8_activations: bool, static: frozenset[str]) -> dict[str, Any] | None:
    """What engines that follow the file make of a layer's inputs."""
    if isinstance(weight_format, Float8Format):
        return _BY_ROW | {"type": "float"}
    if static:
        return _STATIC
    return _BY_ROW if int8_activations and weight_format.bytewise else None
