"""The native kernels, where they are built and this processor runs them."""

import logging
from functools import cache
from types import ModuleType

log = logging.getLogger(__name__)

PORTABLE = "portable"


@cache
def native() -> ModuleType | None:
    """The extension module; None where the package was installed without a compiler, which is said once."""
    try:
        from burnish.kernels.cpu import _native
    except ImportError:
        log.warning("installed without native kernels: everything works, slowly. Install again with a C++ compiler")
        return None
    if best_body(_native) == PORTABLE:
        log.warning("this processor has no AVX2 with FMA and F16C: the portable kernels work, slowly")
    return _native


@cache
def best_body(module: ModuleType) -> str:
    """Name of the fastest kernels this processor runs."""
    names: list[str] = module.bodies()
    return names[0]
