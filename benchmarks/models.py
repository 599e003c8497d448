"""Every model that is measured, made once in a folder that git does not keep.

    config.json -> checkpoint (bfloat16) -> GGUF F16 -> Q4_0, Q4_K, Q8_0
                                         -> OpenVINO IR, ONNX, CTranslate2

burnish reads the checkpoint, or makes random integer weights itself.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.environments import python, run, tell
from benchmarks.peers import OURS, ROOT, Line, Shape

FOLDER = ROOT / ".models"
BUILDERS = {"openvino": "openvino_ir", "onnxruntime": "onnx_genai", "ctranslate2": "ctranslate2_model"}


def model(shape: Shape, line: Line) -> str:
    """What the line's worker loads, made when it is not there yet. Raises ``Unavailable`` when that fails."""
    if line.peer == OURS and line.format != "float":
        return f"random:{shape.config}"
    if line.peer in (OURS, "transformers"):
        return str(checkpoint(shape))
    target = FOLDER / shape.name / line.key
    if line.peer == "llama_cpp":
        source = gguf_float(shape)
        return _made(target, lambda part: _module("llama_cpp", "llama_cpp.build", source, part, line.variant))
    module = f"convert.{BUILDERS[line.peer]}"
    source = checkpoint(shape)
    return _made(target, lambda part: _module("convert", module, source, part, line.variant))


def checkpoint(shape: Shape) -> Path:
    """The shape's Hugging Face folder."""
    target = FOLDER / shape.name / "checkpoint"
    return Path(_made(target, lambda part: _module("convert", "convert.checkpoint", shape.config, part)))


def gguf_float(shape: Shape) -> Path:
    """The shape's GGUF file in F16."""
    source, target = checkpoint(shape), FOLDER / shape.name / "float.gguf"
    return Path(_made(target, lambda part: _module("convert", "convert.gguf_float", source, part)))


def artifact(shape: Shape, recipe: str) -> Path:
    """burnish's artifact of the shape's checkpoint."""
    source, target = checkpoint(shape), FOLDER / shape.name / f"artifact-{recipe}"
    command = [str(Path(python(OURS)).with_name("burnish")), "compress", str(source)]
    return Path(_made(target, lambda part: run([*command, str(part), "--recipe", recipe])))


def _module(environment: str, module: str, *arguments: Path | str) -> None:
    run([python(environment), "-m", f"benchmarks.{module}", *map(str, arguments)])


def _made(target: Path, make: Callable[[Path], None]) -> str:
    """Made under another name first, so that nothing half-made is ever taken for whole."""
    if not target.exists():
        tell(f"making {target.relative_to(FOLDER)}")
        part = target.with_name(f"{target.stem}.part{target.suffix}")
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
        part.parent.mkdir(parents=True, exist_ok=True)
        make(part)
        os.replace(part, target)  # noqa: PTH105 - a folder too
    return str(target)
