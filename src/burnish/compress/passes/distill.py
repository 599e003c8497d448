"""Distillation as a pass: what was made smaller learns from the model as it came."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from burnish.compress.distill import Distillation, DistillConfig, split, training_bytes
from burnish.compress.passes.whole import Changed, DecoderPass, Material
from burnish.compress.student import Student
from burnish.models.decoder import Decoder, DecoderConfig


@dataclass(frozen=True, kw_only=True)
class Distill(DistillConfig, DecoderPass):
    """Teaches the decoder that the passes before it made, or a ``student`` of a shape of its own, which is new."""

    student: Student | None = None
    learns: ClassVar[bool] = True

    def shape(self, config: DecoderConfig) -> DecoderConfig:
        """The student's sizes. Raises ``BadSettings`` for one with another vocabulary, or that sees less text."""
        if self.student is None:
            return config
        self.student.refuse_unfit(config)
        return self.student.config

    def apply(self, decoder: Decoder, material: Material) -> Changed:
        """Return the student that has learned."""
        student = copy.deepcopy(decoder) if self.student is None else self.student.make(self.seed)
        for parameter in student.parameters():
            parameter.data = parameter.data.float()
        student.requires_grad_(True)
        teach(student, student, material, self)
        return Changed(student.requires_grad_(False))

    def memory_bytes(self, model: nn.Module, length: int = 0) -> int:
        """Student, gradients, the optimizer's two moments, and a step."""
        if self.student is None:
            return training_bytes(model, self)
        with torch.device("meta"):
            return training_bytes(Decoder(self.student.config), self)


def teach(student: nn.Module, decoder: Decoder, material: Material, config: DistillConfig) -> None:
    """Train ``student``, which holds ``decoder``, on the calibration text."""
    text = split(material.data.text, config.length)
    Distillation(student, decoder, material.teacher, text, config).run(
        progress=material.progress, save_to=material.state, watch=material.watch
    )
