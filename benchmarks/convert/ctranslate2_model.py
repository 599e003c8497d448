"""A checkpoint as a CTranslate2 model, by its own converter.

    python -m benchmarks.convert.ctranslate2_model CHECKPOINT OUT VARIANT

Variants: int8 (per channel) and float32.
"""

import json
import sys
from pathlib import Path

from ctranslate2.converters import TransformersConverter

from benchmarks.facts import write_facts

ITEM_BYTES = {"int8": 1, "float32": 4}


def main(checkpoint: Path, out: Path, variant: str) -> None:
    """Write the folder of a variant."""
    TransformersConverter(str(checkpoint)).convert(str(out), quantization=variant)
    shape = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    table = int(shape["vocab_size"]) * int(shape["hidden_size"]) * ITEM_BYTES[variant]
    stored = (out / "model.bin").stat().st_size
    write_facts(out, read_bytes=stored if shape.get("tie_word_embeddings") else stored - table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
