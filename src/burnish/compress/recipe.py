"""Recipes: what is done to a model, in which order, under a name that says it."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from burnish.compress.passes.autoround import AutoRound
from burnish.compress.passes.awq import ActivationAwareScaling
from burnish.compress.passes.base import Needs, Pass, RoundingPass
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.gptq import Gptq
from burnish.compress.passes.imatrix import ImportanceRounding
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.passes.smoothquant import Smoothing
from burnish.core.errors import BadSettings, nearest
from burnish.core.settings import make_config
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.table import FORMATS

PASSES: dict[str, type[Pass]] = {
    "rtn": RoundToNearest,
    "imatrix": ImportanceRounding,
    "gptq": Gptq,
    "autoround": AutoRound,
    "awq": ActivationAwareScaling,
    "smoothquant": Smoothing,
}
"""The passes, by the word users write."""


_KEYS = ("about", "average_bits", "pass")  # of a recipe's file


@dataclass(frozen=True)
class Recipe:
    """Ordered passes over every part.

    ``average_bits``: of a weight, its scales included; each group of layers takes one of the last pass's formats, as
    the model's measured sensitivity to it says.
    """

    name: str
    about: str
    passes: tuple[Pass, ...]
    average_bits: float | None = None

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for passes in an order that cannot be: one stores the weights, the last."""
        if not self.passes:
            raise BadSettings(f"recipe {self.name!r} has no pass", remedy=f"Known: {', '.join(PASSES)}")
        *before, last = self.passes
        for step in before:
            if isinstance(step, RoundingPass):
                raise BadSettings(
                    f"recipe {self.name!r}: {pass_name(step)} stores the weights, nothing can follow",
                    remedy="Put it last",
                )
        if self.average_bits is not None and not last.needs.data:
            raise BadSettings(
                f"recipe {self.name!r} has average_bits, yet {pass_name(last)} uses no data",
                remedy="Use gptq or imatrix",
            )
        if not isinstance(last, RoundingPass):
            raise BadSettings(
                f"recipe {self.name!r} ends with {pass_name(last)}, which stores nothing",
                remedy="Let a rounding pass follow",
            )

    def settled(self, formats: Mapping[str, str]) -> "Recipe":
        """This recipe with the format of each layer, by name, settled."""
        assigned = {name: _integer(chosen) for name, chosen in formats.items()}
        choice = replace(self.rounding.choice, assigned=assigned)
        return replace(self, passes=(*self.passes[:-1], replace(self.rounding, choice=choice)))

    @property
    def rounding(self) -> RoundingPass:
        """The last pass."""
        last = self.passes[-1]
        assert isinstance(last, RoundingPass)
        return last

    @property
    def needs(self) -> Needs:
        """What any of the passes needs."""
        found = [step.needs for step in self.passes]
        return Needs(*(any(flags) for flags in zip(*found, strict=True)))


def pass_name(step: Pass) -> str:
    """The word users write for a pass."""
    return next(name for name, kind in PASSES.items() if isinstance(step, kind))


def find_recipe(name: str) -> Recipe:
    """The recipe of that name, or in the TOML file of that name. Raises ``BadSettings`` naming the nearest."""
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    if name not in RECIPES:
        raise BadSettings(f"unknown recipe {name!r}", remedy=nearest(name, list(RECIPES)))
    return RECIPES[name]


