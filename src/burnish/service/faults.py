"""The one map from error to response: every 4xx and 5xx leaves in the OpenAI error shape."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.core.errors import BadRequest, BurnishError, NotFound, Unauthorized

log = logging.getLogger("burnish.service")
RETRY_AFTER_S = 1.0
UNION_TAGS = frozenset({"str", "int", "float", "bool", "dict", "list"})


class MethodNotAllowed(BadRequest):
    """The path exists, the method does not."""

    status, code = 405, "method_not_allowed"


class Answer(NamedTuple):
    """What an error becomes on the wire."""

    status: int
    body: bytes
    headers: Mapping[str, str]


def answer(error: Exception) -> Answer:
    """Status, body and headers for any error; an unexpected one is logged and keeps its details to itself."""
    fault = fault_of(error)
    headers: dict[str, str] = dict(getattr(error, "headers", None) or {})
    if fault.retryable:
        headers["Retry-After"] = str(max(1, math.ceil(fault.retry_after_s or RETRY_AFTER_S)))
    if isinstance(fault, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if fault.code == "draining":
        headers["Connection"] = "close"
    return Answer(fault.status, error_json(fault), headers)


def error_json(fault: BurnishError) -> bytes:
    """The OpenAI error object. Plain ASCII, so that not even a lone surrogate in a message can break it."""
    error = {"message": str(fault), "type": fault.kind, "param": fault.param, "code": fault.code}
    return json.dumps({"error": error}).encode("ascii")


def fault_of(error: Exception) -> BurnishError:
    """The error as one of ours."""
    if isinstance(error, BurnishError):
        return error
    if isinstance(error.__cause__, BurnishError):  # a limit reached while FastAPI read the body
        return error.__cause__
    if isinstance(error, RequestValidationError):
        return _of_validation(error.errors())
    if isinstance(error, HTTPException):
        return _of_http(error)
    log.error("unexpected error", exc_info=error)
    return BurnishError("internal error", remedy="The server's log holds the details", code="internal_error")


async def respond(_: Request, error: Exception) -> Response:
    """``answer`` as a FastAPI exception handler."""
    made = answer(error)
    return Response(made.body, made.status, dict(made.headers), "application/json")


class Faults:
    """Outermost middleware: what no inner layer answered is answered here."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what the application raises; once a response has begun, all that is left is to end it."""
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except Exception as error:  # the edge of the process
            if started or scope["type"] != "http":
                raise
            response = await respond(Request(scope), error)
            await response(scope, receive, send)


def _of_http(error: HTTPException) -> BurnishError:
    if error.status_code == 404:
        return NotFound("no such path", remedy="GET /openapi.json lists them all")
    if error.status_code == 405:
        return MethodNotAllowed("this path does not know that method", remedy="The Allow header names those it knows")
    return BadRequest("the request body cannot be read", remedy="Send one JSON object in UTF-8", code="invalid_body")


def _of_validation(errors: Sequence[Mapping[str, Any]]) -> BadRequest:
    """One line for what pydantic found. Of a union's branches, the ones that got deepest tell most."""
    first = errors[0]
    if first["type"] == "json_invalid":
        reason = f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
        return BadRequest(reason, remedy="Correct it", code="invalid_json")
    if len(first["loc"]) == 1:
        return BadRequest("the body must be a JSON object sent as application/json", code="invalid_body")
    deepest = max(len(error["loc"]) for error in errors)
    told = [error for error in errors if error["loc"][1] == first["loc"][1] and len(error["loc"]) == deepest] or [first]
    param = _path(told[0]["loc"])
    reasons = list(dict.fromkeys(str(error["msg"]) for error in told))[:3]
    return BadRequest(f"parameter {param!r}: {' or '.join(reasons)}", param=param, code="invalid_value")


def _path(loc: Sequence[str | int]) -> str:
    """("body", "messages", 0, "content", "str") as ``messages[0].content``: union branches left out."""
    path = str(loc[1])
    for part in loc[2:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part not in UNION_TAGS:
            path += f".{part}"
    return path
