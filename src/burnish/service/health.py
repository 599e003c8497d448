"""GET /health/live and /health/ready."""

from typing import Literal

from pydantic import BaseModel

from burnish.service.front import FrontOf


class Health(BaseModel):
    """A claim about the server."""

    status: Literal["live", "ready"]


async def live() -> Health:
    """The process answers."""
    return Health(status="live")


async def ready(front: FrontOf) -> Health:
    """New requests would be served; 503 while starting, restarting or draining."""
    front.lifecycle.check_ready()
    return Health(status="ready")
