"""Quantization-aware training as a pass: the model learns with its weights rounded, then is stored so."""

import copy
from dataclasses import dataclass, field
from typing import ClassVar

from torch import nn

from burnish.compress.distill import DistillConfig, training_bytes
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.passes.distill import teach
from burnish.compress.passes.whole import Changed, DecoderPass, Material
from burnish.compress.qat import Student
from burnish.models.decoder import Decoder
from burnish.models.formats.integer import IntegerFormat
from burnish.models.layers.linear import Linear

INT4 = IntegerFormat("int4-g128", 4, 128)


@dataclass(frozen=True, kw_only=True)
class QuantizationAwareTraining(DistillConfig, DecoderPass):
    """Teaches the decoder, its weights seen rounded, by the model as it came. A low rate: it has learned before."""

    rate: float = 1e-4
    choice: FormatChoice = field(default_factory=lambda: FormatChoice((INT4,)))
    learns: ClassVar[bool] = True
    stores: ClassVar[bool] = True

    def check(self, name: str, layer: Linear) -> None:
        """Raise ``BadSettings`` for a layer that is not dense or fits none of the formats."""
        self.choice.check(name, layer)

    def apply(self, decoder: Decoder, material: Material) -> Changed:
        """Return the decoder with its weights stored."""
        decoder = copy.deepcopy(decoder)
        for parameter in decoder.parameters():
            parameter.data = parameter.data.float()
        student = Student(decoder, self.choice)
        teach(student, decoder, material, self)
        return Changed(decoder, tuple(student.finish()))

    def memory_bytes(self, model: nn.Module, length: int = 0) -> int:
        """Student, gradients, the optimizer's two moments, and a step with every weight rounded."""
        return 2 * training_bytes(model, self)
