"""What a compression pass is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from burnish.compress.chain import Part
from burnish.compress.passes.choice import FormatChoice, refuse_packed
from burnish.compress.statistics import Flow
from burnish.core.records import LayerRecord
from burnish.models.formats.base import WeightFormat
from burnish.models.formats.integer import IntegerFormat
from burnish.models.layers.linear import Linear


class Needs(NamedTuple):
    """What a pass must be given."""

    data: bool  # calibration data that flows through the model
    original: bool = False  # and what flowed in the uncompressed model
    moments: bool = False  # holds the second moments of all inputs of a part


class Pass(ABC):
    """Changes one part of a model after another."""

    needs: ClassVar[Needs]

    def check(self, name: str, layer: Linear) -> None:
        """Change nothing; raise ``BadSettings`` when ``apply`` could not do its work on this layer."""
        refuse_packed(name, layer)

    def sees(self, part: Part) -> Part:
        """The part without the layers that the pass leaves alone."""
        return part

    @abstractmethod
    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Change the part in place; leave a record of every weight stored. ``flow`` is there if it needs data."""


class RoundingPass(Pass):
    """A pass that stores weights in few bits: the last of a recipe."""

    @property
    @abstractmethod
    def formats(self) -> tuple[WeightFormat, ...]:
        """Every format that it may store a layer in."""

    @abstractmethod
    def target(self, name: str, layer: Linear) -> WeightFormat:
        """The format it stores a layer in. Raises ``BadSettings`` when none fits."""


@dataclass(frozen=True)
class IntegerRounding(RoundingPass):
    """A pass that stores weights as integers."""

    choice: FormatChoice

    @property
    def formats(self) -> tuple[IntegerFormat, ...]:
        """Those of the choice."""
        return self.choice.all

    def check(self, name: str, layer: Linear) -> None:
        """Raise ``BadSettings`` for a layer that is not dense or fits none of the formats."""
        self.choice.check(name, layer)

    def sees(self, part: Part) -> Part:
        """The part without the layers that stay dense."""
        return part.without(self.choice.dense) if self.choice.dense else part

    def target(self, name: str, layer: Linear) -> IntegerFormat:
        """The format it stores a layer in. Raises ``BadSettings`` when none fits."""
        return self.choice.find(name, layer)
