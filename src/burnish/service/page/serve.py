"""GET /: the chat page as one document.

Style and script are written into it and named by hash in the Content-Security-Policy, so nothing else can run
and nothing is loaded from anywhere.
"""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class Page(NamedTuple):
    """The document and the headers it needs."""

    document: bytes
    headers: dict[str, str]


@cache
def chat_page() -> Page:
    """The page, put together once."""
    style, script = _file("page.css"), _file("page.js")
    document = _file("index.html").replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Page(document.encode(), headers)


async def show_page() -> Response:
    """The chat page."""
    return _response(200)


async def sign_in(scope: Scope, receive: Receive, send: Send) -> None:
    """The same page for a browser without an API key, as 401: the page itself asks for the key."""
    await _response(401)(scope, receive, send)


def _response(status: int) -> Response:
    page = chat_page()
    return Response(page.document, status, page.headers, "text/html")


def _file(name: str) -> str:
    return (files("burnish.service.page") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
