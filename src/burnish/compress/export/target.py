"""What an export target is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from burnish.core.errors import BadSettings, nearest

Progress = Callable[[int, int], None]
"""(tensors written, tensors in all)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What an export holds."""

    types: Mapping[str, int]  # word of the target for a stored type -> number of tensors
    num_rounded: int  # tensors that are not exactly the model's
    worst_relative_error: float  # of one of those: norm of the error over norm of the tensor


class Asked(NamedTuple):
    """What a user wants of a target; each word is one of the target's own, the first of them by default."""

    type: str
    embeddings: str


class Prepared(NamedTuple):
    """An export that can be written: whatever could be refused was."""

    write: Callable[[Path, Progress], Written]  # to a path that is free


class Target(NamedTuple):
    """A line of the table."""

    about: str
    types: tuple[str, ...]
    embeddings: tuple[str, ...]
    prepare: Callable[[Path, Asked], Prepared]  # reads the model and raises a named error, writes nothing

    def asked(self, name: str, type: str | None, embeddings: str | None) -> Asked:
        """The choice with its defaults filled in. Raises ``BadSettings`` for a word the target does not know."""
        chosen = Asked(type or self.types[0], embeddings or self.embeddings[0])
        for option, word, known in (("type", chosen.type, self.types), ("embeddings", chosen[1], self.embeddings)):
            if word not in known:
                raise BadSettings(f"--to {name} has no --{option} {word!r}", remedy=nearest(word, list(known)))
        return chosen
