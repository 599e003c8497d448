"""The quality gate: does a model keep a loss budget, as far as the data shows? Pure: figures in, verdict out."""

import math
from typing import Literal

from burnish.measure.intervals import Interval

Verdict = Literal["pass", "fail", "needs more data"]


def judge_loss(loss_ratio: Interval, max_loss: float) -> Verdict:
    """Whether the loss ratio (perplexity over the parent's, minus 1) is shown to be at most ``max_loss``.

    It passes when its whole 95 % interval keeps the budget and fails when none of it does; between the two the data
    cannot tell. A figure that is no number fails.
    """
    if not all(math.isfinite(figure) for figure in loss_ratio):
        return "fail"
    if loss_ratio.high <= max_loss:
        return "pass"
    return "fail" if loss_ratio.low > max_loss else "needs more data"
