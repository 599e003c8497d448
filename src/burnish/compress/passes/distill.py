"""Distillation as a pass: what was made smaller learns from the model as it came."""

import copy
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from burnish.compress.distill import Distillation, DistillConfig, split, training_bytes
from burnish.compress.passes.whole import Changed, DecoderPass, Material
from burnish.models.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class Distill(DistillConfig, DecoderPass):
    """Teaches the decoder that the passes before it made."""

    learns: ClassVar[bool] = True

    def apply(self, decoder: Decoder, material: Material) -> Changed:
        """Return the student that has learned."""
        student = copy.deepcopy(decoder)
        for parameter in student.parameters():
            parameter.data = parameter.data.float()
        student.requires_grad_(True)
        teach(student, student, material, self)
        return Changed(student.requires_grad_(False))

    def memory_bytes(self, model: nn.Module, length: int = 0) -> int:
        """Student, gradients, the optimizer's two moments, and a step."""
        return training_bytes(model, self)


def teach(student: nn.Module, decoder: Decoder, material: Material, config: DistillConfig) -> None:
    """Train ``student``, which holds ``decoder``, on the calibration text."""
    text = split(material.data.text, config.length)
    Distillation(student, decoder, material.teacher, text, config).run(
        progress=material.progress, save_to=material.state, watch=material.watch
    )
