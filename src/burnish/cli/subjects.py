"""What can be compressed: a decoder, an encoder, a network for images; each with its data and its passes."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import nn

from burnish.assemble import load_any
from burnish.compress.calibration import NO_FRAME, Calibration, CalibrationConfig, Frame, read_calibration
from burnish.compress.calibration_images import read_image_calibration
from burnish.compress.chain import Chain, decoder_chain, encoder_chain
from burnish.compress.distill import Watch
from burnish.compress.journal import Journal
from burnish.compress.memory import DataSize, image_size, text_size
from burnish.compress.module_chain import module_chain
from burnish.compress.recipe import Recipe
from burnish.compress.run import (
    Progress,
    apply,
    apply_to_chain,
    apply_to_network,
    check,
    check_chain,
    check_network,
)
from burnish.compress.runtimes import KINDS
from burnish.core.records import LatencyRecord, LayerRecord
from burnish.models.checkpoint import Loaded, with_decoder
from burnish.models.encoder_checkpoint import LoadedEncoder
from burnish.models.tokenizer import load_tokenizer
from burnish.models.vision_checkpoint import LoadedVision


class Made(NamedTuple):
    """A compressed model, what was done to it, and the times its formats were chosen by, if they were."""

    loaded: Loaded | LoadedEncoder | LoadedVision
    records: tuple[LayerRecord, ...]
    latency: LatencyRecord | None = None


class Subject(Protocol):
    """A model that a recipe is applied to."""

    has_perplexity: bool
    kind: str  # one of ``KINDS``

    @property
    def chain(self) -> Chain:
        """Its parts."""
        ...

    @property
    def model(self) -> nn.Module:
        """The module."""
        ...

    def check(self, recipe: Recipe, *, has_data: bool) -> None:
        """Raise ``BadSettings`` when the recipe cannot be applied; nothing is changed."""
        ...

    def read(self, path: Path, sampling: CalibrationConfig) -> Calibration:
        """Its calibration data. Raises ``NotFound`` or ``BadSettings``."""
        ...

    def data_size(self, data: Calibration) -> DataSize:
        """How much of it there is."""
        ...

    def apply(self, recipe: Recipe, data: Calibration | None, journal: Journal | None, progress: Progress) -> Made:
        """What the recipe makes of it; the model may be changed on the way."""
        ...


def open_subject(path: Path, watch: Watch | None = None) -> Subject:
    """The model of a path, dense weights mapped where they can be. Raises as ``load_any``.

    ``watch`` is told the losses of what is trained; encoders never are.
    """
    loaded = load_any(path, mapped=True)
    if isinstance(loaded, LoadedVision):
        return ImageSubject(loaded, watch)
    return DecoderSubject(path, loaded, watch) if isinstance(loaded, Loaded) else EncoderSubject(path, loaded)


class DecoderSubject:
    """A language model, calibrated by texts."""

    has_perplexity, kind = True, KINDS[0]

    def __init__(self, path: Path, loaded: Loaded, watch: Watch | None) -> None:
        self._path, self._loaded, self._watch = path, loaded, watch
        self.model, self.chain = loaded.decoder, decoder_chain(loaded.decoder)

    def check(self, recipe: Recipe, *, has_data: bool) -> None:
        """As ``Subject``."""
        check(self.model, recipe, has_data=has_data)

    def read(self, path: Path, sampling: CalibrationConfig) -> Calibration:
        """A row of tokens, cut into pieces."""
        shape = self.model.config
        return _read_text(path, self._path, sampling, _Bounds(shape.vocab_size, shape.max_positions), NO_FRAME)

    def data_size(self, data: Calibration) -> DataSize:
        """As ``Subject``."""
        return text_size(self.chain, data.tokens.numel(), data.record.length)

    def apply(self, recipe: Recipe, data: Calibration | None, journal: Journal | None, progress: Progress) -> Made:
        """As ``Subject``."""
        made = apply(self.model, recipe, data, journal=journal, progress=progress, watch=self._watch)
        if recipe.student is None:
            return Made(with_decoder(self._loaded, made.decoder), made.records, made.latency)
        return Made(recipe.student.as_loaded(made.decoder, self._loaded), made.records, made.latency)


class EncoderSubject:
    """An encoder, calibrated by whole texts of one length."""

    has_perplexity, kind = False, KINDS[1]

    def __init__(self, path: Path, loaded: LoadedEncoder) -> None:
        self._path, self._loaded = path, loaded
        self.model, self.chain = loaded.encoder, encoder_chain(loaded.encoder)

    def check(self, recipe: Recipe, *, has_data: bool) -> None:
        """As ``Subject``."""
        check_chain(self.chain, recipe, has_data=has_data)

    def read(self, path: Path, sampling: CalibrationConfig) -> Calibration:
        """Pieces of text between the marks that frame one."""
        shape, frame = self.model.config, load_tokenizer(self._path).frame()
        return _read_text(path, self._path, sampling, _Bounds(shape.vocab_size, shape.max_positions), frame)

    def data_size(self, data: Calibration) -> DataSize:
        """As ``Subject``."""
        return text_size(self.chain, data.tokens.numel(), data.record.length)

    def apply(self, recipe: Recipe, data: Calibration | None, journal: Journal | None, progress: Progress) -> Made:
        """As ``Subject``."""
        records = apply_to_chain(self.chain, recipe, data, journal=journal, progress=progress)
        return Made(self._loaded, records)


class ImageSubject:
    """A network for images, calibrated by images."""

    has_perplexity, kind = False, KINDS[2]

    def __init__(self, loaded: LoadedVision, watch: Watch | None) -> None:
        self._watch = watch
        self.model, config = loaded.vision, loaded.vision.config
        self._sample = torch.zeros(1, config.channels, config.image_size, config.image_size)
        self.chain = module_chain(loaded.vision, self._sample)

    def check(self, recipe: Recipe, *, has_data: bool) -> None:
        """As ``Subject``."""
        check_network(self.model, recipe, has_data=has_data)

    def read(self, path: Path, sampling: CalibrationConfig) -> Calibration:
        """Images, as the network takes them."""
        return read_image_calibration(path, self.model, sampling)

    def data_size(self, data: Calibration) -> DataSize:
        """As ``Subject``."""
        return image_size(self.chain, data.tokens)

    def apply(self, recipe: Recipe, data: Calibration | None, journal: Journal | None, progress: Progress) -> Made:
        """As ``Subject``."""
        vision = apply_to_network(self.model, recipe, data, journal=journal, watch=self._watch)
        chain = self.chain if vision is self.model else module_chain(vision, self._sample)
        if not recipe.walked:
            return Made(LoadedVision(vision), ())
        rest = replace(recipe, passes=recipe.walked)
        given = data if rest.needs.data else None
        return Made(LoadedVision(vision), apply_to_chain(chain, rest, given, journal=journal, progress=progress))


class _Bounds(NamedTuple):
    vocab_size: int
    max_positions: int


def _read_text(path: Path, parent: Path, sampling: CalibrationConfig, bounds: _Bounds, frame: Frame) -> Calibration:
    return read_calibration(path, load_tokenizer(parent), sampling, frame=frame, **bounds._asdict())
