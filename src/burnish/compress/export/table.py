"""The export targets, by the word users write."""

from burnish.compress.export import gguf, hf, onnx
from burnish.compress.export.target import Target
from burnish.core.errors import BadSettings, nearest

TARGETS = {
    "hf": hf.TARGET,
    "gguf": gguf.TARGET,
    "onnx": onnx.TARGET,
}


def find_target(name: str) -> Target:
    """The target of that name. Raises ``BadSettings`` naming the nearest."""
    if name not in TARGETS:
        raise BadSettings(f"unknown export target {name!r}", remedy=nearest(name, list(TARGETS)))
    return TARGETS[name]
