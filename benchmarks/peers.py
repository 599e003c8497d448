"""Who is measured: the one table to extend.

A line is a peer with weights in one variant. Formats group what is compared: int4 (4.1 to 4.5 bits a weight with its
scales, the output head included), int8 (8 to 8.5 bits), float (16 or 32 bits).
"""

from pathlib import Path
from typing import Literal, NamedTuple

Format = Literal["int4", "int8", "float"]
ROOT = Path(__file__).parent
FORMATS: tuple[Format, ...] = ("int4", "int8", "float")
NOMINAL_BITS = {"int4": 4.5, "int8": 8.0, "float": 16.0}  # for the limit that memory sets
OURS = "burnish"


class Shape(NamedTuple):
    """A model's shape: a config.json, beside real weights or none."""

    name: str
    title: str
    config: Path


class Line(NamedTuple):
    """A peer with weights in one variant."""

    peer: str  # its folder here
    format: Format
    variant: str  # as its builder and worker know it
    label: str
    shapes: tuple[str, ...] = ("1.1b", "143m", "builtin")

    @property
    def key(self) -> str:
        """A name for files and JSON."""
        return f"{self.peer}-{self.variant}"


SHAPES = (
    Shape("1.1b", "1.1B", ROOT / "shapes" / "1.1b.json"),
    Shape("143m", "143M", ROOT / "shapes" / "143m.json"),
    Shape("builtin", "built-in, 7M", ROOT.parent / "src" / "burnish" / "builtin" / "stories" / "config.json"),
)

LINES = (
    Line("burnish", "int4", "int4", "burnish int4"),  # the widest groups that fit, as OpenVINO's and ONNX Runtime's
    Line("burnish", "int4", "int4-g32", "burnish int4 g32"),  # as many bits as Q4_0
    Line("llama_cpp", "int4", "q4_0", "llama.cpp Q4_0"),
    Line("llama_cpp", "int4", "q4_k", "llama.cpp Q4_K", ("1.1b",)),  # its blocks are 256 wide
    Line("openvino", "int4", "int4", "OpenVINO int4"),
    Line("onnxruntime", "int4", "int4", "ONNX Runtime int4"),
    Line("burnish", "int8", "int8", "burnish int8"),
    Line("llama_cpp", "int8", "q8_0", "llama.cpp Q8_0"),
    Line("openvino", "int8", "int8", "OpenVINO int8"),
    Line("onnxruntime", "int8", "int8", "ONNX Runtime int8"),
    Line("ctranslate2", "int8", "int8", "CTranslate2 int8"),
    Line("burnish", "float", "dense", "burnish bf16"),
    Line("llama_cpp", "float", "f16", "llama.cpp F16"),
    Line("openvino", "float", "f16", "OpenVINO f16"),
    Line("ctranslate2", "float", "float32", "CTranslate2 f32"),
    Line("transformers", "float", "bfloat16", "transformers bf16", ("143m", "builtin")),  # minutes a run at 1.1B
    Line("transformers", "float", "float32", "transformers f32"),
)
PEERS = tuple(dict.fromkeys(line.peer for line in LINES))
