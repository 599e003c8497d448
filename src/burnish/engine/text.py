"""From chosen tokens to text that may be shown: whole characters, and nothing of a stop string."""

from typing import Protocol


class TokenText(Protocol):
    """Incremental detokenizing: what ``models.tokenizer.TextStream`` offers."""

    def push(self, token_id: int) -> str:
        """Text that became certain with this token."""
        ...

    def finish(self) -> str:
        """What is left."""
        ...


class NoText:
    """For models without a tokenizer."""

    def push(self, token_id: int) -> str:
        """Nothing to say."""
        return ""

    def finish(self) -> str:
        """Nothing left."""
        return ""


class OutputText:
    """Text of a generation. Holds back a tail that could still become a stop string."""

    def __init__(self, stream: TokenText, stop: tuple[str, ...]) -> None:
        self._stream, self._stop = stream, stop
        self._held = ""
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Text that may be shown after this token; sets ``stopped`` when a stop string is complete."""
        return self._release(self._stream.push(token_id))

    def finish(self) -> str:
        """The rest, when generation ended for another reason."""
        shown = self._release(self._stream.finish())
        rest, self._held = self._held, ""
        return shown if self.stopped else shown + rest

    def _release(self, new: str) -> str:
        if self.stopped or not new:
            return ""
        text = self._held + new
        ends = [at + len(stop) for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:  # of several in one piece of text, the first to be complete
            until = text[: min(ends)]
            self.stopped, self._held = True, ""
            return until[: min(at for stop in self._stop if (at := until.find(stop)) >= 0)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that begins ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
