"""What is tried: recipes for the weights, then settings of the engine around the best of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from burnish.core.types import KeyKind
from burnish.engine.config import EngineConfig

# in this order: what is made in seconds first, then by what is usually lost
FREE = ("int8", "int4-g32", "int4-g128")
CALIBRATED = (
    *("int4-gptq-g32", "int4-gptq-g128", "int4-awq-gptq-g128", "mixed-6bit-gptq", "mixed-5bit-gptq", "int3-gptq-g128"),
    *("shrink-25-distill-int4", "int4-qat-g128"),
)
NUM_LEARNED = 2  # of them, the last: they take many minutes
OWN = "as it is"


@dataclass(frozen=True, kw_only=True, slots=True)
class Drafting:
    """Who may write drafts."""

    lookup: bool = False  # what the text said before
    model: str | None = None  # a smaller one

    @property
    def name(self) -> str:
        """As reports write it; empty: nobody."""
        return " and ".join((["lookup"] if self.lookup else []) + ([Path(self.model).name] if self.model else []))


NO_DRAFTS = Drafting()


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A recipe and the settings it is served with; None: as the engine is configured anyway."""

    recipe: str | None  # None: the model itself
    text: str | None = None  # of a recipe in TOML that the search wrote; None: a named one
    keys: KeyKind | None = None
    prefill_share: int | None = None
    max_running: int | None = None
    threads: int | None = None
    drafting: Drafting | None = None

    @property
    def name(self) -> str:
        """As reports write it."""
        said = {
            "keys": self.keys,
            "prefill share": self.prefill_share,
            "max running": self.max_running,
            "threads": self.threads,
            "drafts by": None if self.drafting is None else self.drafting.name,
        }
        return ", ".join(
            [self.recipe or OWN, *(f"{name} {value}" for name, value in said.items() if value is not None)]
        )

    def config(self, base: EngineConfig) -> EngineConfig:
        """The engine it is served by."""
        return replace(
            base,
            keys=base.keys if self.keys is None else self.keys,
            prefill_share=base.prefill_share if self.prefill_share is None else self.prefill_share,
            max_running=base.max_running if self.max_running is None else self.max_running,
            threads=base.threads if self.threads is None else self.threads,
            lookup=base.lookup if self.drafting is None else self.drafting.lookup,
            draft=base.draft if self.drafting is None else self.drafting.model,
        )


def is_own(name: str) -> bool:
    """Whether a candidate of that name has the model's own weights."""
    return name.partition(",")[0] == OWN


def weights(*, has_data: bool, is_compressed: bool) -> list[Candidate]:
    """Recipes in the order in which they are tried; a model that is compressed already is only served otherwise."""
    names = () if is_compressed else (*FREE, *(CALIBRATED if has_data else ()))
    return [Candidate(recipe=name) for name in names]


def fastest_first(candidates: Sequence[Candidate], predicted: Mapping[str, float]) -> list[Candidate]:
    """What needs no data before what does, what learns last; among them what is predicted to be faster first."""
    groups = [FREE, CALIBRATED[:-NUM_LEARNED], CALIBRATED[-NUM_LEARNED:]]

    def rank(one: Candidate) -> tuple[int, float]:
        group = next((number for number, names in enumerate(groups) if one.recipe in names), len(groups))
        return group, predicted.get(one.recipe or "", 1.0)

    return sorted(candidates, key=rank)


def settings(base: Candidate, *, cores: int, concurrency: int, drafting: Drafting = NO_DRAFTS) -> list[Candidate]:
    """Other settings for the same weights: one thing changed each."""
    found = [replace(base, keys="int8")]
    found += [replace(base, drafting=Drafting(lookup=True))] if drafting.lookup else []
    found += [replace(base, drafting=Drafting(model=drafting.model))] if drafting.model is not None else []
    if concurrency > 1:  # alone, nothing decodes while a prompt is read
        found += [replace(base, prefill_share=share) for share in (64, 512)]
        found += [replace(base, max_running=count) for count in (concurrency, concurrency // 2)]
    found += [replace(base, threads=count) for count in {1, cores // 2} - {0, cores}]
    return found


# what loses at least as much as another: fewer bits, wider groups, chosen alike
_HARDER = {
    "int4-g128": "int4-g32",
    "int4-gptq-g128": "int4-gptq-g32",
    "int3-gptq-g128": "int4-gptq-g128",
    "mixed-5bit-gptq": "mixed-6bit-gptq",
}


def easier(candidate: Candidate) -> list[str]:
    """Recipes that lose no more than a candidate's, the nearest first."""
    found, name = list[str](), candidate.recipe
    while name is not None and (name := _HARDER.get(name)) is not None:
        found.append(name)
    return found
