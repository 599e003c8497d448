"""The streamed answers of an OpenAI-compatible server: what is asked, and what its server-sent events say."""

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_MOST_SAID = 4096  # bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """How a server is spoken to: the endpoint, and which parameters beyond the least it takes."""

    model: str
    chat: bool = False
    takes_usage: bool = True  # stream_options: {"include_usage": true}
    takes_ignore_eos: bool = True

    @property
    def path(self) -> str:
        """Of the endpoint."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def body(self, prompt: str, max_tokens: int) -> bytes:
        """A greedy request for a stream of ``max_tokens``, or fewer where the end of a text cannot be ignored."""
        asked: dict[str, Any] = {"model": self.model, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        asked |= {"messages": [{"role": "user", "content": prompt}]} if self.chat else {"prompt": prompt}
        if self.takes_usage:
            asked["stream_options"] = {"include_usage": True}
        if self.takes_ignore_eos:
            asked["ignore_eos"] = True
        return json.dumps(asked).encode()


class Failure(NamedTuple):
    """Why a request failed: the kind, in a word or two, and what was said."""

    kind: str
    detail: str


@dataclass(slots=True)
class Heard:
    """What one answer said so far.

    ``is_done``: the stream was ended as it should be. ``fault`` is what an error event told. ``said`` holds lines that
    are no event, as of an error's body, and ``rest`` what is no complete line yet.
    """

    text_s: list[float] = field(default_factory=list)
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    is_done: bool = False
    fault: str | None = None
    said: bytes = b""
    rest: bytes = b""

    def take(self, now: float, data: bytes) -> None:
        """Bytes of the body that arrived at an instant."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(now, line[5:].strip().decode("utf-8", "replace"))
            elif len(self.said) < _MOST_SAID:
                self.said += line

    def failure(self, status: int) -> Failure | None:
        """What is wrong with an answer that has ended."""
        if status != 200:
            return Failure(f"http {status}", self.told())
        if self.fault is not None:
            return Failure("error event", self.fault)
        if not self.is_done:
            return Failure("cut off", self.told() or "the stream ended without its end")
        return None if self.text_s else Failure("no text", "the stream held no text")

    def told(self) -> str:
        """The message of a body that is no stream of events."""
        text = (self.said + self.rest).decode("utf-8", "replace")
        try:
            return fault_of(json.loads(text))
        except (json.JSONDecodeError, RecursionError):
            return fault_of(text)

    def _event(self, now: float, told: str) -> None:
        if told == "[DONE]":
            self.is_done = True
            return
        try:
            chunk = json.loads(told)
        except (json.JSONDecodeError, RecursionError):
            chunk = None
        if not isinstance(chunk, dict):
            self.fault = self.fault or f"an event is no JSON object: {told[:60]}"
            return
        if chunk.get("error") is not None:
            self.fault = self.fault or fault_of(chunk)
        choices = [choice for choice in chunk.get("choices") or () if isinstance(choice, dict)]
        if any(map(_says_something, choices)):
            self.text_s.append(now)
        self.is_done = self.is_done or any(choice.get("finish_reason") for choice in choices)
        if isinstance(usage := chunk.get("usage"), dict):
            self.prompt_tokens = _count(usage.get("prompt_tokens"))
            self.output_tokens = _count(usage.get("completion_tokens"))


def fault_of(told: Any) -> str:
    """The message of an error body, whichever of the usual shapes it has."""
    error = told.get("error", told) if isinstance(told, dict) else told
    message = error.get("message", error) if isinstance(error, dict) else error
    return " ".join(str(message).split())[:200]


def _says_something(choice: dict[str, Any]) -> bool:
    """Whether a piece holds text; thoughts and calls of tools are text as well."""
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return bool(choice.get("text"))
    return any(delta.get(name) for name in ("content", "reasoning_content", "reasoning", "tool_calls"))


def _count(found: Any) -> int | None:
    return found if isinstance(found, int) else None
