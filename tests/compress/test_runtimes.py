"""What runs where: the table knows every format, and a recipe that does not fit is refused with what does."""

import json
from pathlib import Path

import pytest
import torch

from burnish.compress.recipes import RECIPES, find_recipe
from burnish.compress.runtimes import RUNTIMES, find_runtime, refuse_unfit, runtimes_of
from burnish.core.errors import BadSettings
from burnish.models.formats.quantization_config import write_quantization
from burnish.models.formats.table import FORMATS
from burnish.models.layers.linear import Linear

RTN = '[[pass]]\nname = "rtn"\n'


def written(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_the_table_speaks_of_formats_there_are_and_leaves_none_out() -> None:
    named = {name for runtime in RUNTIMES.values() for name in runtime.formats}
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
        ("int8", ("cpu", "gpu", "gguf", "onnx")),
        ("int8-w8a8-smoothquant", ("cpu", "gpu", "gguf", "onnx")),
        ("int3-gptq-g64", ("cpu", "gguf", "onnx")),
        ("mixed-5bit-gptq", ("cpu", "gguf", "onnx")),
        ("int4-qat-g128", ("cpu", "gpu", "gguf", "onnx")),
        ("shrink-25", ("cpu", "gpu", "gguf", "onnx")),
        ("int8-w8a8-static", ("cpu", "gpu", "onnx")),
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
            "Nearest that does: recipe 'int4-gptq-g128', format int4-g128",
        ),
        (
            "channels-25",
            "gguf",
            "recipe 'channels-25' is for networks for images, none of which gguf "
            "(llama.cpp, by burnish export --to gguf) runs. Nearest that does: recipe 'wanda-50'",
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
    channels = RTN + 'formats = ["int4-channel", "int4-channel-asym"]'
    assert runtimes_of(find_recipe(written(tmp_path, channels))) == ("cpu", "gpu", "gguf", "onnx")
    eight = find_recipe(written(tmp_path, RTN + 'formats = ["int8-g64-asym"]'))
    assert runtimes_of(eight) == ("cpu", "gguf", "onnx")
    with pytest.raises(BadSettings, match=r"'mine.toml' stores int8-g64-asym, which gpu .*, format int4-g32-asym$"):
        refuse_unfit(eight, "gpu")
    three = find_recipe(written(tmp_path, RTN + 'formats = ["int3-g64"]'))
    with pytest.raises(BadSettings, match=r"'mine.toml' stores int3-g64, which gpu .*, format int4-g128$"):
        refuse_unfit(three, "gpu")
    groups = RTN + 'formats = ["int8-g64"]\n'
    assert "gpu" in runtimes_of(find_recipe(written(tmp_path, groups)))
    rounded = find_recipe(written(tmp_path, 'activations = "int8"\n' + groups))
    with pytest.raises(
        BadSettings, match=r"'mine.toml' stores int8-g64 with inputs of int8, which gpu .*, format int8$"
    ):
        refuse_unfit(rounded, "gpu")
    bytes_ = written(tmp_path, 'activations = "int8"\n' + RTN + 'formats = ["int8"]')
    assert "gpu" in runtimes_of(find_recipe(bytes_))
    floats = written(tmp_path, '[[pass]]\nname = "fp8"\nhead = "fp8"')
    assert runtimes_of(find_recipe(floats)) == ("gpu",)


def test_an_unknown_target_names_the_nearest() -> None:
    with pytest.raises(BadSettings, match=r"unknown target 'ggul'\. Did you mean 'gguf'\?"):
        find_runtime("ggul")


def test_eight_bits_lie_in_words_where_inputs_stay_floats_and_in_bytes_where_they_do_not() -> None:
    """vLLM 0.33 asserts that weights in bytes whose inputs stay floats are floats themselves."""
    layer = Linear(8, 4, bias=False)
    stored = FORMATS["int8"]
    layer.store(stored, stored.random(4, 8, torch.Generator().manual_seed(0)))
    before = layer.dense_weight()
    for layout, names, inputs in (
        ("pack-quantized", {"weight_packed", "weight_shape", "weight_scale"}, None),
        ("int-quantized", {"weight", "weight_scale"}, "int"),
    ):
        written = write_quantization({"x": layer.format}, int8_activations=inputs is not None)
        [group] = json.loads(json.dumps(written))["config_groups"].values()
        assert group["format"] == layout
        assert set(layer.packed()) == names
        assert (group["input_activations"] or {"type": None})["type"] == inputs
        layer.store_bytes()
        assert torch.equal(layer.dense_weight(), before)
