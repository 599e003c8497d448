"""Compress a model by every recipe, measure what each lost on three texts, and write docs/compression.md.

    python scripts/write_compression.py [--model builtin] [--recipes NAME ...] [--max-tokens N] [--data FOLDER]

Everything is done by the command line, as a user would; what was measured before is kept in docs/compression.json
under the hashes it depends on, and only what is missing is done.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from burnish.compress.recipes import find_recipe

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TEXTS = {
    "stories": "text/public-domain-stories/frances-hodgson-burnett_the-secret-garden.txt",
    "WikiText-2": "text/wikitext-2/test.txt",
    "Shakespeare": "text/tinyshakespeare/input.txt",
}
CALIBRATION = "text/tinystories/tinystories_train_head.part1.txt"
METHODS = ("", "-imatrix", "-gptq", "-awq", "-awq-gptq", "-autoround")
RECIPES = (
    *("int8", "int8-gptq", "int8-w8a8-smoothquant"),
    *(f"int4{method}-g128" for method in METHODS),
    *("int4-g32", "int4-gptq-g32", "int4-autoround-g32", "mixed-5bit-gptq", "mixed-6bit-gptq"),
    *(f"int3{method}-g128" for method in METHODS),
    *(f"int2{method}-g32" for method in METHODS),
    *(f"{method}-{pattern}" for pattern in ("50", "2:4") for method in ("magnitude", "wanda", "sparsegpt")),
    *("shrink-25", "shrink-25-distill", "shrink-25-distill-int4"),
    *("int4-qat-g128", "int3-qat-g128", "int2-qat-g32"),
)


class Ran(NamedTuple):
    """What a command printed and took."""

    printed: dict[str, Any]
    seconds: float
    peak_bytes: int


def main() -> None:
    """Measure what is missing, then write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES))
    parser.add_argument("--max-tokens", type=int, default=40_000)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    asked = parser.parse_args()
    kept = DOCS / "compression.json"
    results: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    needed = {"calibration": asked.data / CALIBRATION} | {name: asked.data / path for name, path in TEXTS.items()}
    about = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in needed.items()}
    about |= {"model": asked.model, "max_tokens": asked.max_tokens}
    if results.get("about") != about:
        results = {"about": about, "recipes": {}}
    for recipe in asked.recipes:
        if recipe not in results["recipes"]:
            found = results["recipes"][recipe] = _measure(asked, recipe)
            kept.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(f"{recipe}: {_row(found)}", flush=True)
    (DOCS / "compression.md").write_text(_page(results), encoding="utf-8")


def _measure(asked: argparse.Namespace, recipe: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        words = ["compress", asked.model, str(out), "--recipe", recipe]
        if find_recipe(recipe).needs.data:
            words += ["--calibration", str(asked.data / CALIBRATION)]
        made = _burnish(words)
        found: dict[str, Any] = {"bytes": made.printed["bytes_after"], "parent_bytes": made.printed["bytes_before"]}
        found |= {
            "seconds": made.seconds,
            "peak_bytes": made.peak_bytes,
            "planned_bytes": made.printed["planned_bytes"],
        }
        for name, path in TEXTS.items():
            words = ["quality", str(out), "--against", asked.model, "--data", str(asked.data / path)]
            found[name] = _burnish([*words, "--max-tokens", str(asked.max_tokens)]).printed
        return found


def _burnish(words: Sequence[str]) -> Ran:
    """Run a command; its peak of memory is the kernel's figure for that process alone."""
    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, "-m", "burnish.cli.main", *words, "--json"], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"burnish {' '.join(words)} failed")
        out.seek(0)
        return Ran(json.loads(out.read()), time.monotonic() - begun, usage.ru_maxrss * 1024)


HEAD = """# What compression costs

Written by `scripts/write_compression.py`: each recipe applied to the model `{model}`, {size} in its own files,
calibrated with 128 samples of 512 tokens of `{calibration}` (seed 0), then measured as it is served. Change: perplexity
over the parent's, minus 1, on the same {max_tokens:,} tokens of each text, in windows of 512 tokens with a stride of
256, with its 95 % interval; KL: of the parent's distribution from the variant's, nats per token, mean of the texts;
same: how often both find the same token likeliest. Time and peak memory are those of the whole command on two cores.

| recipe | size | {texts} | KL | same | time | memory |
|---|---:|{rules}---:|---:|---:|---:|
"""


def _page(results: dict[str, Any]) -> str:
    rows = [f"| `{recipe}` | {_row(found)} |" for recipe, found in results["recipes"].items()]
    about = results["about"]
    first = next(iter(results["recipes"].values()))
    head = HEAD.format(
        model=about["model"],
        size=_mebibytes(first["parent_bytes"]),
        calibration=Path(CALIBRATION).name,
        max_tokens=about["max_tokens"],
        texts=" | ".join(TEXTS),
        rules="---:|" * len(TEXTS),
    )
    hashes = [f"- {name}: `{path}`, sha256 `{about[name][:16]}`" for name, path in TEXTS.items()]
    return head + "\n".join(rows) + "\n\nTexts:\n\n" + "\n".join(hashes) + "\n"


def _row(found: dict[str, Any]) -> str:
    changes = [_change(found[name]["loss_ratio"]) for name in TEXTS]
    kl = sum(found[name]["kl"]["value"] for name in TEXTS) / len(TEXTS)
    same = sum(found[name]["top1_agreement"]["value"] for name in TEXTS) / len(TEXTS)
    cells = [_mebibytes(found["bytes"]), *changes, f"{kl:.4f}", f"{100 * same:.1f} %"]
    return " | ".join([*cells, f"{found['seconds']:.0f} s", _mebibytes(found["peak_bytes"])])


def _change(ratio: dict[str, float]) -> str:
    return f"{100 * ratio['value']:+.2f} ± {50 * (ratio['high'] - ratio['low']):.2f} %"


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB"


if __name__ == "__main__":
    main()
