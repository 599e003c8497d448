"""The part of ``burnish profile`` that asks a running server."""

import json as jsons
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from pydantic import TypeAdapter, ValidationError

from burnish.cli.output import out, print_json
from burnish.cli.profile_table import shares_table
from burnish.cli.trace_file import write_trace
from burnish.core.errors import (
    BadRequest,
    BadSettings,
    BurnishError,
    Conflict,
    Forbidden,
    NotFound,
    Unauthorized,
    Unavailable,
)
from burnish.core.profile_summary import Summary

PATH = "/admin/profile"
PATIENCE_S = 600.0  # the server has its own limit, which ends it long before
KINDS: tuple[type[BurnishError], ...] = (BadRequest, Unauthorized, Forbidden, NotFound, Conflict, Unavailable)
_SUMMARY = TypeAdapter(Summary)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerProfile:
    """What was recorded."""

    url: str
    model: str
    summary: Summary
    trace: Path


class _Fetched(NamedTuple):
    model: str
    summary: Summary
    text: str


def is_url(target: str) -> bool:
    """Whether a server is meant, not a model."""
    return target.lower().startswith(("http://", "https://"))


def profile_server(url: str, num_steps: int, api_key: str | None, trace: Path) -> ServerProfile:
    """Let a server record its next steps, and write the trace.

    Raises what the server says is wrong, and ``Unavailable`` when it cannot be reached.
    """
    if num_steps < 1:
        raise BadSettings(f"steps {num_steps} is too small", remedy="Use 1 or more")
    if not urlsplit(url).hostname:
        raise BadSettings(f"address {url!r} names no server", remedy="Write http://HOST:PORT")
    if api_key is not None and not (api_key.isprintable() and _is_latin(api_key)):
        raise BadSettings("the API key cannot be sent in a header", remedy="Give it as it was given to you")
    fetched = _read(_ask(url.rstrip("/") + PATH, num_steps, api_key), url)
    write_trace(trace, fetched.text)
    return ServerProfile(url=url, model=fetched.model, summary=fetched.summary, trace=trace)


def show_server(found: ServerProfile, *, json: bool) -> None:
    """A JSON object, or a table."""
    if json:
        print_json(found)
        return
    out.print(shares_table(found.summary, f"{found.model} at {found.url}"))
    out.print(f"Wrote {found.trace}", highlight=False, soft_wrap=True, markup=False)


def _is_latin(text: str) -> bool:
    return all(ord(letter) < 256 for letter in text)


def _ask(url: str, num_steps: int, api_key: str | None) -> str:
    headers = {"Content-Type": "application/json"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    body = jsons.dumps({"steps": num_steps}).encode()
    try:
        request = Request(url, data=body, headers=headers, method="POST")  # noqa: S310 - ``is_url`` has seen it
        with urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310
            told: bytes = answer.read()
            return told.decode()
    except HTTPError as error:
        with error:
            raise _refusal(error.code, error.read()) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise Unavailable(f"{url} cannot be reached: {reason}", remedy="Is a server running there?") from None


def _refusal(status: int, body: bytes) -> BurnishError:
    """What the server said, as the error it stands for."""
    kind = next((kind for kind in KINDS if kind.status == status), BurnishError)
    try:
        message = str(jsons.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return kind(f"the server answered with status {status}", remedy="Is it a burnish server?")
    return kind(message)


def _read(text: str, url: str) -> _Fetched:
    try:
        trace: dict[str, Any] = jsons.loads(text)
        other = trace["otherData"]
        return _Fetched(str(other["model"]), _SUMMARY.validate_python(other["summary"]), text)
    except (ValueError, LookupError, TypeError, ValidationError):
        raise BurnishError(
            f"{url} answered with no profile", remedy="Is it a burnish server of this version?"
        ) from None
