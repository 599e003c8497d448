"""What a compression will take of memory, known before it starts.

Shapes: S samples, T tokens of a sample, E hidden width, I inputs, O outputs of a layer.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from burnish.compress.chain import Chain, chain_of
from burnish.compress.fold import STORED
from burnish.compress.mixed import SAMPLES
from burnish.compress.passes.base import IntegerRounding
from burnish.compress.recipe import Recipe
from burnish.compress.statistics import NUMBERS_AT_ONCE, rows_per_sample
from burnish.core.errors import BadSettings
from burnish.kernels.timing import WORKING_BYTES
from burnish.models.decoder import Decoder
from burnish.models.formats.base import stored_bytes
from burnish.models.formats.dense import DENSE, Dense
from burnish.models.layers.linear import Linear

FLOAT = 4  # bytes
WEIGHT_COPIES = 5  # of the largest layer, at most, in float32, while its codes are searched
LEARNED_COPIES = 12  # of a part's weights: shifts, their best, gradients, and what the way back needs
MOMENT_COPIES = 5  # of the largest moment, while it is damped, factored and inverted
LIBRARIES = 2**26  # that they take when they are first used
REMEDY = "Allow more with --memory, or use fewer --samples"
LOGIT_COPIES = 8  # of probes: of both models, as distributions, and on the way to their divergence
BATCHES = 6  # tensors as large as what the widest layer gives for a batch, at once


class MemoryPlan(NamedTuple):
    """Bytes by purpose. Weights that stay in mapped files are not counted: the system takes their pages back."""

    tables: int  # embeddings and norms
    finished: int  # weights as they are stored in the end
    data: int  # calibration data before and behind a part
    statistics: int  # of the inputs of a part
    working: int  # one layer, one batch
    training: int  # of a pass over the whole model
    proof: int  # the stored model, opened beside the one in memory
    libraries: int = LIBRARIES
    probes: int = 0  # of what formats cost in quality
    timing: int = 0  # weights that products are measured on

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class DataSize(NamedTuple):
    """How much calibration data there is."""

    num_rows: int  # that a layer sees at most: S * T
    num_floats: int  # in front of a part, at most
    length: int = 0  # T, of texts


def text_size(chain: Chain, num_tokens: int, length: int = 0) -> DataSize:
    """Of texts in samples of ``length``, whose every token is a row of the stream between parts."""
    return DataSize(num_tokens, num_tokens * next(iter(chain.parts[0].layers.values())).in_features, length)


@torch.no_grad()
def image_size(chain: Chain, images: Tensor) -> DataSize:
    """Of images (S, C, H, W), as their first shows what flows before every layer."""
    chain.begin(images[:1])
    assert chain.door is not None
    doors = [chain.door(number) for number in range(len(chain.parts))]
    rows = [rows_per_sample(door) for door in doors]
    return DataSize(
        len(images) * max(rows), images.numel() + 3 * len(images) * max(door.numel() for door in doors) // 2
    )


def plan_memory(chain: Chain, model: nn.Module, recipe: Recipe, size: DataSize) -> MemoryPlan:
    """What ``compress`` will hold at most, for a model whose dense weights are mapped."""
    plan = _plan(chain, model, recipe, size)
    if isinstance(model, Decoder) and (config := recipe.shape(model.config)) != model.config:
        with torch.device("meta"):
            made = Decoder(config)
        plan = MemoryPlan(*map(max, plan, _plan(chain_of(made), made, recipe, size)))
    return plan


def _plan(chain: Chain, model: nn.Module, recipe: Recipe, size: DataSize) -> MemoryPlan:
    """The plan for a model of the sizes given, whatever the recipe makes of them."""
    layers, num_tokens = chain.layers, size.num_rows
    owned = {id(layer.weight) for layer in layers.values() if "weight" in layer.packed()}
    tables = sum(FLOAT * p.numel() for p in model.parameters() if id(p) not in owned)
    finished = sum(_finished_bytes(recipe, name, layer) for name, layer in layers.items())
    data = FLOAT * size.num_floats * (4 if recipe.needs.original else 2) if recipe.needs.data else 0
    moments = [
        [chain.layers[shared.layers[0]].in_features ** 2 * FLOAT for shared in part.inputs] for part in chain.parts
    ]
    statistics = max(map(sum, moments)) + MOMENT_COPIES * max(map(max, moments)) if recipe.needs.moments else 0
    largest = max(map(_num_weights, layers.values()))
    widest = max(max(layer.in_features, layer.out_features) for layer in layers.values())
    batch = BATCHES * min(NUMBERS_AT_ONCE, num_tokens * widest) if recipe.needs.data else 0
    working = WEIGHT_COPIES * largest + batch
    if recipe.needs.original:  # all layers of a part learn together
        working += LEARNED_COPIES * max(sum(map(_num_weights, part.layers.values())) for part in chain.parts)
    return MemoryPlan(
        tables,
        finished,
        data,
        statistics,
        FLOAT * working,
        _training(model, recipe, size.length),
        proof=tables + finished,
        probes=_probes(chain, model, recipe, size),
        timing=_timing(chain, recipe),
    )


def _training(model: nn.Module, recipe: Recipe, length: int) -> int:
    """Of the pass over the whole model that takes most, beside the model that the one before it made."""
    made = FLOAT * sum(parameter.numel() for parameter in model.parameters())
    taken = (step.memory_bytes(model, length) + made * (number > 0) for number, step in enumerate(recipe.whole))
    return max(taken, default=0)


def _probes(chain: Chain, model: nn.Module, recipe: Recipe, size: DataSize) -> int:
    """Logits of the samples that losses are measured on, and every weight rounded, at once."""
    if recipe.budget is None or not isinstance(model, Decoder):
        return 0
    num_rows = min(size.num_rows, SAMPLES * size.length)
    weights = sum(map(_num_weights, chain.layers.values()))
    return FLOAT * (LOGIT_COPIES * num_rows * model.config.vocab_size + weights)


def _timing(chain: Chain, recipe: Recipe) -> int:
    """Copies of a product's weights in all formats at once, of which int8 is one; what stays dense takes two bytes."""
    if recipe.latency_share is None or not isinstance(recipe.rounding, IntegerRounding):
        return 0
    groups = (sum(_num_weights(part.layers[name]) for name in s.layers) for part in chain.parts for s in part.inputs)
    largest = STORED.itemsize * max(groups)
    return (len(recipe.rounding.choice.formats) + 2) * (WORKING_BYTES + largest)


