"""Exports opened by llama.cpp: the same tokens of texts, the same greedy answers, the same losses.

Needs the environment that ``make bench`` builds.
"""

import json
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from burnish import LLM
from burnish.assemble import open_plan
from burnish.cli.compress import Asked, write_variant
from burnish.cli.export import write_export
from burnish.compress.calibration import CalibrationConfig
from burnish.core.types import Sampling
from burnish.measure.quality.corpus import read_corpus
from burnish.measure.quality.perplexity import Passage, QualityConfig, fed_windows, prepare, token_losses
from burnish.models.checkpoint import load_decoder
from burnish.models.golden import golden_logits
from burnish.models.locate import held_out_text, locate
from burnish.models.tokenizer import load_tokenizer

PYTHON = Path(__file__).parents[2] / "benchmarks" / ".envs" / "llama_cpp" / "bin" / "python"
TEXTS = ["Once upon a time, there was a fox.", "  two spaces, \n\n new lines\t", "Ünïcödé 🦊 日本", "1234567 I'll"]
BEGINNINGS = ["Once upon a time", "The dog was", "Lily and Tom went to the", "One day, a little"]
NEW_TOKENS = 24

pytestmark = pytest.mark.slow


def asked_of_llama_cpp(file: Path, questions: dict[str, Any]) -> dict[str, Any]:
    if not PYTHON.exists():
        pytest.skip("llama.cpp is not built; make bench builds it")
    words = [str(PYTHON), "-m", "benchmarks.llama_cpp.answer", str(file)]
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        words, input=json.dumps(questions), capture_output=True, text=True, cwd=root, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def passage_of(path: Path) -> Passage:
    config = QualityConfig(context=256, stride=128, max_tokens=4000)
    return prepare(read_corpus(held_out_text()), load_tokenizer(path), load_decoder(path).decoder.config, config)


class Case(NamedTuple):
    """How a model is compressed, and the blocks that hold it."""

    recipe: str
    blocks: str
    has_data: bool = False


ZERO_POINTS = 'about = "x"\n[[pass]]\nname = "rtn"\nformats = ["int4-g32-asym"]\n'
CASES = {
    "dense": Case("", "F16"),
    "int8": Case("int8", "Q8_0"),
    "int4-g32": Case("int4-g32", "Q4_0"),
    "int4 with zero points": Case(ZERO_POINTS, "Q4_1"),
    "int3-g32": Case("int3-g32", "Q4_0"),  # three bits lie in blocks of four
    "int4-gptq-g32": Case("int4-gptq-g32", "Q4_0", has_data=True),
}


def written(case: Case, folder: Path) -> Path:
    """The built-in model compressed so."""
    recipe, out = case.recipe, folder / "small"
    if not recipe:
        return locate("builtin")
    if recipe == ZERO_POINTS:
        (folder / "mine.toml").write_text(recipe)
        recipe = str(folder / "mine.toml")
    asked = Asked(
        calibration=held_out_text() if case.has_data else None, sampling=CalibrationConfig(samples=16, length=128)
    )
    write_variant(locate("builtin"), out, recipe, lambda *_: None, asked)
    return out


@pytest.mark.parametrize("weights", list(CASES))
def test_llama_cpp_computes_the_same_model(weights: str, tmp_path: Path) -> None:
    path = written(CASES[weights], tmp_path)
    exported = write_export(path, tmp_path / "out.gguf", "gguf", lambda *_: None)
    assert exported.types[CASES[weights].blocks] >= 42, "every layer"
    passage, tokenizer = passage_of(path), load_tokenizer(path)
    windows = [(fed[0].tolist(), scored) for fed, [scored] in fed_windows(passage, 1)]
    prompts = [tokenizer.encode(text) for text in BEGINNINGS]
    found = asked_of_llama_cpp(
        tmp_path / "out.gguf", {"texts": TEXTS, "prompts": prompts, "new_tokens": NEW_TOKENS, "windows": windows}
    )
    assert found["texts"] == [tokenizer.encode(text) for text in TEXTS]
    made = LLM(str(path)).generate(BEGINNINGS, Sampling(max_tokens=NEW_TOKENS, temperature=0))
    theirs = np.concatenate([np.array(losses) for losses in found["windows"]])
    ours = token_losses(open_plan(path), passage)
    ratio = float(np.exp((theirs - ours).mean()) - 1)
    print(f"{weights}: perplexity {np.exp(ours.mean()):.3f}, in llama.cpp {100 * ratio:+.3f} %")
    assert abs(ratio) < 0.005
    decoder = load_decoder(path).decoder
    for prompt, output, answer in zip(prompts, made, found["prompts"], strict=True):
        both = zip(output.token_ids, answer, strict=False)
        split = next((i for i, (mine, other) in enumerate(both) if mine != other), None)
        if split is None:
            continue
        logits = golden_logits(decoder, [[*prompt, *answer[:split]]])[0]
        margin = float(logits[output.token_ids[split]] - logits[answer[split]])
        print(f"{weights}: answers part at token {split}, where their logits differ by {margin:.3f}")
        assert CASES[weights].blocks.startswith("Q4"), "inputs are rounded in other groups there"
        assert abs(margin) < 0.1 * logits.std()
