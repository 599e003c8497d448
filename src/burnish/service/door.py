"""What answers at the port while the model loads."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from burnish.core.errors import Unavailable
from burnish.service.faults import Faults
from burnish.service.health import Health


class Door:
    """An application that may be replaced while it serves: at first the one that says "not yet"."""

    def __init__(self) -> None:
        self.app: ASGIApp = Faults(_starting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""
        await self.app(scope, receive, send)


async def _starting(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] != "/health/live":
        raise Unavailable("the engine is starting", remedy="Try again in a moment")
    await JSONResponse(Health(status="live").model_dump())(scope, receive, send)
