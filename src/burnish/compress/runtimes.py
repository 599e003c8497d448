"""What runs where: the formats that each kind of engine multiplies as they are stored.

Read in the engines themselves: our own kernels (``kernels/tiles.py``), the schemes for compressed-tensors of vLLM 0.33
(``compressed_tensors.py``, ``_get_scheme_from_parts``), and what ``export/gguf.py`` and ``export/onnx.py`` carry over
code by code. vLLM takes integers of eight bits in words, and where inputs become integers too in bytes, then only with
one scale per output; with zero points its kernels take four bits only (``query_marlin_supported_quant_types``). Ours
multiply eight bits with zero points as the floats they stand for. ONNX Runtime keeps them, and llama.cpp's blocks hold
what fits into eight bits without, the rest being rounded and told.
"""

from dataclasses import dataclass
from difflib import SequenceMatcher

from burnish.compress.passes.static import StaticInputs
from burnish.compress.passes.whole import DecoderPass, NetworkPass
from burnish.compress.recipe import Recipe
from burnish.compress.recipes import RECIPES
from burnish.core.errors import BadSettings, nearest
from burnish.models.formats.base import WeightFormat, stored_bytes
from burnish.models.formats.dense import Dense
from burnish.models.formats.fp8 import Float8Format
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.sparse import SparseFormat
from burnish.models.formats.table import FORMATS

KINDS = ("decoders", "encoders", "networks for images")
SIZE = (128, 3840)  # of a weight to compare formats by: a width that every group divides
DENSE_BITS = 16.0  # of a weight in the files of a dense model


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """What a result is to run on."""

    about: str
    formats: frozenset[str]
    float_inputs: frozenset[str] = frozenset()  # those of them that it runs only where inputs stay floats
    kinds: frozenset[str] = frozenset(KINDS)  # of models

    def runs(self, weight_format: WeightFormat, recipe: Recipe) -> bool:
        """Whether it multiplies a weight of that format as the recipe stores it."""
        name = weight_format.name
        return name in self.formats and not (recipe.rounds_inputs and name in self.float_inputs)


_INTEGERS = frozenset(name for name, stored in FORMATS.items() if isinstance(stored, IntegerFormat))
_WHOLE = frozenset(name for name in _INTEGERS if not isinstance(FORMATS[name], SparseFormat))
_INT8_GROUPS = frozenset(f"int8-g{size}" for size in (128, 64, 32))
_INT4 = frozenset(name for name in _INTEGERS if name.startswith("int4-"))
RUNTIMES = {
    "cpu": Runtime(about="burnish on CPUs", formats=_INTEGERS | {"dense"}),
    "gpu": Runtime(
        about="vLLM on GPUs",
        formats=_INT4 | _INT8_GROUPS | {"int8", "dense", "fp8"},
        float_inputs=_INT8_GROUPS,
        kinds=frozenset(KINDS[:2]),
    ),
    "gguf": Runtime(
        about="llama.cpp, by burnish export --to gguf", formats=_WHOLE | {"dense"}, kinds=frozenset(KINDS[:1])
    ),
    "onnx": Runtime(about="ONNX Runtime, by burnish export --to onnx", formats=_WHOLE | {"dense"}),
}


def find_runtime(name: str) -> Runtime:
    """The runtime of that name. Raises ``BadSettings`` naming the nearest."""
    if name not in RUNTIMES:
        raise BadSettings(f"unknown target {name!r}", remedy=nearest(name, list(RUNTIMES)))
    return RUNTIMES[name]


def runtimes_of(recipe: Recipe) -> tuple[str, ...]:
    """The names of those that run whatever the recipe may store."""
    return tuple(name for name, runtime in RUNTIMES.items() if _fits(recipe, runtime))


