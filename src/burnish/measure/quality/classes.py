"""How well networks tell images apart, and how much two of them agree.

Shapes: N images, K classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import BadSettings
from burnish.measure.intervals import Interval
from burnish.measure.quality.bootstrap import bootstrap_interval

MIN_IMAGES = 100  # fewer say too little about images that were not there


class Likeness(NamedTuple):
    """Two networks on the same images, with 95 % intervals by bootstrap over images."""

    kl: Interval  # KL(parent | network), nats per image
    agreement: Interval  # share of images that both find to be of the same class


def right_answers(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 for every image whose likeliest class, of logits (N, K), is its own, 0 for the others -> (N,).

    Raises ``BadSettings`` for labels (N,) that no class has.
    """
    if labels.max() >= logits.shape[1]:
        raise BadSettings(
            f"a label is {labels.max()}, the network knows {logits.shape[1]} classes", remedy="Number classes from 0"
        )
    right: NDArray[np.float64] = (logits.argmax(1) == labels).astype(np.float64)
    return right


def likeness(logits: NDArray[np.float32], parent: NDArray[np.float32]) -> Likeness:
    """Compare the logits (N, K) of two networks for the same images."""
    ours, theirs = _log_probabilities(logits), _log_probabilities(parent)
    each = np.arange(len(ours))
    same = (logits.argmax(1) == parent.argmax(1)).astype(np.float64)
    apart: NDArray[np.float64] = (np.exp(theirs) * (theirs - ours)).sum(1)
    return Likeness(bootstrap_interval(apart, each), bootstrap_interval(same, each))


def _log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(1, keepdims=True)
    found: NDArray[np.float64] = wide - np.log(np.exp(wide).sum(1, keepdims=True))
    return found
