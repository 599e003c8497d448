"""burnish recipes and the choice of one on the command line."""

from pathlib import Path

import pytest

from burnish.compress.passes.base import IntegerRounding
from burnish.compress.passes.qat import QuantizationAwareTraining
from burnish.compress.recipes import RECIPES, find_recipe
from burnish.core.errors import BadSettings
from burnish.registry.artifact import read_manifest
from tests.cli.conftest import Run


def test_every_recipe_is_listed_with_what_it_needs(burnish: Run) -> None:
    listed = {one["name"]: one for one in burnish("recipes", "--json").json["recipes"]}
    assert list(listed) == list(RECIPES)
    assert not listed["int8"]["needs_calibration"]
    assert listed["int4-gptq-g128"]["needs_calibration"]
    assert all(one["about"] for one in listed.values())
    assert listed["int8"]["targets"] == ["cpu", "gpu", "gguf", "onnx"]
    assert listed["fp8-dynamic"]["targets"] == ["gpu"]
    shown = burnish("recipes").out
    assert all(name in shown for name in RECIPES)


def test_names_say_bits_method_and_group() -> None:
    for name, recipe in RECIPES.items():
        if name.startswith("mixed-"):
            limit = "" if recipe.average_bits is None else f"{recipe.average_bits:.0f}bit"
            limit = limit if recipe.latency_share is None else f"latency{100 * recipe.latency_share:.0f}"
            assert name == f"mixed-{limit}-gptq"
        if not name.startswith("int"):
            continue
        bits, *rest = name.split("-")
        group = rest.pop() if rest and rest[-1].startswith("g") and rest[-1][1:].isdigit() else ""
        kinds = [type(step).__name__ for step in recipe.passes]
        assert bits in {"int8", "int4", "int3", "int2"}
        assert ("gptq" in rest or "w8a8" in rest) == ("Gptq" in kinds)
        assert ("awq" in rest) == ("ActivationAwareScaling" in kinds)
        assert ("qat" in rest) == ("QuantizationAwareTraining" in kinds)
        assert ("smoothquant" in rest) == ("Smoothing" in kinds)
        assert ("w8a8" in rest) == (recipe.activations == "int8" or recipe.is_static)
        assert ("static" in rest) == recipe.is_static
        assert ("rotate" in rest) == ("Rotate" in kinds)
        assert ("autoround" in rest) == ("AutoRound" in kinds)
        if group:
            last = recipe.passes[-1]
            assert isinstance(last, IntegerRounding | QuantizationAwareTraining)
            assert {target.name for target in last.choice.formats} == {f"{bits}-{group}"}


@pytest.mark.parametrize("recipe", ["int4-gptq-g32", "int2-awq-g32", "int8-imatrix", "mixed-5bit-gptq"])
def test_a_recipe_with_data_says_in_its_manifest_which(
    burnish: Run, tiny_folder: Path, tmp_path: Path, recipe: str
) -> None:
    prose = tmp_path / "prose.txt"
    prose.write_text("".join(f"Line {i} has {i * i % 97} foxes and {i * 7 % 31} hens.\n" for i in range(100)))
    sizes = ("--samples", 20, "--length", 128, "--seed", 3)
    made = burnish("compress", tiny_folder, tmp_path / "out", "--recipe", recipe, "--calibration", prose, *sizes)
    assert made.code == 0, made
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert manifest.calibration is not None
    assert manifest.recipe == recipe
    calibration = manifest.calibration
    assert (calibration.length, calibration.seed) == (128, 3)
    assert all(record.output_error is not None and record.output_error > 0 for record in manifest.records)
    assert burnish("verify", tmp_path / "out", "--json").json["passed"]


