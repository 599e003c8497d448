"""Smaller shapes: all different, within bounds, and recipes that compress understands."""

from pathlib import Path

import pytest

from burnish.compress.passes.shrink import Shrink
from burnish.compress.recipe_file import read_recipe
from burnish.compress.shrink import shrunk_config
from burnish.models.checkpoint import raw_config
from burnish.models.families import read_config
from burnish.models.locate import locate
from burnish.optimize.shapes import SIZES, Shape, num_weights, promising, shapes
from tests.tiny import tiny_config, tiny_decoder


def test_weights_are_those_of_the_model() -> None:
    decoder = tiny_decoder()
    layers = sum(p.numel() for name, p in decoder.layers.named_parameters() if p.dim() == 2)
    assert num_weights(decoder.config) == layers + decoder.config.vocab_size * decoder.config.hidden_size


def test_shapes_differ_and_shrink() -> None:
    config = read_config(raw_config(locate("builtin")))
    found = shapes(config)
    configs = [shrunk_config(config, one.shape) for one in found]
    assert len(set(configs)) == len(configs) > 10
    assert all(0.5 <= one.share < 1 for one in found)
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    assert {name for one in found for name in SIZES if getattr(one.shape, name)} == set(SIZES)


def test_shapes_of_which_a_share_takes_nothing_are_left_out() -> None:
    """Key/value heads of two queries lose one at a half, and nothing at an eighth or a quarter."""
    grouped = shapes(tiny_config(num_heads=4, num_kv_heads=2, num_layers=8, inner_size=512))
    assert {one.shape.heads for one in grouped} == {0.0, 0.5}
    pairs = shapes(tiny_config(num_heads=8, num_kv_heads=8, num_layers=8, inner_size=512))
    assert {one.shape.heads for one in pairs} == {0.0, 0.125, 0.25, 0.5}


def test_the_largest_of_each_kind_of_cut_is_promising() -> None:
    known = shapes(tiny_config(num_layers=8, inner_size=512))
    chosen = promising(known, 0.85, 3)
    assert len(chosen) == 3
    cuts = [tuple(name for name in SIZES if getattr(shape, name)) for shape in chosen]
    assert len(set(cuts)) == 3
    assert promising(known, 0.0, 3) == []


@pytest.mark.parametrize("shape", [Shape(inner=0.25), Shape(hidden=0.125, layers=0.5)])
def test_recipes_of_shapes_are_read(shape: Shape, tmp_path: Path) -> None:
    for candidate, count in ((shape.plain(), 1), (shape.taught(), 3)):
        assert candidate.text is not None
        (tmp_path / "recipe.toml").write_text(candidate.text)
        recipe = read_recipe(tmp_path / "recipe.toml")
        assert len(recipe.passes) == count
        shrink = recipe.passes[0]
        assert isinstance(shrink, Shrink)
        assert all(getattr(shrink, name) == getattr(shape, name) for name in SIZES)
    assert shape.taught().name == f"{shape.name}-distill-int4"
