"""burnish takes a trained model to production: it measures the model, slims it, serves it.

``LLM`` and ``Sampling`` are the Python API; they are loaded when first used, so that the command line and the HTTP
process start without torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from burnish.core.types import Sampling
    from burnish.llm import LLM

__all__ = ["LLM", "Sampling", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "LLM":
        from burnish.llm import LLM

        return LLM
    if name == "Sampling":
        from burnish.core.types import Sampling

        return Sampling
    raise AttributeError(f"module 'burnish' has no attribute {name!r}")
