"""Architecture search: smaller shapes of a decoder, scored cheaply, the best of them recovered by distillation.

A shape's time is predicted by the weights it multiplies, which decoding is bound by. What it would lose after learning
nobody can tell beforehand; that those which lose least before it also lose least after it is what the search rests on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from burnish.compress.shrink import Shrinkage, shrunk_config
from burnish.core.errors import BadSettings
from burnish.measure.account import layer_shapes
from burnish.models.decoder import DecoderConfig
from burnish.optimize.candidates import Candidate

SHARES = (0.125, 0.25, 0.5)  # of a kind that go
SIZES = ("inner", "heads", "hidden", "layers")
TOGETHER = 2  # kinds that shrink at once, at most
FORMATS = '["int4-g128", "int4-g64", "int4-g32", "int8"]'


@dataclass(frozen=True, kw_only=True)
class Shape(Shrinkage):
    """Shares of each kind that go."""

    @property
    def name(self) -> str:
        """As candidates are called."""
        cut = [f"{name}{100 * share:g}" for name in SIZES if (share := getattr(self, name))]
        return "-".join(["shrunk", *cut])

    def plain(self) -> Candidate:
        """The shape alone, which shows what is lost before anything learns."""
        return Candidate(recipe=self.name, text=self._pass())

    def taught(self) -> Candidate:
        """The shape after it learned from the model, its weights in four bits."""
        text = f'{self._pass()}\n[[pass]]\nname = "distill"\n\n[[pass]]\nname = "gptq"\nformats = {FORMATS}\n'
        return Candidate(recipe=f"{self.name}-distill-int4", text=text)

    def _pass(self) -> str:
        shares = [f"{name} = {share}" for name in SIZES if (share := getattr(self, name))]
        return "\n".join(["[[pass]]", 'name = "shrink"', *shares, ""])


class Sized(NamedTuple):
    """A shape and the share of the model's weights that it multiplies."""

    shape: Shape
    share: float


def shapes(config: DecoderConfig) -> list[Sized]:
    """Every shape that differs from the others, the largest first; none of more than half of the weights less."""
    found: dict[DecoderConfig, Sized] = {}
    kinds = [chosen for count in range(1, TOGETHER + 1) for chosen in combinations(SIZES, count)]
    for chosen in kinds:
        for share in SHARES:
            shape = Shape(**dict.fromkeys(chosen, share))
            smaller = _smaller(config, shape)
            if smaller is None:
                continue
            sized = Sized(shape, num_weights(smaller) / num_weights(config))
            if sized.share >= 1 - max(SHARES):
                found.setdefault(smaller, sized)
    return sorted(found.values(), key=lambda sized: -sized.share)


def _smaller(config: DecoderConfig, shape: Shape) -> DecoderConfig | None:
    """What is left; None where a share takes nothing of its kind."""
    try:
        return shrunk_config(config, shape)
    except BadSettings:
        return None


def num_weights(config: DecoderConfig) -> int:
    """Weights that every token is multiplied with, the head's included."""
    block = sum(shape.outputs * shape.inputs for shape in layer_shapes(config))
    return config.num_layers * block + config.vocab_size * config.hidden_size


def promising(known: Sequence[Sized], at_most: float, count: int) -> list[Shape]:
    """Shapes of at most that share of the weights, the largest of each kind of cut first."""
    fitting = [sized for sized in known if sized.share <= at_most]
    first = dict[tuple[str, ...], Sized]()
    for sized in fitting:
        cut = tuple(name for name in SIZES if getattr(sized.shape, name))
        first.setdefault(cut, sized)
    return [sized.shape for sized in sorted(first.values(), key=lambda sized: -sized.share)[:count]]
