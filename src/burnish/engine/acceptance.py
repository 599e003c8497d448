"""How often drafts are right, by how long the text ran along with what it said before."""

LONG = 8  # tokens in a row: longer runs count as this long
BY_MODEL = 0  # the run of what a model expects, which no text ran along with
PRIORS = (0.6, 0.2, 0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9)  # by run, before anything is known
PRIOR_WEIGHT = 4.0  # tokens


class Acceptance:
    """Shares of expected tokens that came, the latest counting most.

    Where little is known they lie near those of ``others``.
    """

    def __init__(self, others: "Acceptance | None" = None, *, kept: float = 0.95) -> None:
        """``kept``: what a token's weight keeps with each later one of an equal run."""
        self._others, self._kept = others, kept
        self._right, self._tried = [0.0] * (LONG + 1), [0.0] * (LONG + 1)

    def learn(self, run: int, was_right: bool) -> None:
        """What was expected after a run came, or did not."""
        at = min(run, LONG)
        self._right[at] = self._right[at] * self._kept + was_right
        self._tried[at] = self._tried[at] * self._kept + 1
        if self._others is not None:
            self._others.learn(run, was_right)

    def share(self, run: int) -> float:
        """Of tokens expected after such a run, those that come."""
        at = min(run, LONG)
        prior = PRIORS[at] if self._others is None else self._others.share(run)
        return (self._right[at] + PRIOR_WEIGHT * prior) / (self._tried[at] + PRIOR_WEIGHT)
