"""What runs where: the table knows every format, and a recipe that does not fit is refused with what does."""

import json
from pathlib import Path

import pytest

from burnish.compress.recipes import RECIPES, find_recipe
from burnish.compress.runtimes import RUNTIMES, find_runtime, refuse_unfit, runtimes_of
from burnish.core.errors import BadSettings
from burnish.models.formats.quantization_config import write_quantization
from burnish.models.formats.table import FORMATS

RTN = '[[pass]]\nname = "rtn"\n'


def written(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_the_table_speaks_of_formats_there_are_and_leaves_none_out() -> None:
    named = {name for runtime in RUNTIMES.values() for name in (*runtime.formats, *runtime.int8_inputs)}
    assert named == set(FORMATS)
    assert all("dense" in runtime.formats for runtime in RUNTIMES.values())


def test_every_recipe_runs_somewhere_and_every_refusal_names_one_that_runs() -> None:
    for recipe in RECIPES.values():
        assert runtimes_of(recipe)
        for name in RUNTIMES:
            if name in runtimes_of(recipe):
                refuse_unfit(recipe, name)
                continue
            with pytest.raises(BadSettings) as refused:
                refuse_unfit(recipe, name)
            assert "\n" not in str(refused.value)
            advised = refused.value.remedy.partition("recipe '")[2].partition("'")[0]
            assert name in runtimes_of(RECIPES[advised])


@pytest.mark.parametrize(
    ("recipe", "targets"),
    [
        ("int8", ("cpu", "gguf", "onnx")),
        ("int8-w8a8-smoothquant", ("cpu", "gpu", "gguf", "onnx")),
        ("int3-gptq-g64", ("cpu", "gguf", "onnx")),
        ("mixed-5bit-gptq", ("cpu", "gguf")),
        ("int4-qat-g128", ("cpu", "gguf")),
        ("shrink-25", ("cpu", "gpu", "gguf")),
        ("int8-w8a8-static", ("cpu", "onnx")),
        ("channels-25", ("cpu", "onnx")),
        ("wanda-2:4", ("cpu", "gpu", "gguf", "onnx")),
        ("fp8-dynamic", ("gpu",)),
    ],
)
def test_what_recipes_run_on(recipe: str, targets: tuple[str, ...]) -> None:
    assert runtimes_of(RECIPES[recipe]) == targets


@pytest.mark.parametrize(
    ("recipe", "target", "line"),
    [
        (
            "fp8-dynamic",
            "cpu",
            "recipe 'fp8-dynamic' stores fp8, which cpu (burnish on CPUs) does not run. "
            "Nearest that does: recipe 'int8', format int8",
        ),
        (
            "int3-gptq-g128",
            "gpu",
            "recipe 'int3-gptq-g128' stores int3-g128, which gpu (vLLM on GPUs) does not run. "
            "Nearest that does: recipe 'int8-w8a8-smoothquant', format int4-g128",
        ),
        (
            "int8-gptq",
            "gpu",
            "recipe 'int8-gptq' stores int8 with inputs in floats, which gpu (vLLM on GPUs) does not run. "
            "Nearest that does: recipe 'int8-w8a8-smoothquant', format int4-g32",
        ),
        (
            "shrink-25",
            "onnx",
            "recipe 'shrink-25' is for decoders, none of which onnx (ONNX Runtime, by burnish export --to onnx) runs. "
            "Nearest that does: recipe 'channels-25'",
        ),
    ],
)
def test_a_refusal_is_one_line(recipe: str, target: str, line: str) -> None:
    with pytest.raises(BadSettings) as refused:
        refuse_unfit(RECIPES[recipe], target)
    assert str(refused.value) == line


def test_recipes_from_files_are_held_against_the_same_table(tmp_path: Path) -> None:
    four = written(tmp_path, RTN + 'formats = ["int4-g128", "int4-g32-asym"]\nhead = "int4-g128"')
    assert runtimes_of(find_recipe(four)) == ("cpu", "gpu", "gguf", "onnx")
    head = find_recipe(written(tmp_path, RTN + 'formats = ["int4-g128"]'))
    with pytest.raises(BadSettings, match=r"'mine.toml' stores int8 with inputs in floats, which gpu .*int4-g32$"):
        refuse_unfit(head, "gpu")
    grouped = find_recipe(written(tmp_path, RTN + 'formats = ["int8-g64"]\nhead = "int4-g128"'))
    with pytest.raises(BadSettings, match=r"'mine.toml' stores int8-g64, which gpu"):
        refuse_unfit(grouped, "gpu")
    bytes_ = written(tmp_path, 'activations = "int8"\n' + RTN + 'formats = ["int8"]')
    assert "gpu" in runtimes_of(find_recipe(bytes_))
    floats = written(tmp_path, '[[pass]]\nname = "fp8"\nhead = "fp8"')
    assert runtimes_of(find_recipe(floats)) == ("gpu",)


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(BadSettings, match=r"unknown target 'ggul'\. Did you mean 'gguf'\?"):
        find_runtime("ggul")


def test_the_scheme_of_bytes_without_int8_inputs_is_the_one_engines_refuse() -> None:
    """vLLM 0.33 asserts that weights in this layout whose inputs stay floats are floats themselves."""
    for activations, inputs in ((False, None), (True, "int")):
        written = write_quantization({"x": FORMATS["int8"]}, int8_activations=activations)
        [group] = json.loads(json.dumps(written))["config_groups"].values()
        assert group["format"] == "int-quantized"
        assert (group["input_activations"] or {"type": None})["type"] == inputs
