"""A GGUF file in another type, by llama.cpp's quantizer, every matrix in the same type ("pure").

python -m benchmarks.llama_cpp.build FLOAT.gguf OUT VARIANT
"""

import os
import sys
from pathlib import Path

import llama_cpp as llama
from gguf import GGUFReader

from benchmarks.facts import write_facts

TYPES = {
    "q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_k": llama.LLAMA_FTYPE_MOSTLY_Q4_K_S,
    "q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0,
}


def main(source: Path, out: Path, variant: str) -> None:
    """Write the folder of a variant; "f16" is a link to the source."""
    out.mkdir(parents=True)
    target = out / f"{variant}.gguf"
    if variant == "f16":
        os.link(source, target)
    else:
        quantize(source, target, TYPES[variant])
    write_facts(out, read_bytes=read_bytes(target))


def quantize(source: Path, target: Path, kind: int) -> None:
    """Write the quantized file."""
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = kind, True, 2
    if llama.llama_model_quantize(str(source).encode(), str(target).encode(), params) != 0:
        raise SystemExit(f"llama.cpp does not quantize to {target.stem}")


def read_bytes(path: Path) -> int:
    """All tensors; without the embeddings, unless they are the head as well."""
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
    embeddings = sizes["token_embd.weight"] if "output.weight" in sizes else 0
    return sum(sizes.values()) - embeddings


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
