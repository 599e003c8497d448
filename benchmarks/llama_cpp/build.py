"""A GGUF file in another type, by llama.cpp's quantizer, every matrix in the same type ("pure").

    python -m benchmarks.llama_cpp.build FLOAT.gguf OUT VARIANT
    python -m benchmarks.llama_cpp.build FLOAT.gguf OUT.gguf TYPE IMPORTANCE.npz

The second form weighs errors by an importance matrix (name of a tensor -> mean square of every input), which is what
llama.cpp's imatrix tool measures, and stores the embeddings as Q8_0.
"""

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import llama_cpp as llama
import numpy as np
from gguf import GGUFReader
from numpy.typing import NDArray

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


def quantize(source: Path, target: Path, kind: int, importance: Path | None = None) -> None:
    """Write the quantized file."""
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.pure, params.nthread = kind, True, 2
    if importance is not None:
        entries = _importance(np.load(importance))
        params.imatrix = entries
        params.token_embedding_type = params.output_tensor_type = llama.GGML_TYPE_Q8_0
    if llama.llama_model_quantize(str(source).encode(), str(target).encode(), params) != 0:
        raise SystemExit(f"llama.cpp does not quantize to {target.stem}")


def _importance(matrix: Mapping[str, NDArray[np.float32]]) -> ctypes.Array[Any]:
    """Entries for the quantizer, ended by one without a name."""
    found: ctypes.Array[Any] = (llama.llama_model_imatrix_data * (len(matrix) + 1))()
    for entry, name in zip(found, matrix, strict=False):
        row = np.ascontiguousarray(matrix[name], dtype=np.float32)
        _KEPT.append(row)
        entry.name, entry.size = name.encode(), row.size
        entry.data = row.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return found


_KEPT: list[NDArray[np.float32]] = []  # what the entries point to


def read_bytes(path: Path) -> int:
    """All tensors; without the embeddings, unless they are the head as well."""
    sizes = {tensor.name: int(tensor.n_bytes) for tensor in GGUFReader(path).tensors}
    embeddings = sizes["token_embd.weight"] if "output.weight" in sizes else 0
    return sum(sizes.values()) - embeddings


if __name__ == "__main__":
    if len(sys.argv) == 5:
        quantize(Path(sys.argv[1]), Path(sys.argv[2]), TYPES[sys.argv[3]], Path(sys.argv[4]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
