"""Mixed precision measured again: what does not add up is exchanged, within the budget, never for the worse."""

from collections.abc import Mapping

import pytest
import torch

from burnish.compress.allocate import Option
from burnish.compress.chain import decoder_chain
from burnish.compress.mixed import Sensitivity, choose, measure, measure_together
from burnish.compress.passes.choice import FormatChoice
from burnish.compress.repair import TRIES, repair
from burnish.core.errors import BadSettings
from burnish.models.formats.base import stored_bytes
from tests.compress.test_mixed import CANDIDATES, data, num_weights
from tests.tiny import tiny_decoder


def group(name: str, *losses: float) -> Sensitivity:
    """One layer in formats of 2, 4 and 8 bytes."""
    options = [Option(f"int{size}", size, loss) for size, loss in zip((2, 4, 8), losses, strict=True)]
    return Sensitivity(layers=(name,), options=tuple(options), importance=torch.ones(1))


GROUPS = [group("a", 0.5, 0.2, 0.0), group("b", 0.5, 0.25, 0.0), group("c", 0.3, 0.1, 0.0)]
CHOSEN = {"a": "int4", "b": "int4", "c": "int4"}


def added(formats: Mapping[str, str]) -> float:
    return sum(next(o.loss for o in one.options if o.format == formats[one.layers[0]]) for one in GROUPS)


def test_what_adds_up_is_left_as_it_is() -> None:
    found = repair(GROUPS, CHOSEN, 12, added)
    assert (found.formats, found.num_tried) == (CHOSEN, 0)
    assert found.loss == found.chosen_loss == pytest.approx(found.expected)


def test_layers_that_hurt_together_are_exchanged() -> None:
    costs = {"int2": 2, "int4": 4, "int8": 8}

    def together(formats: Mapping[str, str]) -> float:
        assert sum(costs[chosen] for chosen in formats.values()) <= 12, "the budget is kept at every try"
        both = formats["a"] != "int8" and formats["b"] != "int8"
        return added(formats) + (5 if both else 0)

    found = repair(GROUPS, CHOSEN, 12, together)
    assert "int8" in (found.formats["a"], found.formats["b"])
    assert found.loss == together(found.formats) < 5 < found.chosen_loss
    assert found.num_kept >= 1


def test_what_cannot_be_mended_ends_and_stays() -> None:
    found = repair(GROUPS, CHOSEN, 12, lambda formats: 9 + added(formats) + (formats != CHOSEN))
    assert found.formats == CHOSEN
    assert 0 < found.num_tried <= TRIES
    assert found.num_kept == 0


def test_a_model_is_measured_as_chosen_and_left_as_it_was() -> None:
    decoder, samples = tiny_decoder(tied_embeddings=False), data()
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    sensitivities = measure(decoder, samples, CANDIDATES)
    small = {name: "int2-g32" for one in sensitivities for name in one.layers}
    large = dict.fromkeys(small, "int8")
    losses = [measure_together(decoder, samples, sensitivities, chosen) for chosen in (small, large)]
    assert losses[0] > 10 * losses[1] > 0
    one = dict(large)
    one["lm_head"] = "int2-g32"
    alone = next(o.loss for o in sensitivities[-1].options if o.format == "int2-g32")
    assert measure_together(decoder, samples, sensitivities, one) == pytest.approx(alone, rel=0.05)
    assert all(torch.equal(before[name], tensor) for name, tensor in decoder.state_dict().items())


def test_a_real_choice_never_loses_by_repair_and_keeps_its_bytes() -> None:
    decoder, samples = tiny_decoder(), data()
    sensitivities = measure(decoder, samples, CANDIDATES)
    count, bits = num_weights(decoder), 4.5
    chosen = choose(sensitivities, bits, count)
    found = repair(
        sensitivities, chosen, int(bits * count / 8), lambda f: measure_together(decoder, samples, sensitivities, f)
    )
    assert found.loss <= found.chosen_loss
    layers = decoder_chain(decoder).layers
    stored = {one.name: one for one in CANDIDATES.formats}
    total = sum(
        stored_bytes(stored[found.formats[name]], layer.out_features, layer.in_features)
        for name, layer in layers.items()
    )
    assert total <= bits * count / 8


def test_an_unknown_format_is_refused() -> None:
    decoder, samples = tiny_decoder(), data()
    sensitivities = measure(decoder, samples, FormatChoice(CANDIDATES.formats[2:]))
    with pytest.raises(BadSettings, match="is no integer format"):
        measure_together(
            decoder, samples, sensitivities, {name: "int5" for one in sensitivities for name in one.layers}
        )
