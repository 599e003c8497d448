"""A checkpoint as OpenVINO IR, its weights compressed by NNCF.

    python -m benchmarks.convert.openvino_ir CHECKPOINT OUT VARIANT

Variants: f16, int8 (symmetric, per channel), int4 (symmetric, the widest groups of at most 128 that fit every layer,
the output head and the embeddings too: the same bits for everybody).
"""

import json
import sys
from pathlib import Path
from typing import Any

import openvino as ov
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

from benchmarks.convert.groups import widest_group
from benchmarks.facts import write_facts


def main(checkpoint: Path, out: Path, variant: str) -> None:
    """Write the folder of a variant."""
    shape = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    options = {"f16": {"load_in_8bit": False}} | {
        name: {"quantization_config": OVWeightQuantizationConfig(**scheme)} for name, scheme in schemes(shape).items()
    }
    model = OVModelForCausalLM.from_pretrained(checkpoint, export=True, compile=False, **options[variant])
    model.save_pretrained(out)
    write_facts(out, read_bytes=read_bytes(out, shape))


def schemes(shape: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What NNCF is asked for."""
    return {
        "int8": {"bits": 8, "sym": True},
        "int4": {"bits": 4, "sym": True, "group_size": widest_group(shape), "all_layers": True, "ratio": 1.0},
    }


def read_bytes(folder: Path, shape: dict[str, Any]) -> int:
    """All constants but the embeddings, unless these are the head as well."""
    model = ov.Core().read_model(folder / "openvino_model.xml")
    constants = {node.get_friendly_name(): node for node in model.get_ops() if node.get_type_name() == "Constant"}
    sizes = {name: int(node.get_byte_size()) for name, node in constants.items()}
    tied = bool(shape.get("tie_word_embeddings"))
    return sum(size for name, size in sizes.items() if tied or "embed_tokens" not in name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
