"""The images that flow through a network while it is compressed.

Shapes: S images, C channels, H x W places.
"""

from pathlib import Path

import torch

from burnish.compress.calibration import Calibration, CalibrationConfig
from burnish.core.errors import BadSettings
from burnish.core.images import read_images
from burnish.core.records import CalibrationRecord
from burnish.models.vision import VisionModel

MIN_IMAGES = 32  # fewer say little about what lies at every place


def read_image_calibration(path: Path, vision: VisionModel, config: CalibrationConfig) -> Calibration:
    """Images as the network takes them, at most ``config.samples``, drawn by the seed and kept in order.

    Raises as ``read_images``, and ``BadSettings`` for too few, of other channels than the network's, or a length.
    """
    if config.samples < MIN_IMAGES:
        raise BadSettings(f"{config.samples} images are too few to calibrate with", remedy=f"Use {MIN_IMAGES} or more")
    if config.length != CalibrationConfig().length:
        raise BadSettings(f"length {config.length} says nothing of images", remedy="Leave it out")
    images = read_images(path)
    if images.pixels.shape[1] != vision.config.channels:
        raise BadSettings(
            f"calibration {str(path)!r} has {images.pixels.shape[1]} channels, the network takes "
            f"{vision.config.channels}",
            remedy="Give images like those it was trained on",
        )
    if len(images.pixels) < MIN_IMAGES:
        raise BadSettings(
            f"calibration {str(path)!r} holds {len(images.pixels)} images, too few",
            remedy=f"Give {MIN_IMAGES} or more; {config.samples} are used when there are enough",
        )
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.randperm(len(images.pixels), generator=generator)[: config.samples].sort().values
    pixels = torch.from_numpy(images.pixels[chosen.numpy()])
    record = CalibrationRecord(sha256=images.sha256, samples=len(chosen), length=1, seed=config.seed)
    return Calibration(tokens=vision.prepare(pixels), text=torch.empty(0, dtype=torch.int64), record=record)
