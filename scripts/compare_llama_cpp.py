"""At equal file size: what our four bits lose, and what llama.cpp's own with an importance matrix lose.

    python -m scripts.compare_llama_cpp [--recipes NAME ...] [--max-tokens N] [--data FOLDER] [--work FOLDER]

Both quantize the built-in model by the same calibration text; both files have the embeddings in Q8_0 and every other
matrix in blocks of 4.5 bits a weight; both are scored by llama.cpp, in arithmetic of its own, on the same windows of
three texts. Needs the environment that ``make bench`` builds. Writes docs/llama_cpp.md. Variants that lie in the folder
``--work`` are not made again.
"""

import argparse
import json
import math
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.cli.compress import Asked, write_variant
from burnish.cli.export import write_export
from burnish.compress.calibration import CalibrationConfig, read_calibration
from burnish.compress.chain import HEAD, decoder_chain
from burnish.compress.recipes import find_recipe
from burnish.compress.statistics import Flow, observe, through
from burnish.measure.intervals import Interval
from burnish.measure.quality.corpus import read_corpus
from burnish.measure.quality.perplexity import Passage, QualityConfig, fed_windows, prepare
from burnish.models.checkpoint import load_decoder
from burnish.models.families import FAMILIES
from burnish.models.gguf.names import ARCHITECTURES
from burnish.models.gguf.write_tensors import stored_name
from burnish.models.locate import locate
from burnish.models.tensor_names import linears
from burnish.models.tokenizer import load_tokenizer
from scripts.measured import DOCS, EACH, MIXTURE, ROOT, SHARED, TEXTS, mixed_text

PYTHON = ROOT / "benchmarks" / ".envs" / "llama_cpp" / "bin" / "python"
RECIPES = ("int4-g32", "int4-gptq-g32", "int4-awq-gptq-g32", "int4-autoround-g32", "int4-qat-g32")
THEIRS = {"q4_0": "llama.cpp Q4_0, imatrix", "q4_k": "llama.cpp Q4_K, imatrix"}
PARENT = "F16"

HEAD_TEXT = """# Four bits against llama.cpp's

Written by `scripts/compare_llama_cpp.py`: the built-in model, every matrix in 4.5 bits a weight and the embeddings in
Q8_0, all files scored by llama.cpp on the same {max_tokens:,} tokens of each text (windows of 512, stride 256).
llama.cpp's own quantizer was given the importance matrix of the same text that our recipes were calibrated with: 128
samples of 512 tokens, drawn from the first {each:,} characters of each of
{calibration};
learned weights learn from all of it. Loss: perplexity over that of the F16 file, minus 1; KL: of the F16 file's
distribution from the file's, in thousandths of a nat per token; each ± half of its 95 % interval. A model of this size
gains and loses perplexity by luck, which KL does not.

| file | bytes | {texts} | mean KL |
|---|---:|{rules}---:|
"""
BEST_TEXT = """
The file of ours with the least mean KL, `{best}`, against theirs, token by token: perplexity over theirs, minus 1
(below zero ours is better), and KL minus theirs.

| against | {texts} |
|---|{rules}
"""


class Scores(NamedTuple):
    """What a file makes of a passage, token by token."""

    losses: NDArray[np.float64]
    divergences: NDArray[np.float64]


Found = Mapping[str, Mapping[str, Scores]]
"""File -> text -> scores."""