def read_recipe(path: Path) -> Recipe:
    """A recipe from TOML: a table ``[[pass]]`` for each pass, in order, with its name and its settings.

    Formats are those each layer takes the first of that fits; ``head`` is the output head's. Raises ``BadSettings``.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadSettings(f"recipe {str(path)!r} cannot be read: {error.strerror}", remedy="Check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"recipe {str(path)!r} is not TOML: {error}", remedy="Mend that line") from None
    for key in found:
        if key not in _KEYS:
            raise BadSettings(f"recipe {str(path)!r}: unknown key {key!r}", remedy=nearest(key, list(_KEYS)))
    steps = found.get("pass", [])
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise BadSettings(f"recipe {str(path)!r}: pass is no list of tables", remedy="Write [[pass]]")
    bits = found.get("average_bits")
    if bits is not None and (isinstance(bits, bool) or not isinstance(bits, int | float) or not bits > 0):
        raise BadSettings(f"recipe {str(path)!r}: average_bits = {bits!r} is no number above 0", remedy="Correct it")
    passes = tuple(_read_pass(step) for step in steps)
    return Recipe(path.name, str(found.get("about", "")), passes, None if bits is None else float(bits))


def _read_pass(step: dict[str, Any]) -> Pass:
    settings = dict(step)
    name = settings.pop("name", None)
    if name not in PASSES:
        raise BadSettings(f"unknown pass {name!r}", remedy=nearest(str(name), list(PASSES)))
    kind = PASSES[name]
    if any(field.name == "choice" for field in fields(kind)):  # type: ignore[arg-type]
        settings["choice"] = _read_choice(settings.pop("formats", ["int4-g128"]), settings.pop("head", "int8"))
    return make_config(kind, settings, section=f"pass {name}")


def _read_choice(names: Any, head: Any) -> FormatChoice:
    listed = names if isinstance(names, list) else [names]
    return FormatChoice(tuple(_integer(name) for name in listed), _integer(head))


def _integer(name: Any) -> IntegerFormat:
    known = [name for name, stored in FORMATS.items() if isinstance(stored, IntegerFormat)]
    found = FORMATS.get(str(name))
    if not isinstance(found, IntegerFormat):
        raise BadSettings(f"{name!r} is no integer format", remedy=nearest(str(name), known))
    return found


# groups as large as the layer allows; a width no group divides takes int8 rather than staying dense
_INT4 = ("int4-g128", "int4-g64", "int4-g32", "int8")
_WIDTHS = {"int8": ("int8",), "int4": _INT4} | {
    f"int{bits}-g{size}": (f"int{bits}-g{size}",) for bits in (4, 3, 2) for size in (128, 64, 32)
}
_NUMBERS = {4: "four", 3: "three", 2: "two"}
_ABOUT = {"int8": "eight bits, a scale per output", "int4": "four bits, the widest groups each layer allows"} | {
    f"int{bits}-g{size}": f"{number} bits, groups of {size}"
    for bits, number in _NUMBERS.items()
    for size in (128, 64, 32)
}


def _choice(width: str) -> FormatChoice:
    found = [FORMATS[name] for name in _WIDTHS[width]]
    return FormatChoice(tuple(stored for stored in found if isinstance(stored, IntegerFormat)))


_METHODS: dict[str, tuple[str, Callable[[FormatChoice], tuple[Pass, ...]]]] = {
    "": ("rounded to nearest", lambda choice: (RoundToNearest(choice),)),
    "-imatrix": ("scales searched under the importance of the inputs", lambda choice: (ImportanceRounding(choice),)),
    "-gptq": ("GPTQ", lambda choice: (Gptq(choice),)),
    "-awq": ("AWQ, then scales searched", lambda c: (ActivationAwareScaling(c), ImportanceRounding(c))),
    "-autoround": ("AutoRound", lambda choice: (AutoRound(choice),)),
    "-awq-gptq": ("AWQ, then GPTQ", lambda choice: (ActivationAwareScaling(choice), Gptq(choice))),
}


def _named(width: str, method: str) -> Recipe:
    words, make = _METHODS[method]
    bits, _, group = width.partition("-")
    name = f"{bits}{method}-{group}" if group else f"{bits}{method}"
    return Recipe(name, f"{_ABOUT[width]}, {words}", make(_choice(width)))


_MIXED = FormatChoice(tuple(_integer(name) for name in ("int3-g64", "int4-g128", "int4-g64", "int4-g32", "int8")))
_MIXTURES = {
    f"mixed-{bits}bit-gptq": Recipe(
        f"mixed-{bits}bit-gptq",
        f"{bits} bits a weight on average, three to eight where the model is measured to need them, GPTQ",
        (Gptq(_MIXED),),
        average_bits=float(bits),
    )
    for bits in (5, 6)
}
_LOSSY_ENOUGH = {"int8": ("", "-imatrix", "-gptq")}  # of eight bits nothing is left for scaling to win
RECIPES = {
    recipe.name: recipe
    for width in _WIDTHS
    for recipe in (_named(width, method) for method in _LOSSY_ENOUGH.get(width, tuple(_METHODS)))
} | _MIXTURES
