"""What passes that set weights to zero have in common. Zeros stay zeros in whatever rounds the weights afterwards.

Shapes: O outputs, I inputs.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from burnish.compress.chain import HEAD, Part
from burnish.compress.fold import STORED
from burnish.compress.passes.base import Pass
from burnish.compress.passes.choice import change_record, dense_weight, refuse_packed
from burnish.compress.passes.sparsity import Sparsity, parse_sparsity
from burnish.compress.statistics import Flow, Inputs, observe
from burnish.core.errors import BadSettings
from burnish.core.records import LayerRecord
from burnish.models.layers.linear import Linear

ROWS = 256


@dataclass(frozen=True)
class PruningPass(Pass):
    """Sets weights to zero; the layers stay dense. The output head is left alone: it chooses the words.

    ``sparsity``: a share, or a pattern as "2:4". ``spared``: layers that are left alone too, by name.
    """

    sparsity: float | str = 0.5
    spared: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Raise ``BadSettings`` for what is no sparsity."""
        parse_sparsity(self.sparsity)

    def check(self, name: str, layer: Linear) -> None:
        """Raise ``BadSettings`` for a layer that is not dense, or whose inputs hold no whole number of patterns."""
        refuse_packed(name, layer)
        wanted = parse_sparsity(self.sparsity)
        if name not in self._spared and wanted.is_pattern and layer.in_features % wanted.of:
            raise BadSettings(
                f"layer {name} has {layer.in_features} inputs, no whole number of {self.sparsity}", remedy="Use a share"
            )

    def apply(self, part: Part, flow: Flow | None) -> Iterator[LayerRecord]:
        """Set weights to zero."""
        inputs = self.observe(part, flow) if flow is not None else {}
        for name, layer in part.layers.items():
            if name not in self._spared:
                weight, seen = dense_weight(name, layer), inputs.get(name)
                pruned = self.prune(weight, seen, parse_sparsity(self.sparsity)).to(STORED)
                rows = None if seen is None else seen.rows
                layer.weight = nn.Parameter(pruned, requires_grad=False)
                yield change_record(name, layer, weight, pruned.float(), rows=rows)

    def observe(self, part: Part, flow: Flow) -> dict[str, Inputs]:
        """What the pass wants to know of the data."""
        return observe(part, flow, second_moment=self.needs.moments, num_rows=ROWS)

    @property
    def _spared(self) -> frozenset[str]:
        return self.spared | {HEAD}

    @abstractmethod
    def prune(self, weight: Tensor, inputs: Inputs | None, sparsity: Sparsity) -> Tensor:
        """The weight (O, I) with its zeros. ``inputs`` are there if the pass needs data."""
