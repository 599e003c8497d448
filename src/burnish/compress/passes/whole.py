"""Passes that change a whole model at once, before the walk over its parts begins."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from burnish.compress.calibration import Calibration
from burnish.compress.distill import Watch
from burnish.compress.passes.base import Needs
from burnish.compress.passes.choice import refuse_packed
from burnish.core.records import LatencyRecord, LayerRecord
from burnish.models.decoder import Decoder, DecoderConfig
from burnish.models.layers.linear import Linear
from burnish.models.vision import VisionConfig, VisionModel


class Material(NamedTuple):
    """What a whole model is changed with."""

    teacher: Decoder  # the model as it came
    calibration: Calibration | None = None  # where the pass needs data
    state: Path | None = None  # where a training keeps what it has done; None: nowhere
    progress: Callable[[int, int], None] | None = None  # (steps done, steps in all)
    watch: Watch | None = None  # told the losses of what trains

    @property
    def data(self) -> Calibration:
        """The calibration data of a pass that needs it."""
        assert self.calibration is not None
        return self.calibration


class NetworkMaterial(NamedTuple):
    """What a whole network for images is changed with."""

    teacher: VisionModel  # the network as it came
    images: Tensor  # (S, C, H, W)
    watch: Watch | None = None  # told the losses of what trains


class Changed(NamedTuple):
    """A changed model, the weights that were stored for good, and the times their formats were chosen by, if so."""

    decoder: Decoder
    records: tuple[LayerRecord, ...] = ()
    latency: LatencyRecord | None = None


class WholePass(ABC):
    """Makes one model of another: a decoder, or a network for images."""

    needs: ClassVar[Needs] = Needs(data=True)
    learns: ClassVar[bool] = False
    """Whether it trains: it then wants a student that is not yet its teacher."""
    stores: ClassVar[bool] = False
    """Whether it stores the weights for good, so that nothing can follow."""

    def check(self, name: str, layer: Linear) -> None:
        """Raise ``BadSettings`` when ``apply`` could not do its work on this layer."""
        refuse_packed(name, layer)

    @abstractmethod
    def memory_bytes(self, model: nn.Module, length: int = 0) -> int:
        """What it holds at most beside the model given. ``length``: tokens of a sample of the data."""


class NetworkPass(WholePass):
    """Makes one network for images of another."""

    def shape(self, config: VisionConfig) -> VisionConfig:
        """The sizes of what ``apply`` makes of a network of that configuration. Raises ``BadSettings``."""
        return config

    @abstractmethod
    def apply(self, vision: VisionModel, material: NetworkMaterial) -> VisionModel:
        """Return a changed network; the one given, and the teacher, stay as they are."""


class DecoderPass(WholePass):
    """Makes one decoder of another."""

    mixes_columns: ClassVar[bool] = False
    """Whether a column of the stream means nothing any more afterwards, so that none can be left out or compared."""

    def shape(self, config: DecoderConfig) -> DecoderConfig:
        """The sizes of what ``apply`` makes of a decoder of that configuration. Raises ``BadSettings``."""
        return config

    @abstractmethod
    def apply(self, decoder: Decoder, material: Material) -> Changed:
        """Return a changed decoder; the one given, and the teacher, stay as they are. Raises ``BadSettings``."""
