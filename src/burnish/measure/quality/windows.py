"""A long text cut into overlapping windows, each token scored exactly once."""

from typing import NamedTuple

from burnish.core.errors import BadSettings


class Window(NamedTuple):
    """Tokens ``begin`` .. ``end`` are fed, those from ``score_from`` on are scored. Indices into the text."""

    begin: int
    score_from: int
    end: int


def cut(num_tokens: int, *, length: int, stride: int, first_scored: int) -> list[Window]:
    """Windows of ``length`` tokens that move on by ``stride``.

    A token past the first window is scored with at least ``length - stride`` tokens before it in its window; the
    last window reaches back as far as the others, so that all are equally long. ``first_scored`` is 0 when
    something stands before the text (a beginning-of-sequence token), else 1: the first token has no prediction.
    Raises ``BadSettings`` for a length or stride that cannot be.
    """
    longest = length - first_scored  # the first token of a window must be context when nothing stands before it
    if not 1 <= stride <= longest:
        raise BadSettings(f"stride {stride} must be 1 to {longest} for windows of {length}", remedy="Correct it")
    end = min(length, num_tokens)
    windows = [Window(0, first_scored, end)]
    while end < num_tokens:
        start, end = end, min(end + stride, num_tokens)
        windows.append(Window(end - length, start, end))
    return windows
