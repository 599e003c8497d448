"""A student that is made from a config.json, its weights random: what a teacher's answers are distilled into."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.core.errors import BadSettings
from burnish.models.checkpoint import Loaded, empty_decoder, main_format, random_of, with_decoder
from burnish.models.decoder import Decoder, DecoderConfig
from burnish.models.families import find_family, read_config
from burnish.models.raw_config import read_json
from burnish.models.tensor_placing import CONFIG

_OF_VOCABULARY = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Student:
    """A decoder that is not made yet."""

    words: Mapping[str, Any]  # of its config.json
    config: DecoderConfig

    def refuse_unfit(self, teacher: DecoderConfig) -> None:
        """Raise ``BadSettings`` for a student that could not read what its teacher reads."""
        ours = self.config
        if ours.vocab_size != teacher.vocab_size:
            raise BadSettings(
                f"the student of distill has a vocabulary of {ours.vocab_size} tokens, its teacher of "
                f"{teacher.vocab_size}",
                remedy="Write the teacher's into the student's config.json",
            )
        if ours.max_positions < teacher.max_positions:
            raise BadSettings(
                f"the student of distill sees {ours.max_positions} tokens, its teacher {teacher.max_positions}",
                remedy="Let the student's config.json allow as many",
            )

    def make(self, seed: int) -> Decoder:
        """The decoder, as it is born."""
        return random_of(self.words, seed=seed).decoder

    def as_loaded(self, decoder: Decoder, teacher: Loaded) -> Loaded:
        """A decoder made of this one as a model of the student's family, with its teacher's special tokens."""
        kept = {key: teacher.raw_config[key] for key in _OF_VOCABULARY if key in teacher.raw_config}
        words = {**self.words, **kept}
        born = empty_decoder(words)
        return with_decoder(Loaded(born, find_family(words).model_type, words, main_format(born), 0), decoder)


def read_student(path: Path) -> Student:
    """The student a config.json, or the folder it lies in, describes.

    Raises ``NotFound``, ``UnknownFamily`` or ``BadCheckpoint``.
    """
    return student_of(read_json(path / CONFIG if path.is_dir() else path))


def student_of(words: Mapping[str, Any]) -> Student:
    """The student that the content of a config.json describes. Raises ``UnknownFamily`` or ``BadCheckpoint``."""
    born = {key: value for key, value in words.items() if key != "quantization_config"}  # it is born dense
    return Student(born, read_config(born))
