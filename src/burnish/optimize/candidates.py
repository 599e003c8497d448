"""What is tried: recipes for the weights, then settings of the engine around the best of them."""

from dataclasses import dataclass, replace

from burnish.compress.recipes import find_recipe
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
    """A recipe and the settings it is served with."""

    recipe: str | None  # None: the model itself
    keys: KeyKind = "f16"
    prefill_share: int = EngineConfig().prefill_share
    threads: int | None = None  # None: all cores

    @property
    def name(self) -> str:
        """As reports write it: what differs from the defaults is said."""
        usual = EngineConfig()
        said = [f"keys {self.keys}"] if self.keys != usual.keys else []
        said += [f"prefill share {self.prefill_share}"] if self.prefill_share != usual.prefill_share else []
        said += [f"threads {self.threads}"] if self.threads is not None else []
        return ", ".join([self.recipe or OWN, *said])

    @property
    def needs_data(self) -> bool:
        """Whether the weights are made with calibration data."""
        return self.recipe is not None and find_recipe(self.recipe).needs.data

    def config(self, base: EngineConfig) -> EngineConfig:
        """The engine it is served by."""
        threads = self.threads if self.threads is not None else base.threads
        return replace(base, keys=self.keys, prefill_share=self.prefill_share, threads=threads)


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
