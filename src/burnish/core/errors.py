"""Every fault a user can meet: one base, each with its HTTP status, its exit code and its remedy."""

from difflib import get_close_matches


class BurnishError(Exception):
    """A fault with one clear line for the user.

    ``message`` names the value, ``remedy`` says what to do, ``param`` names the field of an API request.
    """

    status = 500
    kind = "server_error"  # the OpenAI error type
    code: str | None = None
    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, remedy: str = "", param: str | None = None, code: str | None = None) -> None:
        super().__init__(f"{message}. {remedy}" if remedy else message)
        self.message, self.remedy, self.param = message, remedy, param
        self.code = code or self.code
        self.retry_after_s: float | None = None  # when to send a retryable request again; None: soon

    def __reduce__(self) -> tuple[object, ...]:
        own = type(self), self.message, self.remedy, self.param, self.code
        return (_rebuild, own, {"retry_after_s": self.retry_after_s})


def _rebuild(kind: type[BurnishError], message: str, remedy: str, param: str | None, code: str | None) -> BurnishError:
    return kind(message, remedy=remedy, param=param, code=code)


class BadRequest(BurnishError):
    """The request can never be served as it is."""

    status, kind, exit_code = 400, "invalid_request_error", 2


class PromptTooLong(BadRequest):
    """Prompt (and output asked for) exceed what the model or the block pool can hold."""

    code = "context_length_exceeded"


class Unauthorized(BurnishError):
    """No API key, or a wrong one."""

    status, kind, code, exit_code = 401, "authentication_error", "invalid_api_key", 2


class Forbidden(BurnishError):
    """Nobody may do this here."""

    status, kind, code, exit_code = 403, "permission_error", "forbidden", 2


class NotFound(BurnishError):
    """A path, model or file that does not exist."""

    status, kind, code, exit_code = 404, "invalid_request_error", "not_found", 2


class Conflict(BurnishError):
    """What only one may do at a time is being done."""

    status, kind, code = 409, "conflict_error", "conflict"


class PayloadTooLarge(BurnishError):
    """The body exceeds the limit."""

    status, kind, code, exit_code = 413, "invalid_request_error", "payload_too_large", 2


class Overloaded(BurnishError):
    """Too many requests wait; the same request may be sent again later."""

    status, kind, code, retryable = 429, "rate_limit_error", "overloaded", True

    @classmethod
    def for_seconds(cls, message: str, seconds: float) -> "Overloaded":
        """With the time after which there is reason to hope."""
        error = cls(message, remedy="Send the request again later")
        error.retry_after_s = seconds
        return error


class Unavailable(BurnishError):
    """The engine is starting, draining or being restarted; the same request may be sent again."""

    status, kind, code, retryable = 503, "service_unavailable_error", "engine_unavailable", True


class BadCheckpoint(BurnishError):
    """A model folder that cannot be loaded: missing, truncated, or not what its config says."""

    status, exit_code = 400, 2


class UnknownFamily(BadCheckpoint):
    """A model type no row of the family table describes."""


class BadSettings(BurnishError):
    """A settings file, environment variable or option that makes no sense."""

    status, exit_code = 400, 2


class VerificationFailed(BurnishError):
    """A model does not compute what its manifest says, results depend on the batch, or a budget or limit is missed."""

    exit_code = 3


class OutOfTime(BurnishError):
    """A measurement took longer than there was time for."""


class OutOfMemory(BurnishError):
    """A measurement took more memory than is allowed."""


def nearest(word: str, known: list[str]) -> str:
    """A remedy naming the nearest known word, whatever its case, or all of them."""
    lowered = {name.lower(): name for name in known}
    close = get_close_matches(word.lower(), lowered, n=1, cutoff=0.5)
    return f"Did you mean {lowered[close[0]]!r}?" if close else f"Known: {', '.join(sorted(known))}"
