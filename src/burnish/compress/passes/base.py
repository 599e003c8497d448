"""What a compression pass is."""

from typing import NamedTuple, Protocol

from burnish.core.records import LayerRecord
from burnish.models.layers.linear import Linear


class LayerStats(NamedTuple):
    """What the walk knows of a layer when a pass sees it; calibration will add what flowed through it."""

    name: str


class Pass(Protocol):
    """Chooses the stored values of one layer after another."""

    @property
    def needs_data(self) -> bool:
        """Whether calibration data must flow through the model first."""
        ...

    def check(self, layer: Linear, stats: LayerStats) -> None:
        """Change nothing; raise ``BadSettings`` when ``apply`` could not do its work on this layer."""
        ...

    def apply(self, layer: Linear, stats: LayerStats) -> LayerRecord:
        """Store the layer's weight in another form, in place, and say what that did."""
        ...
