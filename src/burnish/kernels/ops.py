"""One public function per operation. One backend so far: the plain reference."""

from burnish.kernels.reference import (
    KeyLayout,
    gelu,
    gelu_tanh,
    layer_norm,
    linear,
    paged_attention,
    rms_norm,
    rotate,
    silu,
    write_keys,
)

__all__ = [
    "KeyLayout",
    "gelu",
    "gelu_tanh",
    "layer_norm",
    "linear",
    "paged_attention",
    "rms_norm",
    "rotate",
    "silu",
    "write_keys",
]
