"""Compress a model by every recipe, measure what each lost on three texts, and write docs/compression.md.

    python -m scripts.write_compression [--model builtin] [--recipes [NAME ...]] [--max-tokens N] [--data FOLDER]

Everything is done by the command line, as a user would; what was measured before is kept in docs/compression.json
under the hashes it depends on, and only what is missing is done. ``--recipes`` alone writes the page again.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from scripts.compression_page import RECIPES, page, row
from scripts.measured import DOCS, SHARED, TEXTS, Kept, burnish, compressed, hashes


def main() -> None:
    """Measure what is missing, then write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--recipes", nargs="*", default=list(RECIPES))
    parser.add_argument("--max-tokens", type=int, default=20_000)
    parser.add_argument("--data", type=Path, default=SHARED)
    asked = parser.parse_args()
    about = hashes(asked.data) | {"model": asked.model, "max_tokens": asked.max_tokens}
    kept = Kept(DOCS / "compression.json", about)
    for text in TEXTS:
        if text not in kept.section("keys"):
            kept.put("keys", text, _quality(asked, asked.model, text, "--keys", "int8"))
    for recipe in asked.recipes:
        if recipe not in kept.section("recipes"):
            kept.put("recipes", recipe, _measure(asked, recipe))
            print(f"{recipe}: {row(kept.section('recipes')[recipe])}", flush=True)
    written = page(about, kept.section("recipes"), kept.section("keys"))
    (DOCS / "compression.md").write_text(written, encoding="utf-8")


def _measure(asked: argparse.Namespace, recipe: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        found = compressed(asked.model, recipe, out, asked.data)
        return found | {text: _quality(asked, str(out), text) for text in TEXTS}


def _quality(asked: argparse.Namespace, model: str, text: str, *more: str) -> dict[str, Any]:
    words = ["quality", model, "--against", asked.model, "--data", str(asked.data / TEXTS[text])]
    return burnish([*words, "--max-tokens", str(asked.max_tokens), *more]).printed


if __name__ == "__main__":
    main()
