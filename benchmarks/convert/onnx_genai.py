"""A checkpoint as an ONNX model for ONNX Runtime GenAI, by its own builder.

    python -m benchmarks.convert.onnx_genai CHECKPOINT OUT VARIANT

Variants: int4 and int8 (symmetric blocks, the widest of at most 128 that fit every layer; accuracy level 4, which is
int8 arithmetic: the fastest).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import onnx

from benchmarks.convert.groups import widest_group
from benchmarks.facts import write_facts


def main(checkpoint: Path, out: Path, variant: str) -> None:
    """Write the folder of a variant."""
    shape = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    options = (f"block_size={widest_group(shape)}", "accuracy_level=4", "is_symmetric=true")
    with tempfile.TemporaryDirectory() as cache:
        paths = ("-i", str(checkpoint), "-o", str(out), "-c", cache)
        command = (sys.executable, "-m", "onnxruntime_genai.models.builder", *paths, "-p", variant, "-e", "cpu")
        subprocess.run((*command, "--extra_options", *options), check=True)
    write_facts(out, read_bytes=read_bytes(out / "model.onnx", tied=bool(shape.get("tie_word_embeddings"))))


def read_bytes(path: Path, *, tied: bool) -> int:
    """All stored tensors but the embeddings, unless these are the head as well."""
    model = onnx.load(path, load_external_data=False)
    sizes = {tensor.name: _size(tensor) for tensor in model.graph.initializer}
    return sum(size for name, size in sizes.items() if tied or "embed_tokens" not in name)


def _size(tensor: onnx.TensorProto) -> int:
    bits = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4}.get(tensor.data_type)
    if bits is None:
        bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    count = 1
    for size in tensor.dims:
        count *= size
    return count * bits // 8


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
