"""Choosing from logits. Shapes: R rows, V vocabulary."""

import numpy as np
from numpy.typing import NDArray

from burnish.kernels.native import best_body, native


def argmax(logits: NDArray[np.float32]) -> list[int | None]:
    """The first maximum of every row of logits (R, V); None for a row that holds NaN or infinity, or nothing finite.

    Minus infinity is a token that cannot be chosen, not a fault.
    """
    module = native()
    if module is not None:
        return [token if token >= 0 else None for token in module.argmax(logits, body=best_body(module))]
    best: list[int | None] = logits.argmax(1).tolist()  # NaN counts as a maximum
    highest = logits.max(1, initial=-np.inf).tolist()
    return [token if -np.inf < value < np.inf else None for token, value in zip(best, highest, strict=True)]
