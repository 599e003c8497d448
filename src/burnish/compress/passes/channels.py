"""Fewer channels of a network for images, as a pass, and its learning from the network as it came."""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from burnish.compress.channels import IMAGES_AT_ONCE, By, importance, shrunk_config, take
from burnish.compress.distill import divergence
from burnish.compress.passes.whole import NetworkMaterial, NetworkPass
from burnish.core.errors import BadSettings
from burnish.models.vision import VisionConfig, VisionModel

FLOAT = 4  # bytes
TRAINED_COPIES = 4  # of the weights: themselves, gradients, two moments


@dataclass(frozen=True, kw_only=True)
class ShrinkChannels(NetworkPass):
    """Leaves out a share of the channels inside of blocks. ``by``: what flows through them, or the loss's gradient."""

    share: float = 0.25
    by: By = "activations"

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for what is no share."""
        if not 0 < self.share < 1:
            raise BadSettings(f"share {self.share} of the channels", remedy="Use a share above 0 and below 1")
        if self.by not in ("activations", "gradient"):
            raise BadSettings(f"channels by {self.by!r}", remedy="Use activations or gradient")

    def shape(self, config: VisionConfig) -> VisionConfig:
        """The sizes that are left."""
        return shrunk_config(config, self.share)

    def apply(self, vision: VisionModel, material: NetworkMaterial) -> VisionModel:
        """Return the smaller network."""
        return take(vision, self.shape(vision.config), importance(vision, material.images, self.by))

    def memory_bytes(self, model: nn.Module, length: int = 0) -> int:
        """The smaller network is no larger than the one given; the way back keeps what images leave behind."""
        weights = sum(parameter.numel() for parameter in model.parameters())
        if self.by == "activations":
            return FLOAT * weights
        assert isinstance(model, VisionModel)
        return FLOAT * (weights + IMAGES_AT_ONCE * _floats_of_image(model.config))


@dataclass(frozen=True, kw_only=True)
class Relearn(NetworkPass):
    """Teaches what the passes before it made, by the distributions of the network as it came (Hinton et al. 2015)."""

    steps: int = 300
    batch: int = 64  # images of a step
    rate: float = 2e-3  # of AdamW at its highest; rises over a twentieth of the steps and falls as a cosine
    temperature: float = 2.0
    seed: int = 0
    learns: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for a value no run can use."""
        for name in ("steps", "batch", "rate", "temperature"):
            if not getattr(self, name) > 0:
                raise BadSettings(f"{name} {getattr(self, name)} is too small", remedy="Use a number above 0")

    def apply(self, vision: VisionModel, material: NetworkMaterial) -> VisionModel:
        """Return the network that has learned."""
        teacher, images, watch = material
        student = copy.deepcopy(vision).requires_grad_(True)
        optimizer = torch.optim.AdamW(student.parameters(), lr=self.rate, weight_decay=0.0)
        generator = torch.Generator().manual_seed(self.seed)
        with torch.enable_grad():
            for step in range(self.steps):
                chosen = images[torch.randperm(len(images), generator=generator)[: self.batch]]
                with torch.no_grad():
                    wanted = teacher(chosen)
                loss = divergence(student(chosen), wanted, temperature=self.temperature)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.param_groups[0]["lr"] = self.rate * self._share(step)
                optimizer.step()
                if watch is not None:
                    watch("loss", loss.item(), step + 1)
        return student.requires_grad_(False)

    def _share(self, step: int) -> float:
        """Of the highest rate, at a step."""
        warm = max(1, self.steps // 20)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))

    def memory_bytes(self, model: nn.Module, length: int = 0) -> int:
        """The student, and what every image of a step leaves behind on its way."""
        assert isinstance(model, VisionModel)
        weights = sum(parameter.numel() for parameter in model.parameters())
        return FLOAT * (TRAINED_COPIES * weights + self.batch * _floats_of_image(model.config))


def _floats_of_image(config: VisionConfig) -> int:
    """What a way through the network keeps of an image: patches and outputs of all convolutions."""
    places, kept, width = config.image_size**2 // config.stem_stride**2, 0, config.stem
    kept += places * (config.channels * config.stem_kernel**2 + 3 * config.stem)
    places //= 4 if config.stem_pool else 1
    for stage in config.stages:
        of_block = 9 * (width + stage.inner) + 4 * (stage.inner + stage.width)
        kept += places * of_block * stage.depth
        places, width = places // stage.stride**2, stage.width
    return kept
