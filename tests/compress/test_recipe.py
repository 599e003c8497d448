"""Recipes from files: read, checked before anything runs, every fault in one line with its remedy."""

from pathlib import Path

import pytest
import torch

from burnish.compress.passes.awq import ActivationAwareScaling
from burnish.compress.passes.distill import Distill
from burnish.compress.passes.gptq import Gptq
from burnish.compress.recipe import PASSES, Recipe, pass_name
from burnish.compress.recipe_file import parse_recipe, read_recipe, recipe_text
from burnish.compress.recipes import RECIPES, find_recipe
from burnish.core.errors import BadSettings
from burnish.models.checkpoint import save_checkpoint
from tests.tiny import tiny_decoder


def written(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_passes_settings_and_formats_are_read(tmp_path: Path) -> None:
    text = """
about = "scaled, then compensated"
[[pass]]
name = "awq"
formats = ["int4-g64", "int8"]
[[pass]]
name = "gptq"
formats = ["int4-g64", "int8"]
head = "int4-g32"
order = "static"
"""
    found = find_recipe(written(tmp_path, text))
    assert (found.name, found.about) == ("mine.toml", "scaled, then compensated")
    scaling, rounding = found.passes
    assert isinstance(scaling, ActivationAwareScaling)
    assert isinstance(rounding, Gptq)
    assert rounding.order == "static"
    assert [one.name for one in rounding.choice.formats] == ["int4-g64", "int8"]
    assert (rounding.choice.head.name, scaling.choice.head.name) == ("int4-g32", "int8")
    assert found.needs.data
    assert found.needs.moments


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no pass. Known: shrink, distill, rotate, channels, relearn, magnitude"),
        ('[[pass]]\nname = "gtpq"', "unknown pass 'gtpq'. Did you mean 'gptq'"),
        ("[[pass]]\nformats = 4", "unknown pass None"),
        (
            '[[pass]]\nname = "gptq"\norde = "static"',
            "unknown key 'orde' in settings section [pass gptq]. Did you mean",
        ),
        (
            '[[pass]]\nname = "gptq"\nformts = []',
            "unknown key 'formts' in settings section [pass gptq]. Did you mean 'formats'?",
        ),
        ('[[pass]]\nname = "gptq"\nchoice = 3', "unknown key 'choice' in settings section [pass gptq]. "),
        ('[[pass]]\nname = "gptq"\norder = "x"', "setting pass gptq.order = 'x' is wrong"),
        ('[[pass]]\nname = "rtn"\nformats = ["int5"]', "'int5' is no integer format"),
        ('[[pass]]\nname = "rtn"\nformats = ["dense"]', "'dense' is no integer format"),
        ('[[pass]]\nname = "awq"', "ends with awq, which stores nothing. Let a rounding pass follow"),
        ('[[pass]]\nname = "rtn"\n[[pass]]\nname = "gptq"', "rtn stores the weights, nothing can follow. Put it last"),
        ("pass = 3", "pass is no list of tables. Write [[pass]]"),
        ("passes = []", "unknown key 'passes'. Did you mean 'pass'"),
        ("[[pass", "is not TOML"),
        ('average_bits = "5"', "average_bits = '5' is no number above 0"),
        ("latency_share = 0", "latency_share = 0 is no number above 0"),
        ("latency_share = true", "latency_share = True is no number above 0"),
        (
            'latency_share = 0.7\naverage_bits = 5\n[[pass]]\nname = "gptq"',
            "has both average_bits and latency_share. Leave one of them out",
        ),
        (
            'latency_share = 0.7\n[[pass]]\nname = "rtn"',
            "has latency_share, yet rtn rounds without data. Use gptq or imatrix",
        ),
        ('keep = "lm_head"', "keep = 'lm_head' is no list of names. Write [\"lm_head\"]"),
        ('keep = ["lm_head"]\n[[pass]]\nname = "magnitude"', "has keep, yet magnitude stores no formats"),
        (
            'keep = ["x"]\nkeep_format = "int9"\n[[pass]]\nname = "rtn"',
            "'int9' is no integer format",
        ),
        (
            '[[pass]]\nname = "rtn"\nformats = ["int8-2:4"]',
            "stores int8-2:4, yet nothing before rtn leaves two of four weights",
        ),
        (
            'average_bits = 5\n[[pass]]\nname = "rtn"',
            "has average_bits, yet rtn rounds without data. Use gptq or imatrix",
        ),
    ],
)
def test_faults_are_told_before_anything_runs(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(BadSettings) as fault:
        find_recipe(written(tmp_path, text))
    assert complaint in str(fault.value)
    assert "\n" not in str(fault.value)


def test_what_stands_beside_the_passes_is_read(tmp_path: Path) -> None:
    text = 'latency_share = 0.7\nkeep = ["layers.0.*", "lm_head"]\nkeep_format = "dense"\n[[pass]]\nname = "gptq"'
    found = find_recipe(written(tmp_path, text))
    assert (found.average_bits, found.latency_share) == (None, 0.7)
    assert (found.keep, found.keep_format) == (("layers.0.*", "lm_head"), "dense")
    assert find_recipe(written(tmp_path, '[[pass]]\nname = "rtn"')).keep_format == "int8"


@pytest.mark.parametrize("name", RECIPES)
def test_the_text_of_a_recipe_makes_the_same_recipe(name: str) -> None:
    assert parse_recipe(recipe_text(RECIPES[name]), name=name, shown=name) == RECIPES[name]


def test_the_text_keeps_what_a_file_says(tmp_path: Path) -> None:
    text = """
about = "a \\"quoted\\" word, \\\\ and ümlauts"
average_bits = 5
keep = ["layers.0.*"]
keep_format = "dense"
[[pass]]
name = "wanda"
sparsity = "2:4"
[[pass]]
name = "gptq"
formats = ["int4-g32", "int8"]
head = "int4-g64"
order = "static"
"""
    found = find_recipe(written(tmp_path, text))
    again = recipe_text(found)
    assert parse_recipe(again, name="mine.toml", shown="it") == found
    assert 'sparsity = "2:4"' in again
    assert 'head = "int4-g64"\norder = "static"' in again
    settled = found.for_layers(["layers.0.mlp.up_proj", "layers.1.mlp.up_proj"])
    assert recipe_text(settled) == again, "what one model makes of it is no part of it"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"absent\.toml' cannot be read: No such file"):
        find_recipe(str(tmp_path / "absent.toml"))


def test_every_pass_has_one_word() -> None:
    used = {pass_name(step) for recipe in RECIPES.values() for step in recipe.passes}
    assert used == set(PASSES)
    with pytest.raises(BadSettings, match="has no pass"):
        Recipe("x", "", ())


def test_a_student_is_written_into_the_text_of_a_recipe(tmp_path: Path) -> None:
    """What a manifest holds must not depend on a file that lay beside the recipe."""
    save_checkpoint(tiny_decoder(), tmp_path / "model", family="llama", dtype=torch.float32)
    written = tmp_path / "mine.toml"
    written.write_text('[[pass]]\nname = "distill"\nstudent = "model/config.json"\nsteps = 7\n')
    recipe = read_recipe(written)
    again = parse_recipe(recipe_text(recipe), name=recipe.name, shown="again", folder=tmp_path / "elsewhere")
    assert again == recipe
    [step] = again.passes
    assert isinstance(step, Distill)
    assert step.student is not None
    assert step.student.config.hidden_size == 64
