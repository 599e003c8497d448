"""What every endpoint works with."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import Request as HttpRequest

from burnish.core.errors import BadRequest, NotFound
from burnish.core.profile import Profiled
from burnish.core.types import ModelCard, TextCodec
from burnish.service.config import ServiceConfig
from burnish.service.guard import TENANT
from burnish.service.lifecycle import Lifecycle
from burnish.service.meter import Meter


@dataclass(frozen=True)
class Front:
    """The served model as seen from HTTP."""

    served: Meter
    codec: TextCodec | None
    card: ModelCard
    config: ServiceConfig
    lifecycle: Lifecycle
    profiler: Profiled | None = None

    @property
    def text(self) -> TextCodec:
        """The tokenizer. Raises ``BadRequest`` when the model has none."""
        if self.codec is None:
            raise BadRequest("the served model has no tokenizer", remedy="Send prompts as token ids")
        return self.codec

    def check_model(self, name: str) -> None:
        """Raise ``NotFound`` unless ``name`` is the served model."""
        if name != self.card.name:
            remedy = f"This server serves {self.card.name!r}"
            raise NotFound(f"model {name[:80]!r} does not exist", remedy=remedy, param="model", code="model_not_found")


async def _front(request: HttpRequest) -> Front:
    front: Front = request.app.state.front
    return front


async def _tenant(request: HttpRequest) -> str:
    tenant: str = request.scope.get(TENANT, "")
    return tenant


TenantOf = Annotated[str, Depends(_tenant)]
"""Who sent a request; empty where there are no keys"""
FrontOf = Annotated[Front, Depends(_front)]
