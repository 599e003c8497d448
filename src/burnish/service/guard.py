"""What a request must pass before it reaches an endpoint: pure ASGI middleware."""

import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from burnish.core.errors import PayloadTooLarge, Unauthorized
from burnish.service.lifecycle import Lifecycle

HEALTH = "/health/"
TENANT, TENANT_LENGTH = "burnish.tenant", 16  # of a scope; who sent a request, told by the key
OPEN_WHILE_DRAINING = (HEALTH, "/metrics")


class Admission:
    """Refuses everything but health and metrics while the server drains."""

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle) -> None:
        self.app, self.lifecycle = app, lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise ``Unavailable`` while draining."""
        if scope["type"] == "http" and not scope["path"].startswith(OPEN_WHILE_DRAINING):
            self.lifecycle.check_admission()
        await self.app(scope, receive, send)


class Keys:
    """Asks every path except health for ``Authorization: Bearer <key>``. Every key is a tenant of its own.

    A browser that opens the page without a key gets ``sign_in``: a document that can ask for one.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], sign_in: ASGIApp) -> None:
        self.app, self.sign_in = app, sign_in
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise ``Unauthorized`` without a known key."""
        app = self.app
        if scope["type"] == "http" and self.keys and not scope["path"].startswith(HEALTH):
            headers = Headers(scope=scope)
            key = self._known(headers)
            if key is not None:
                scope = dict(scope) | {TENANT: hashlib.sha256(key).hexdigest()[:TENANT_LENGTH]}
            else:
                if not _opens_page(scope, headers):
                    raise Unauthorized("missing or wrong API key", remedy="Send it as 'Authorization: Bearer KEY'")
                app = self.sign_in
        await app(scope, receive, send)

    def _known(self, headers: Headers) -> bytes | None:
        """The key of a request; None without one that is known."""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        offered = key.strip().encode("latin-1")
        # Every key is compared, in constant time: the answer's delay tells nothing.
        matches = [hmac.compare_digest(offered, known) for known in self.keys]
        return offered if scheme.lower() == "bearer" and any(matches) else None


class BodyLimit:
    """Refuses bodies over ``max_bytes``, announced or sent in chunks."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raise ``PayloadTooLarge``, at the latest when the byte too many arrives."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self.max_bytes:
            raise self._too_large()
        num_bytes = 0

        async def counted() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, counted, send)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body exceeds {self.max_bytes} bytes", remedy="Send less at once")


def _opens_page(scope: Scope, headers: Headers) -> bool:
    return scope["path"] == "/" and scope["method"] == "GET" and "text/html" in headers.get("accept", "")
