"""Every kind of storage that transformers can open: there a model predicts a text as well as it does here."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from burnish.assemble import open_plan
from burnish.cli.compress import Asked, write_variant
from burnish.compress.calibration import CalibrationConfig
from burnish.measure.quality.corpus import read_corpus
from burnish.measure.quality.perplexity import Passage, QualityConfig, fed_windows, prepare, token_losses
from burnish.models.checkpoint import load_decoder
from burnish.models.layers.linear import Linear
from burnish.models.locate import held_out_text, locate
from burnish.models.tokenizer import load_tokenizer

TOLERANCE = 0.005  # of perplexity


class Case(NamedTuple):
    """A recipe, by name or in TOML, and what files must say of the result."""

    recipe: str
    weights: Sequence[str]  # formats of the layers
    has_data: bool = False
    dequantized: bool = False  # while it is loaded: the only way transformers opens zero points


def rounded(name: str, **settings: Any) -> str:
    """A recipe that rounds to nearest; ``settings`` stand beside the passes."""
    lines = [f"{key} = {value!r}" for key, value in settings.items()]
    return "\n".join(['about = "x"', *lines, "[[pass]]", 'name = "rtn"', f'formats = ["{name}"]'])


KEPT = {"keep": ["layers.0.*"], "keep_format": "dense"}
QUICK = {
    "int4 with zero points": Case(rounded("int4-g32-asym"), ["int4-g32-asym"], dequantized=True),
    "one layer dense": Case(rounded("int4-g64", **KEPT), ["dense", "int4-g64"]),
}
SLOW = {
    "int8 in groups": Case(rounded("int8-g32"), ["int8-g32"]),
    "int3": Case(rounded("int3-g64"), ["int3-g64"]),
    "int2": Case(rounded("int2-g32"), ["int2-g32"]),
    "int3 with zero points": Case(rounded("int3-g32-asym"), ["int3-g32-asym"], dequantized=True),
    "int2 with zero points": Case(rounded("int2-g64-asym"), ["int2-g64-asym"], dequantized=True),
    "one kind of layer in eight bits": Case(
        rounded("int4-g128", keep=["layers.*.mlp.down_proj"], keep_format="int8"), ["int4-g128", "int8"]
    ),
    "int4-gptq-g128": Case("int4-gptq-g128", ["int4-g128"], has_data=True),
    "int4-awq-g128": Case("int4-awq-g128", ["int4-g128"], has_data=True),
    "int8-w8a8-smoothquant": Case("int8-w8a8-smoothquant", ["int8"], has_data=True),
    "magnitude-50": Case("magnitude-50", ["dense"]),
    "shrink-25": Case("shrink-25", ["dense"], has_data=True),
}


@pytest.fixture(scope="module")
def passage() -> Passage:
    path = locate("builtin")
    config = QualityConfig(context=256, stride=128, max_tokens=1500)
    return prepare(read_corpus(held_out_text()), load_tokenizer(path), load_decoder(path).decoder.config, config)


def written(case: Case, folder: Path) -> Path:
    """The built-in model compressed so."""
    recipe, out = case.recipe, folder / "out"
    if "\n" in recipe:
        (folder / "mine.toml").write_text(recipe)
        recipe = str(folder / "mine.toml")
    asked = Asked(
        calibration=held_out_text() if case.has_data else None, sampling=CalibrationConfig(samples=16, length=128)
    )
    write_variant(locate("builtin"), out, recipe, lambda *_: None, asked)
    return out


def losses_in_transformers(folder: Path, passage: Passage, *, dequantized: bool) -> NDArray[np.float64]:
    """Losses of the same tokens of the same windows, computed without a line of ours but the cutting."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the oracle, not ours
        from transformers import AutoModelForCausalLM
        from transformers.utils.quantization_config import CompressedTensorsConfig

        how = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantized else {}
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **how)
        found = []
        with torch.inference_mode():
            for fed, [scored] in fed_windows(passage, 1):
                logits = model(fed).logits[0, :-1].double()
                found.append(functional.cross_entropy(logits, fed[0, 1:], reduction="none")[-scored:].numpy())
    return np.concatenate(found)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name) for name, case in QUICK.items()]
    + [pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()],
)
def test_transformers_finds_the_same_perplexity(case: Case, passage: Passage, tmp_path: Path) -> None:
    """As torch computes it here, and as the kernels serve it, which round inputs too."""
    out = written(case, tmp_path)
    decoder = load_decoder(out).decoder
    stored = {module.format.name for module in decoder.layers.modules() if isinstance(module, Linear)}
    assert sorted(stored) == case.weights
    theirs = losses_in_transformers(out, passage, dequantized=case.dequantized)
    for ours in (token_losses(decoder, passage), token_losses(open_plan(out), passage)):
        assert len(ours) == len(theirs) == len(passage.tokens)
        assert abs(np.exp((theirs - ours).mean()) - 1) < TOLERANCE


def test_zero_points_are_refused_by_transformers_unless_it_dequantizes(passage: Passage, tmp_path: Path) -> None:
    """compressed-tensors 0.20 makes room for them unpacked, where it packs them itself when it writes."""
    out = written(QUICK["int4 with zero points"], tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        losses_in_transformers(out, passage, dequantized=False)