def _finished_bytes(recipe: Recipe, name: str, layer: Linear) -> int:
    """What a layer takes when it is done: packed, or dense as an artifact stores it."""
    rounding = recipe.rounding
    is_left = isinstance(rounding, IntegerRounding) and name in rounding.choice.dense
    target = DENSE if rounding is None or is_left else rounding.target(name, layer)
    if isinstance(target, Dense):
        return STORED.itemsize * _num_weights(layer)
    return stored_bytes(target, layer.out_features, layer.in_features)


def _num_weights(layer: Linear) -> int:
    return layer.in_features * layer.out_features


def refuse_too_much(plan: MemoryPlan, held_bytes: int, limit_bytes: int, *, remedy: str = REMEDY) -> None:
    """Raise ``BadSettings`` when what is held already and what the plan takes exceed the limit."""
    if held_bytes + plan.total > limit_bytes:
        parts = ", ".join(f"{name} {value / 2**20:,.0f}" for name, value in plan._asdict().items() if value)
        raise BadSettings(
            f"this takes {(held_bytes + plan.total) / 2**20:,.0f} MiB of memory ({parts}, the program "
            f"{held_bytes / 2**20:,.0f}), more than the {limit_bytes / 2**20:,.0f} allowed",
            remedy=remedy,
        )
