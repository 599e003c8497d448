"""POST /admin/profile: what the engine does in its next steps."""

import asyncio
import json
from typing import Any

from pydantic import BaseModel, Field

from burnish.core.errors import BadRequest, Forbidden, NotFound, Unavailable
from burnish.core.profile import Profiled
from burnish.core.trace import chrome_trace
from burnish.service.front import Front, FrontOf
from burnish.service.openai.schema import INT64, Body
from burnish.service.stream import Watched, whole


class ProfileBody(Body):
    """How much to record."""

    steps: int = Field(64, ge=1, lt=INT64)


class TraceShape(BaseModel):
    """A trace in Chrome's Trace Event Format; ``otherData`` holds the model's name and the summary."""

    displayTimeUnit: str  # noqa: N815 - the format's own name
    otherData: dict[str, Any]  # noqa: N815
    traceEvents: list[dict[str, Any]]  # noqa: N815


async def record_profile(body: ProfileBody, front: FrontOf) -> Watched:
    """The engine's next steps as a Chrome trace, under the requests the server gets meanwhile.

    Answers when they are computed, or after ``profile_s`` with those that were. Neither texts nor ids are in it.
    """
    profiler = _allowed(front)
    most, limit_s = front.config.max_profile_steps, front.config.profile_s
    if body.steps > most:
        raise BadRequest(f"steps = {body.steps} is out of range", remedy=f"Use 1 to {most}", param="steps")

    async def answer() -> str:
        found = await profiler.profile(body.steps, limit_s=limit_s)
        if not found.steps:
            raise Unavailable(
                f"the engine had nothing to do for {limit_s:g} s",
                remedy="Send requests while it is recorded",
                code="nothing_recorded",
            )
        return await asyncio.to_thread(lambda: json.dumps(chrome_trace(found, front.card.name)))

    return whole(front.lifecycle, answer)


def _allowed(front: Front) -> Profiled:
    """Raise ``Forbidden`` on a server without keys: nobody who reaches its port is anybody in particular."""
    if not front.config.api_keys:
        raise Forbidden("a server without API keys cannot be profiled", remedy="Start it with --api-key KEY")
    if front.profiler is None:
        raise NotFound("what serves here cannot be profiled", remedy="Profile its engine where it runs")
    return front.profiler
