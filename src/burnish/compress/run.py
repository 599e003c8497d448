"""A recipe applied to a decoder, from the first pass to the last."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from burnish.compress.calibration import Calibration
from burnish.compress.chain import Chain, decoder_chain
from burnish.compress.distill import Watch
from burnish.compress.journal import Journal, Settled
from burnish.compress.latency import Product, measure_costs, need_native
from burnish.compress.mixed import Group, choose, choose_within, groups_of, measure, measure_together
from burnish.compress.passes.base import IntegerRounding
from burnish.compress.passes.choice import EIGHT_BITS
from burnish.compress.passes.whole import Changed, DecoderPass, Material, NetworkMaterial, NetworkPass, WholePass
from burnish.compress.recipe import Recipe, pass_name
from burnish.compress.repair import repair
from burnish.compress.walk import check_data, compress
from burnish.core.errors import BadSettings
from burnish.core.records import LayerRecord
from burnish.models.decoder import Decoder
from burnish.models.layers.linear import Linear
from burnish.models.vision import VisionModel
from burnish.models.vision_checkpoint import matrices

Progress = Callable[[int, int], None]
"""(steps or layers done, in all)"""


def apply(
    decoder: Decoder,
    recipe: Recipe,
    calibration: Calibration | None = None,
    *,
    journal: Journal | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Changed:
    """What the recipe makes of a decoder, which may be changed on the way.

    With a journal, what it holds of an earlier life of this run is not done again. ``watch`` is told the losses of
    what trains, under the name of its pass. Raises ``BadSettings`` before
    anything is changed when a layer does not fit, or data is needed and not given.
    """
    check(decoder, recipe, has_data=calibration is not None)
    changed = Changed(decoder)
    for number in range(len(recipe.whole)):
        step = recipe.for_layers(list(decoder_chain(changed.decoder).layers)).whole[number]
        assert isinstance(step, DecoderPass)
        state = None if journal is None else journal.training(number)
        done = step.apply(changed.decoder, Material(decoder, calibration, state, progress, _named(watch, step)))
        changed = Changed(done.decoder, changed.records + done.records)
    if not recipe.walked:
        return changed
    chain = decoder_chain(changed.decoder)
    rest = replace(recipe, passes=recipe.walked).for_layers(list(chain.layers))
    latency = None
    if rest.budget is not None and calibration is not None:
        settle = partial(_settled, rest, changed.decoder, calibration, progress)
        settled = settle() if journal is None else journal.settled(settle)
        rest, latency = rest.settled(settled.formats), settled.latency
    data = calibration if rest.needs.data else None
    records = compress(chain, rest, data, journal=journal, progress=progress)
    return Changed(changed.decoder, changed.records + tuple(records), latency)


def _named(watch: Watch | None, step: WholePass) -> Watch | None:
    if watch is None:
        return None
    return lambda what, value, at: watch(f"{pass_name(step)}/{what}", value, at)


def apply_to_chain(
    chain: Chain,
    recipe: Recipe,
    calibration: Calibration | None = None,
    *,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> tuple[LayerRecord, ...]:
    """Compress an encoder, or a network for images, where it lies; only passes that go layer by layer can be applied.

    As ``apply``.
    """
    check_chain(chain, recipe, has_data=calibration is not None)
    recipe = recipe.for_layers(list(chain.layers))
    data = calibration if recipe.needs.data else None
    return tuple(compress(chain, recipe, data, journal=journal, progress=progress))


def check_chain(chain: Chain, recipe: Recipe, *, has_data: bool) -> None:
    """Raise ``BadSettings`` when the recipe cannot be applied layer by layer; nothing is changed."""
    check_data(recipe, has_data=has_data)
    _refuse_whole(recipe, recipe.whole)
    for step in recipe.for_layers(list(chain.layers)).passes:
        for name, layer in chain.layers.items():
            step.check(name, layer)


def apply_to_network(
    vision: VisionModel,
    recipe: Recipe,
    data: Calibration | None,
    *,
    journal: Journal | None = None,
    watch: Watch | None = None,
) -> VisionModel:
    """What the passes over the whole network make of it, which came as their teacher.

    With a journal, what they made in an earlier life of this run is taken from there. ``watch`` as for ``apply``.
    """
    made, config = vision, vision.config
    for step in recipe.whole:
        assert isinstance(step, NetworkPass)
        config = step.shape(config)
    if not recipe.whole:
        return vision
    if journal is not None and (state := journal.network()) is not None:
        made = VisionModel(config).eval().requires_grad_(False)
        made.load_state_dict(state)
        return made
    for step in recipe.whole:
        assert isinstance(step, NetworkPass)
        assert data is not None
        made = step.apply(made, NetworkMaterial(vision, data.tokens, _named(watch, step)))
    if journal is not None:
        journal.keep_network(made)
    return made


def check_network(vision: VisionModel, recipe: Recipe, *, has_data: bool) -> None:
    """Raise ``BadSettings`` when the recipe cannot be applied to a network for images; nothing is changed."""
    check_data(recipe, has_data=has_data)
    _refuse_whole(recipe, [step for step in recipe.whole if not isinstance(step, NetworkPass)])
    config, layers = vision.config, matrices(vision)
    for number in range(len(recipe.passes)):
        step = recipe.for_layers(list(layers)).passes[number]
        for name, layer in layers.items():
            step.check(name, layer)
        if isinstance(step, NetworkPass) and (shape := step.shape(config)) != config:
            config = shape
            with torch.device("meta"):
                layers = matrices(VisionModel(config))


def _refuse_whole(recipe: Recipe, strange: Sequence[WholePass]) -> None:
    """Raise ``BadSettings`` for a pass over whole models of another kind, or formats chosen for whole decoders."""
    names = [pass_name(step) for step in strange]
    names += [] if recipe.budget is None else [recipe.budget]
    if names:
        raise BadSettings(f"recipe {recipe.name!r}: {names[0]} knows other models only", remedy="Leave it out")


def check(decoder: Decoder, recipe: Recipe, *, has_data: bool) -> None:
    """Raise ``BadSettings`` when the recipe cannot be applied; nothing is changed."""
    check_data(recipe, has_data=has_data)
    if recipe.is_static:
        raise BadSettings(
            f"recipe {recipe.name!r}: a decoder's inputs are rounded row by row when it runs, not beforehand",
            remedy="Use int8-w8a8-smoothquant",
        )
    strange = [step for step in recipe.whole if not isinstance(step, DecoderPass)]
    if strange:
        _refuse_whole(recipe, strange)
    if recipe.latency_share is not None:
        need_native(recipe.name)
    for number in range(len(recipe.passes)):
        layers = decoder_chain(decoder).layers
        step = recipe.for_layers(list(layers)).passes[number]
        for name, layer in layers.items():
            step.check(name, layer)
        if isinstance(step, DecoderPass) and (shape := step.shape(decoder.config)) != decoder.config:
            with torch.device("meta"):
                decoder = Decoder(shape)


def _settled(recipe: Recipe, decoder: Decoder, calibration: Calibration, progress: Progress | None) -> Settled:
    """Each layer's format as its measured sensitivity and the budget say, measured again."""
    if recipe.latency_share is not None:
        return _settled_by_time(recipe, decoder, calibration, progress)
    assert isinstance(recipe.rounding, IntegerRounding)
    assert recipe.average_bits is not None
    sensitivities = measure(decoder, calibration, recipe.rounding.choice, progress=progress)
    num_weights = sum(map(_num_weights, decoder_chain(decoder).layers.values()))
    chosen = choose(sensitivities, recipe.average_bits, num_weights)
    together = partial(measure_together, decoder, calibration, sensitivities)
    budget = int(recipe.average_bits * num_weights / 8)
    return Settled(formats=repair(sensitivities, chosen, budget, together).formats)


