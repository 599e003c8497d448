"""The process in which a candidate is measured: opens models as they are served."""

import numpy as np

from burnish.assemble import open_measured, open_plan
from burnish.optimize.trial import Reading, run_child

TRIED = "burnish.cli.tried"


def judge(order: Reading) -> int:
    """Score a text as ``burnish quality`` does."""
    from pathlib import Path

    from burnish.cli.quality import passage_of
    from burnish.measure.quality.corpus import read_corpus
    from burnish.measure.quality.perplexity import QualityConfig, token_losses
    from burnish.models.locate import locate

    config = QualityConfig(max_tokens=order.max_tokens)
    passage = passage_of(order.model, read_corpus(Path(order.text)), config)
    losses = token_losses(open_plan(locate(order.model)), passage, keys=order.keys)
    np.save(order.out, losses)
    return len(losses)


if __name__ == "__main__":
    run_child(lambda model: open_measured(model, None), judge)