def test_the_manifest_holds_a_recipe_that_makes_the_same_again(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('keep = ["layers.1.*"]\n[[pass]]\nname = "rtn"\nformats = ["int4-g32"]\n')
    burnish("compress", tiny_folder, tmp_path / "first", "--recipe", tmp_path / "mine.toml")
    first = read_manifest(tmp_path / "first")
    assert first is not None
    assert first.recipe_text is not None
    (tmp_path / "again.toml").write_text(first.recipe_text)
    burnish("compress", tiny_folder, tmp_path / "second", "--recipe", tmp_path / "again.toml")
    second = read_manifest(tmp_path / "second")
    assert second is not None
    assert (second.files, second.recipe_text) == (first.files, first.recipe_text)
    assert burnish("compress", tiny_folder, tmp_path / "named", "--recipe", "int8").code == 0
    named = read_manifest(tmp_path / "named")
    assert named is not None
    assert 'name = "rtn"\nformats = ["int8"]' in str(named.recipe_text)


def test_passes_on_the_command_line_are_a_recipe(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    words = ("--pass", "magnitude sparsity='2:4'", "--pass", 'rtn formats=["int8-2:4", "int8"]  head="int8"')
    assert burnish("compress", tiny_folder, tmp_path / "out", *words, "--json").json["recipe"] == "magnitude + rtn"
    assert burnish("compress", tiny_folder, tmp_path / "named", "--recipe", "int8-magnitude-2:4").code == 0
    ours, named = read_manifest(tmp_path / "out"), read_manifest(tmp_path / "named")
    assert ours is not None
    assert named is not None
    assert (ours.files, ours.records) == (named.files, named.records)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--pass", "gtpq"), "unknown pass 'gtpq'. Did you mean 'gptq'?"),
        (("--pass", ""), "unknown pass ''"),
        (("--pass", 'rtn formts=["int8"]'), "unknown key 'formts' in settings section [pass rtn]. Did you mean"),
        (("--pass", "rtn int8"), "--pass 'rtn int8': 'int8' is no setting. Write them as formats="),
        (("--pass", 'rtn formats=["int8'), "is no setting"),
        (("--pass", "rtn formats=int8"), "recipe 'rtn' is not TOML: Invalid value"),
        (("--pass", "rtn", "--pass", "gptq"), "rtn stores the weights, nothing can follow. Put it last"),
        (("--pass", "rtn", "--recipe", "int8"), "--recipe and --pass both say what is done. Give one of them"),
        (("--pass", 'awq formats=["int4-g32"]'), "ends with awq, which stores nothing"),
    ],
)
def test_passes_that_make_no_sense(
    burnish: Run, tiny_folder: Path, tmp_path: Path, words: tuple[str, ...], complaint: str
) -> None:
    assert complaint in burnish("compress", tiny_folder, tmp_path / "out", *words).complaint
    assert list(tmp_path.iterdir()) == []


def test_data_that_is_needed_and_data_that_is_not(burnish: Run, tiny_folder: Path, prose: Path, tmp_path: Path) -> None:
    asked = burnish("compress", tiny_folder, tmp_path / "out", "--recipe", "int4-gptq-g32")
    assert asked.complaint == "recipe 'int4-gptq-g32' needs calibration data. Give a text with --calibration"
    asked = burnish("compress", tiny_folder, tmp_path / "out", "--recipe", "int8", "--calibration", prose)
    assert asked.complaint == "recipe 'int8' uses no calibration data. Leave --calibration out"
    (tmp_path / "short.txt").write_text("too short")
    words = ("--recipe", "int8-gptq", "--calibration", tmp_path / "short.txt")
    assert (
        "holds 9 tokens, too few. Give 2048 or more"
        in burnish("compress", tiny_folder, tmp_path / "out", *words).complaint
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "short.txt"]


def test_a_recipe_the_target_does_not_run_is_refused_before_anything_is_loaded(burnish: Run, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "mine.toml").write_text('[[pass]]\nname = "fp8"\n')
    for recipe in ("fp8-dynamic", tmp_path / "mine.toml"):
        words = ("compress", tmp_path / "broken", tmp_path / "out", "--recipe", recipe)
        refused = burnish(*words, "--target", "cpu")
        assert "stores fp8, which cpu (burnish on CPUs) does not run. Nearest that does: recipe 'int8'" in str(refused)
        assert "broken" in burnish(*words, "--target", "gpu").complaint
    assert "unknown target 'gpus'. Did you mean 'gpu'?" in burnish(*words, "--target", "gpus").complaint
    assert not (tmp_path / "out").exists()


def test_a_recipe_its_target_runs_is_applied(burnish: Run, tiny_folder: Path, tmp_path: Path) -> None:
    made = burnish("compress", tiny_folder, tmp_path / "out", "--recipe", "fp8-dynamic", "--target", "gpu", "--json")
    assert made.json["weights"] == "fp8"
    assert burnish("verify", tmp_path / "out", "--json").json["passed"]
    assert burnish("inspect", tmp_path / "out", "--json").json["weights"] == "fp8"


@pytest.mark.parametrize(("wrong", "right"), [("int5", "int"), ("int4-gtpq-g128", "int4-gptq-g128")])
def test_an_unknown_recipe_names_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(BadSettings, match=f"unknown recipe '{wrong}'.*{right}"):
        find_recipe(wrong)