def _settled_by_time(recipe: Recipe, decoder: Decoder, calibration: Calibration, progress: Progress | None) -> Settled:
    """The same within a share of the time that int8 takes. Raises ``BadSettings`` when no format is fast enough."""
    assert isinstance(recipe.rounding, IntegerRounding)
    assert recipe.latency_share is not None
    chain, choice = decoder_chain(decoder), recipe.rounding.choice
    groups = [group for part in chain.parts for group in groups_of(part, choice)]
    wanted = [(_product(group), one) for group in groups for one in (*group.formats, EIGHT_BITS)]
    costs = measure_costs(wanted, sum(map(_num_weights, chain.layers.values())), need_native(recipe.name))
    reference = sum(costs.of(_product(group), EIGHT_BITS) for group in groups)
    least = sum(min(costs.of(_product(group), one) for one in group.formats) for group in groups)
    budget = int(recipe.latency_share * reference)
    if least > budget:
        raise BadSettings(
            f"recipe {recipe.name!r}: latency_share = {recipe.latency_share:g} cannot be reached, the fastest formats "
            f"take {least / reference:.3f} of int8 here",
            remedy="Allow more time",
        )
    sensitivities = measure(
        decoder, calibration, choice, cost=lambda group, one: costs.of(_product(group), one), progress=progress
    )
    together = partial(measure_together, decoder, calibration, sensitivities)
    formats = repair(sensitivities, choose_within(sensitivities, budget), budget, together).formats
    chosen = [(_product(group), formats[next(iter(group.layers))]) for group in groups]
    return Settled(formats=formats, latency=costs.record(recipe.latency_share, chosen))


def _product(group: Group) -> Product:
    """Layers of a group are stored alike, so that they are one product."""
    layers = list(group.layers.values())
    return Product(sum(layer.out_features for layer in layers), layers[0].in_features)


def _num_weights(layer: Linear) -> int:
    return layer.in_features * layer.out_features
