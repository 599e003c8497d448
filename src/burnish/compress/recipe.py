"""Recipes: what is done to a model, in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from burnish.compress.chain import HEAD
from burnish.compress.passes.autoround import AutoRound
from burnish.compress.passes.awq import ActivationAwareScaling
from burnish.compress.passes.base import IntegerRounding, Needs, Pass, RoundingPass
from burnish.compress.passes.channels import Relearn, ShrinkChannels
from burnish.compress.passes.choice import EIGHT_BITS, FormatChoice
from burnish.compress.passes.distill import Distill
from burnish.compress.passes.fp8 import Float8Rounding
from burnish.compress.passes.gptq import Gptq
from burnish.compress.passes.imatrix import ImportanceRounding
from burnish.compress.passes.magnitude import MagnitudePruning
from burnish.compress.passes.prune import PruningPass
from burnish.compress.passes.qat import QuantizationAwareTraining
from burnish.compress.passes.rotate import Rotate
from burnish.compress.passes.rtn import RoundToNearest
from burnish.compress.passes.shrink import Shrink
from burnish.compress.passes.smoothquant import Smoothing
from burnish.compress.passes.sparsegpt import SparseGpt
from burnish.compress.passes.sparsity import parse_sparsity
from burnish.compress.passes.static import StaticInputs
from burnish.compress.passes.wanda import Wanda
from burnish.compress.passes.whole import DecoderPass, WholePass
from burnish.compress.student import Student
from burnish.core.errors import BadSettings, nearest
from burnish.models.decoder import DecoderConfig
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.dense import DENSE
from burnish.models.formats.integer import IntegerFormat
from burnish.models.formats.sparse import SparseFormat
from burnish.models.formats.table import get, integer_format

PASSES: dict[str, type[Pass] | type[WholePass]] = {
    "shrink": Shrink,
    "distill": Distill,
    "rotate": Rotate,
    "channels": ShrinkChannels,
    "relearn": Relearn,
    "magnitude": MagnitudePruning,
    "wanda": Wanda,
    "sparsegpt": SparseGpt,
    "smoothquant": Smoothing,
    "awq": ActivationAwareScaling,
    "static": StaticInputs,
    "rtn": RoundToNearest,
    "imatrix": ImportanceRounding,
    "gptq": Gptq,
    "autoround": AutoRound,
    "fp8": Float8Rounding,
    "qat": QuantizationAwareTraining,
}
"""The passes, by the word users write, in the order in which a recipe can have them."""


@dataclass(frozen=True)
class Recipe:
    """Ordered passes: those over the whole model first, then those over part after part.

    ``average_bits``: of a weight, its scales included; each group of layers takes one of the last pass's formats, as
    the model's measured sensitivity to it says. ``latency_share``: the same, but what is limited is the measured time
    of all products of a decode step, as a share of what they take in int8. ``activations``: what other engines are told
    to make of the inputs of layers whose weights have eight bits; "int8" is what the native kernels do anyway, row by
    row. ``keep``: patterns of layers that are not pruned and take ``keep_format``, an integer format or "dense",
    whatever the passes have for others.
    """

    name: str
    about: str
    passes: tuple[WholePass | Pass, ...]
    average_bits: float | None = None
    activations: Literal["float", "int8"] = "float"
    latency_share: float | None = None
    keep: tuple[str, ...] = ()
    keep_format: str = EIGHT_BITS.name

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for passes in an order that cannot be."""
        if not self.passes:
            raise BadSettings(f"recipe {self.name!r} has no pass", remedy=f"Known: {', '.join(PASSES)}")
        before = list[WholePass | Pass]()
        for step in self.passes:
            self._check_order(before, step)
            before.append(step)
        last = self.passes[-1]
        if not isinstance(last, RoundingPass | PruningPass | WholePass):
            raise BadSettings(
                f"recipe {self.name!r} ends with {pass_name(last)}, which stores nothing",
                remedy="Let a rounding pass follow",
            )
        self._check_budget(last)
        self._check_sparse()
        self._check_keep(last)
        if self.rounds_inputs and not self._stores_eight_bits(last):
            raise BadSettings(
                f"recipe {self.name!r} has activations of int8, yet not every weight has eight bits",
                remedy='Let it end with a rounding pass of formats = ["int8"]',
            )

    def _check_budget(self, last: WholePass | Pass) -> None:
        if self.budget is None:
            return
        if self.average_bits is not None and self.latency_share is not None:
            raise BadSettings(
                f"recipe {self.name!r} has both average_bits and latency_share", remedy="Leave one of them out"
            )
        if not (isinstance(last, IntegerRounding) and last.needs.data):
            raise BadSettings(
                f"recipe {self.name!r} has {self.budget}, yet {pass_name(last)} rounds without data",
                remedy="Use gptq or imatrix",
            )

    def _check_sparse(self) -> None:
        """Sparse formats store what was pruned so before, and the head is not."""
        is_pruned = False
        for step in self.passes:
            choice = _choice_of(step)
            if isinstance(step, PruningPass):
                is_pruned = is_pruned or parse_sparsity(step.sparsity).leaves_two_of_four
            if choice is None or not (sparse := [f for f in (*choice.formats, choice.head) if _is_sparse(f)]):
                continue
            what = f"recipe {self.name!r} stores {sparse[0].name}"
            if not is_pruned:
                raise BadSettings(
                    f"{what}, yet nothing before {pass_name(step)} leaves two of four weights",
                    remedy='Put a pruning pass of sparsity = "2:4" before it',
                )
            if _is_sparse(choice.head):
                raise BadSettings(f"{what} for the head, which is not pruned", remedy='Use head = "int8"')
            if self.budget is not None:
                raise BadSettings(
                    f"{what}, and has {self.budget}, which measures the model unpruned", remedy="Drop one"
                )

    def _check_keep(self, last: WholePass | Pass) -> None:
        if not self.keep:
            return
        if _choice_of(last) is None:
            raise BadSettings(
                f"recipe {self.name!r} has keep, yet {pass_name(last)} stores no formats", remedy="End with rtn or gptq"
            )
        kept = get(self.keep_format) if self.keep_format == DENSE.name else integer_format(self.keep_format)
        if isinstance(kept, SparseFormat):
            raise BadSettings(
                f"recipe {self.name!r} keeps layers in {kept.name}, yet what is kept is not pruned", remedy="Use int8"
            )
        if kept is DENSE and isinstance(last, QuantizationAwareTraining):
            raise BadSettings(f"recipe {self.name!r} keeps layers dense, yet qat rounds them all", remedy="Use int8")
        if self.rounds_inputs and getattr(kept, "bits", None) != EIGHT_BITS.bits:
            raise BadSettings(
                f"recipe {self.name!r} rounds inputs to int8, and keeps layers in {kept.name}",
                remedy='Use keep_format = "int8"',
            )

    @staticmethod
    def _stores_eight_bits(last: WholePass | Pass) -> bool:
        if not isinstance(last, IntegerRounding | QuantizationAwareTraining):
            return False
        return all(one.bits == EIGHT_BITS.bits for one in last.choice.all)

    def _check_order(self, before: list[WholePass | Pass], step: WholePass | Pass) -> None:
        """What came before must let the step do its work."""
        for earlier in before:
            if isinstance(earlier, RoundingPass) or (isinstance(earlier, WholePass) and earlier.stores):
                raise BadSettings(
                    f"recipe {self.name!r}: {pass_name(earlier)} stores the weights, nothing can follow",
                    remedy="Put it last",
                )
            if isinstance(step, WholePass) and isinstance(earlier, Pass):
                raise BadSettings(
                    f"recipe {self.name!r}: {pass_name(step)} changes the whole model, after {pass_name(earlier)}",
                    remedy=f"Put it before {pass_name(earlier)}",
                )
            if isinstance(step, Shrink | Distill) and isinstance(earlier, DecoderPass) and earlier.mixes_columns:
                raise BadSettings(
                    f"recipe {self.name!r}: {pass_name(step)} needs the stream as it was, before {pass_name(earlier)}",
                    remedy=f"Put it before {pass_name(earlier)}",
                )
        has_student = isinstance(step, Distill) and step.student is not None
        if has_student and before:
            raise BadSettings(
                f"recipe {self.name!r}: {pass_name(step)} has a student of its own, what comes before it is in vain",
                remedy="Put distill first, or leave its student out",
            )
        if isinstance(step, WholePass) and step.learns and not step.stores and not before and not has_student:
            raise BadSettings(
                f"recipe {self.name!r}: {pass_name(step)} has nothing to teach, the student is its teacher still",
                remedy="Put shrink, or channels, before it, or give distill a student",
            )

    @property
    def budget(self) -> str | None:
        """The word for what limits the formats of groups, if anything does."""
        if self.average_bits is not None:
            return "average_bits"
        return None if self.latency_share is None else "latency_share"

    def settled(self, formats: Mapping[str, str]) -> "Recipe":
        """This recipe with the format of each layer, by name, settled."""
        last = self.passes[-1]
        assert isinstance(last, IntegerRounding)
        choice = last.choice.settled({name: get(chosen) for name, chosen in formats.items()})
        return replace(self, passes=(*self.passes[:-1], replace(last, choice=choice)))

    def for_layers(self, names: Sequence[str]) -> "Recipe":
        """This recipe for a model of these layers: what ``keep`` names is settled.

        Raises ``BadSettings`` for a pattern that no layer matches.
        """
        if any(isinstance(step, Rotate) for step in self.passes) and HEAD not in names:
            names = [*names, HEAD]  # which rotating parts from the embedding
        for pattern in self.keep:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise BadSettings(
                    f"recipe {self.name!r}: keep: no layer is called {pattern!r}", remedy=nearest(pattern, list(names))
                )
        kept = frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in self.keep))
        return replace(self, passes=tuple(_keeping(step, kept, get(self.keep_format)) for step in self.passes))

    @property
    def is_static(self) -> bool:
        """Whether inputs of layers are rounded to steps that are settled beforehand."""
        return any(isinstance(step, StaticInputs) for step in self.passes)

    @property
    def rounds_inputs(self) -> bool:
        """Whether every engine is to round the inputs of layers to integers, row by row or to settled steps."""
        return self.activations == "int8" or self.is_static

    @property
    def whole(self) -> tuple[WholePass, ...]:
        """The passes over the whole model."""
        return tuple(step for step in self.passes if isinstance(step, WholePass))

    @property
    def walked(self) -> tuple[Pass, ...]:
        """The passes over part after part."""
        return tuple(step for step in self.passes if isinstance(step, Pass))

    @property
    def rounding(self) -> RoundingPass | None:
        """The pass that rounds part after part, the last, if there is one."""
        last = self.passes[-1]
        return last if isinstance(last, RoundingPass) else None

    @property
    def formats(self) -> tuple[WeightFormat, ...]:
        """Every format that the recipe may store a layer in."""
        last = self.passes[-1]
        kept = (get(self.keep_format),) if self.keep else ()
        if isinstance(last, QuantizationAwareTraining):
            return (*last.choice.all, *kept)
        return (*last.formats, *kept) if isinstance(last, RoundingPass) else (DENSE,)

    def shape(self, config: DecoderConfig) -> DecoderConfig:
        """The sizes of what the passes over a whole decoder make of it. Raises ``BadSettings`` as they do."""
        for step in self.whole:
            if isinstance(step, DecoderPass):
                config = step.shape(config)
        return config

    @property
    def student(self) -> Student | None:
        """The new decoder that takes the model's place, if one does."""
        first = self.passes[0]
        return first.student if isinstance(first, Distill) else None

    @property
    def needs(self) -> Needs:
        """What any of the passes needs."""
        found = [step.needs for step in self.passes]
        return Needs(*(any(flags) for flags in zip(*found, strict=True)))


def _choice_of(step: WholePass | Pass) -> FormatChoice | None:
    found = getattr(step, "choice", None)
    assert found is None or isinstance(found, FormatChoice)
    return found


def _is_sparse(stored: IntegerFormat) -> bool:
    return isinstance(stored, SparseFormat)


def _keeping(step: WholePass | Pass, kept: frozenset[str], kept_format: WeightFormat) -> WholePass | Pass:
    """A pass that prunes none of these layers and stores them in this format."""
    if isinstance(step, PruningPass):
        return replace(step, spared=kept)
    if isinstance(step, IntegerRounding | ActivationAwareScaling | QuantizationAwareTraining):
        return replace(step, choice=step.choice.settled(dict.fromkeys(sorted(kept), kept_format)))
    return step


def pass_name(step: WholePass | Pass) -> str:
    """The word users write for a pass."""
    return next(name for name, kind in PASSES.items() if isinstance(step, kind))
