"""At equal file size: what our four bits lose, and what llama.cpp's own with an importance matrix lose.

    python scripts/compare_llama_cpp.py [--recipes NAME ...] [--max-tokens N] [--data FOLDER]

Both quantize the built-in model by the same calibration text; both files have the embeddings in Q8_0 and every other
matrix in blocks of 4.5 bits a weight; both are scored by llama.cpp, in float arithmetic of its own, on the same windows
of three texts. Needs the environment that ``make bench`` builds. Writes docs/llama_cpp.md.
"""

import argparse
import json
import math
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.cli.compress import Asked, write_variant
from burnish.cli.export import write_export
from burnish.compress.calibration import CalibrationConfig, read_calibration
from burnish.compress.chain import HEAD, decoder_chain
from burnish.compress.statistics import Flow, observe, through
from burnish.measure.corpus import read_corpus
from burnish.measure.quality import Passage, QualityConfig, fed_windows, prepare
from burnish.models.checkpoint import load_decoder
from burnish.models.families import FAMILIES
from burnish.models.gguf.names import ARCHITECTURES
from burnish.models.gguf.write_tensors import stored_name
from burnish.models.locate import locate
from burnish.models.tensor_names import linears
from burnish.models.tokenizer import load_tokenizer
from scripts.measured import CALIBRATION, DOCS, ROOT, TEXTS

PYTHON = ROOT / "benchmarks" / ".envs" / "llama_cpp" / "bin" / "python"
RECIPES = ("int4-g32", "int4-gptq-g32", "int4-awq-gptq-g32", "int4-autoround-g32")
THEIRS = {"q4_0": "Q4_0", "q4_k": "Q4_K"}

HEAD_TEXT = """# Four bits against llama.cpp's

Written by `scripts/compare_llama_cpp.py`: the built-in model, every matrix in 4.5 bits a weight and the embeddings in
Q8_0, all files scored by llama.cpp on the same {max_tokens:,} tokens of each text (windows of 512, stride 256).
llama.cpp's own quantizer was given the importance matrix of the same calibration text (128 samples of 512 tokens of
`{calibration}`) that our recipes were calibrated with. Loss: perplexity over that of the F16 file, minus 1,
± half of its 95 % interval.

| file | bytes | {texts} |
|---|---:|{rules}
"""


def main() -> None:
    """Quantize, score, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--max-tokens", type=int, default=20_000)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    asked = parser.parse_args()
    if not PYTHON.exists():
        raise SystemExit("llama.cpp is not built: make bench builds it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"F16": folder / "f16.gguf"}
        write_export(locate("builtin"), files["F16"], "gguf", _silent, type="f16")
        importance: dict[str, Any] = {**_importance(asked.data / CALIBRATION)}
        np.savez(folder / "importance.npz", **importance)
        for kind, told in THEIRS.items():
            files[f"llama.cpp {told}, imatrix"] = folder / f"{kind}.gguf"
            words = ("benchmarks.llama_cpp.build", files["F16"], folder / f"{kind}.gguf", kind)
            _run(*map(str, words), str(folder / "importance.npz"))
        for recipe in asked.recipes:
            data = asked.data / CALIBRATION
            needs = Asked(calibration=data) if recipe != "int4-g32" else None
            write_variant(locate("builtin"), folder / recipe, recipe, _silent, needs)
            files[f"burnish {recipe}"] = folder / f"{recipe}.gguf"
            write_export(folder / recipe, folder / f"{recipe}.gguf", "gguf", _silent, embeddings="q8_0")
        passages = {text: _passage(asked.data / path, asked.max_tokens) for text, path in TEXTS.items()}
        losses = {file: {text: _losses(path, passages[text]) for text in TEXTS} for file, path in files.items()}
        rows = []
        for file, path in files.items():
            cells = [_cell(losses, file, text, passages) for text in TEXTS]
            rows.append(f"| {' | '.join([file, f'{path.stat().st_size:,}', *cells])} |")
    head = HEAD_TEXT.format(
        max_tokens=asked.max_tokens,
        calibration=Path(CALIBRATION).name,
        texts=" | ".join(TEXTS),
        rules="---:|" * len(TEXTS),
    )
    (DOCS / "llama_cpp.md").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    print("\n".join(rows))


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


def _losses(file: Path, passage: Passage) -> NDArray[np.float64]:
    windows: list[Any] = [(fed[0].tolist(), scored) for fed, [scored] in fed_windows(passage, 1)]
    found = json.loads(_run("benchmarks.llama_cpp.answer", str(file), given=json.dumps({"windows": windows})))
    return np.concatenate([np.array(losses) for losses in found["windows"]])


def _cell(losses: dict[str, dict[str, NDArray[np.float64]]], file: str, text: str, passages: dict[str, Passage]) -> str:
    if file == "F16":
        return f"perplexity {math.exp(losses[file][text].mean()):.3f}"
    ratio = passages[text].mean(losses[file][text] - losses["F16"][text]).exp().shifted(-1)
    return f"{100 * ratio.value:+.2f} ± {50 * (ratio.high - ratio.low):.2f} %"


if __name__ == "__main__":
    main()