def refuse_unfit(recipe: Recipe, name: str) -> None:
    """Raise ``BadSettings`` for a recipe that may store a weight in a format the runtime of that name does not run.

    The line names the nearest recipe that it does run, by bits, then by need of data, then by name.
    """
    runtime = find_runtime(name)
    remedy = f"Nearest that does: recipe {_nearest_recipe(recipe, runtime)!r}"
    kinds = _kinds(recipe)
    if not kinds & runtime.kinds:
        known = " and ".join(sorted(kinds))
        raise BadSettings(
            f"recipe {recipe.name!r} is for {known}, none of which {name} ({runtime.about}) runs", remedy=remedy
        )
    for stored in recipe.formats:
        if not runtime.runs(stored, recipe):
            inputs = " with inputs of int8" if stored.name in runtime.float_inputs else ""
            raise BadSettings(
                f"recipe {recipe.name!r} stores {stored.name}{inputs}, which {name} ({runtime.about}) does not run",
                remedy=f"{remedy}, format {_nearest_format(stored, runtime, recipe)}",
            )


def refuse_kind(kind: str, name: str) -> None:
    """Raise ``BadSettings`` when the runtime of that name runs no models of a kind, one of ``KINDS``."""
    runtime = find_runtime(name)
    if kind not in runtime.kinds:
        known = " and ".join(sorted(runtime.kinds))
        raise BadSettings(f"{name} ({runtime.about}) runs {known}, no {kind}", remedy="Name another target")


def _fits(recipe: Recipe, runtime: Runtime) -> bool:
    return bool(_kinds(recipe) & runtime.kinds) and all(runtime.runs(stored, recipe) for stored in recipe.formats)


def _kinds(recipe: Recipe) -> frozenset[str]:
    """The kinds of models that the recipe can be applied to."""
    kinds = frozenset(KINDS)
    if recipe.budget is not None or any(isinstance(step, DecoderPass) for step in recipe.passes):
        kinds &= {"decoders"}
    if any(isinstance(step, NetworkPass) for step in recipe.passes):
        kinds &= {"networks for images"}
    if any(isinstance(step, StaticInputs) for step in recipe.passes):
        kinds -= {"decoders"}
    return kinds


def _nearest_recipe(recipe: Recipe, runtime: Runtime) -> str:
    def distance(other: Recipe) -> tuple[float, bool, float]:
        bits = abs(_bits(other.formats[0]) - _bits(recipe.formats[0]))
        return bits, other.needs.data != recipe.needs.data, -_likeness(other.name, recipe.name)

    return min((other for other in RECIPES.values() if _fits(other, runtime)), key=distance).name


def _nearest_format(stored: WeightFormat, runtime: Runtime, recipe: Recipe) -> str:
    """The nearest by bits, groups, size and name that can stand in its place: another integer where it is one."""
    kind = IntegerFormat if isinstance(stored, IntegerFormat) else (IntegerFormat, Float8Format)
    every = [FORMATS[name] for name in sorted(runtime.formats)]
    known = [one for one in every if isinstance(one, kind) and runtime.runs(one, recipe)]

    def distance(other: WeightFormat) -> tuple[bool, int, bool, float, float]:
        is_other_kind = getattr(other, "asymmetric", False) != getattr(stored, "asymmetric", False)
        size = abs(_bits(other) - _bits(stored))
        is_regrouped = _is_grouped(other) != _is_grouped(stored)
        bits = abs(_code_bits(other) - _code_bits(stored))
        return is_other_kind, bits, is_regrouped, size, -_likeness(other.name, stored.name)

    return min(known, key=distance).name


def _bits(stored: WeightFormat) -> float:
    return DENSE_BITS if isinstance(stored, Dense) else 8 * stored_bytes(stored, *SIZE) / (SIZE[0] * SIZE[1])


def _code_bits(stored: WeightFormat) -> int:
    return stored.bits if isinstance(stored, IntegerFormat) else round(_bits(stored))


def _is_grouped(stored: WeightFormat) -> bool:
    return isinstance(stored, IntegerFormat) and stored.group_size is not None


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