def main() -> None:
    """Quantize, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--max-tokens", type=int, default=20_000)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--work", type=Path, default=None)
    asked = parser.parse_args()
    if not PYTHON.exists():
        raise SystemExit("llama.cpp is not built: make bench builds it")
    with tempfile.TemporaryDirectory() as name:
        folder = asked.work or Path(name)
        folder.mkdir(exist_ok=True)
        calibration = folder / "calibration.txt"
        calibration.write_text(mixed_text(asked.data), encoding="utf-8")
        files = _files(folder, asked.recipes, calibration)
        passages = {text: _passage(asked.data / path, asked.max_tokens) for text, path in TEXTS.items()}
        found = {
            file: {text: _scores(path, passages[text], files[PARENT]) for text in TEXTS} for file, path in files.items()
        }
        sizes = {file: path.stat().st_size for file, path in files.items()}
    written = _page(found, sizes, passages, asked.max_tokens)
    (DOCS / "llama_cpp.md").write_text(written, encoding="utf-8")
    print(written)


def _files(folder: Path, recipes: Sequence[str], calibration: Path) -> dict[str, Path]:
    """The float file, theirs and ours."""
    files = {PARENT: folder / "f16.gguf"}
    if not files[PARENT].exists():
        write_export(locate("builtin"), files[PARENT], "gguf", _silent, type="f16")
        importance: dict[str, Any] = {**_importance(calibration)}
        np.savez(folder / "importance.npz", **importance)
    for kind, told in THEIRS.items():
        files[told] = folder / f"{kind}.gguf"
        words = ("benchmarks.llama_cpp.build", files[PARENT], files[told], kind, folder / "importance.npz")
        _run(*map(str, words))
    for recipe in recipes:
        out = files[f"burnish {recipe}"] = folder / f"{recipe}.gguf"
        if not out.exists():
            _write(folder / recipe, recipe, calibration)
            write_export(folder / recipe, out, "gguf", _silent, embeddings="q8_0")
    return files


def _write(out: Path, recipe: str, calibration: Path) -> None:
    if not out.exists():
        needs = Asked(calibration=calibration) if find_recipe(recipe).needs.data else None
        write_variant(locate("builtin"), out, recipe, _silent, needs)


def _silent(*_: object) -> None:
    """Nobody watches."""


def _run(*words: str, given: str = "") -> str:
    ran = subprocess.run(
        [str(PYTHON), "-m", *words], input=given, capture_output=True, text=True, cwd=ROOT, check=False
    )
    if ran.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {ran.stderr[-2000:]}")
    return ran.stdout


def _importance(text: Path) -> dict[str, NDArray[np.float32]]:
    """The mean square of every input of every matrix, by its name in the file, as the dense model sees the text."""
    loaded = load_decoder(locate("builtin"))
    decoder, shape = loaded.decoder, loaded.decoder.config
    data = read_calibration(
        text,
        load_tokenizer(locate("builtin")),
        CalibrationConfig(),
        vocab_size=shape.vocab_size,
        max_positions=shape.max_positions,
    )
    theirs = {id(named.layer): named.theirs for named in linears(decoder, FAMILIES[loaded.family])}
    chain, found = decoder_chain(decoder), {}
    hidden = chain.begin(data.tokens)
    for part in chain.parts:
        seen = observe(part, Flow(hidden=hidden))
        for shared in part.inputs:
            for name in shared.layers:
                stored = stored_name(ARCHITECTURES["llama"], f"{theirs[id(part.layers[name])]}.weight")
                found[stored] = seen[shared.layers[0]].square.numpy()
        if part.name != HEAD:
            hidden = through(part, hidden)
    return found


def _passage(text: Path, max_tokens: int) -> Passage:
    path = locate("builtin")
    config = QualityConfig(max_tokens=max_tokens)
    return prepare(read_corpus(text), load_tokenizer(path), load_decoder(path).decoder.config, config)


def _scores(file: Path, passage: Passage, parent: Path) -> Scores:
    windows: list[Any] = [(fed[0].tolist(), scored) for fed, [scored] in fed_windows(passage, 1)]
    words = ("benchmarks.llama_cpp.answer", str(file), str(parent))
    found = json.loads(_run(*words, given=json.dumps({"windows": windows})))
    return Scores(*(np.concatenate([np.array(one) for one in found[name]]) for name in ("windows", "divergences")))


def _page(found: Found, sizes: Mapping[str, int], passages: Mapping[str, Passage], max_tokens: int) -> str:
    of_parent = [f"perplexity {math.exp(found[PARENT][text].losses.mean()):.3f}" for text in TEXTS]
    rows = [f"| {' | '.join([PARENT, f'{sizes[PARENT]:,}', *of_parent, ''])} |"]
    files = [file for file in found if file != PARENT]
    for file in files:
        cells = [_against(found[file][text], found[PARENT][text], passages[text]) for text in TEXTS]
        rows.append(f"| {' | '.join([file, f'{sizes[file]:,}', *cells, f'{1000 * _mean_kl(found[file]):.2f}'])} |")
    best = min((file for file in files if file not in THEIRS.values()), key=lambda file: _mean_kl(found[file]))
    duels = []
    for theirs in THEIRS.values():
        cells = [_against(found[best][text], found[theirs][text], passages[text]) for text in TEXTS]
        duels.append(f"| {' | '.join([theirs, *cells])} |")
    told = {"texts": " | ".join(TEXTS), "rules": "---:|" * len(TEXTS)}
    sources = ", ".join(f"`{Path(name).name}`" for name in MIXTURE)
    head = HEAD_TEXT.format(max_tokens=max_tokens, calibration=sources, each=EACH, **told)
    below = BEST_TEXT.format(best=best, **told)
    return head + "\n".join(rows) + "\n" + below + "\n".join(duels) + "\n"


def _mean_kl(scores: Mapping[str, Scores]) -> float:
    return float(np.mean([scores[text].divergences.mean() for text in TEXTS]))


def _against(ours: Scores, theirs: Scores, passage: Passage) -> str:
    """Perplexity over theirs, minus 1, and KL minus theirs; the parent's KL is zero."""
    ratio = passage.mean(ours.losses - theirs.losses).exp().shifted(-1).scaled(100)
    apart = passage.mean(ours.divergences - theirs.divergences).scaled(1000)
    return f"{_told(ratio)} %, KL {_told(apart)}"


def _told(interval: Interval) -> str:
    return f"{interval.value:+.2f} ± {(interval.high - interval.low) / 2:.2f}"


if __name__ == "__main__":
    main()
