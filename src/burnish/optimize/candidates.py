"""What is tried: recipes for the weights, then settings of the engine around the best of them."""

from dataclasses import dataclass, replace

from burnish.core.types import KeyKind
from burnish.engine.config import EngineConfig

# in this order: what is made in seconds first, then by what is usually lost
FREE = ("int8", "int4-g32", "int4-g128")
CALIBRATED = (
    *("int4-gptq-g128", "int4-gptq-g32", "int4-awq-gptq-g128", "mixed-5bit-gptq", "mixed-6bit-gptq", "int3-gptq-g128"),
    *("shrink-25-distill-int4", "int4-qat-g128"),
)
OWN = "as it is"


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A recipe and the settings it is served with; None: as the engine is configured anyway."""

    recipe: str | None  # None: the model itself
    text: str | None = None  # of a recipe in TOML that the search wrote; None: a named one
    keys: KeyKind | None = None
    prefill_share: int | None = None
    threads: int | None = None

    @property
    def name(self) -> str:
        """As reports write it."""
        said = {"keys": self.keys, "prefill share": self.prefill_share, "threads": self.threads}
        return ", ".join(
            [self.recipe or OWN, *(f"{name} {value}" for name, value in said.items() if value is not None)]
        )

    def config(self, base: EngineConfig) -> EngineConfig:
        """The engine it is served by."""
        return replace(
            base,
            keys=base.keys if self.keys is None else self.keys,
            prefill_share=base.prefill_share if self.prefill_share is None else self.prefill_share,
            threads=base.threads if self.threads is None else self.threads,
        )


def is_own(name: str) -> bool:
    """Whether a candidate of that name has the model's own weights."""
    return name.partition(",")[0] == OWN


def weights(*, has_data: bool, is_compressed: bool) -> list[Candidate]:
    """Recipes in the order in which they are tried; a model that is compressed already is only served otherwise."""
    names = () if is_compressed else (*FREE, *(CALIBRATED if has_data else ()))
    return [Candidate(recipe=name) for name in names]


def settings(base: Candidate, *, cores: int, concurrency: int) -> list[Candidate]:
    """Other settings for the same weights: one thing changed each."""
    found = [replace(base, keys="int8")]
    if concurrency > 1:  # alone, nothing decodes while a prompt is read
        found += [replace(base, prefill_share=share) for share in (64, 512)]
    found += [replace(base, threads=count) for count in {1, cores // 2} - {0, cores}]
    return found
