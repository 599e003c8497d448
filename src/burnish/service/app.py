"""The HTTP application: one list of routes, one list of middleware."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware import Middleware
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from burnish import __version__
from burnish.core.errors import BurnishError
from burnish.core.profile import Profiled
from burnish.core.types import ModelCard, Served, TextCodec
from burnish.service import health, metrics, profile
from burnish.service.config import ServiceConfig
from burnish.service.faults import Faults, respond
from burnish.service.front import Front
from burnish.service.guard import Admission, BodyLimit, Keys
from burnish.service.lifecycle import Lifecycle
from burnish.service.meter import Meter
from burnish.service.openai import chat, completions, models, tokenize
from burnish.service.openai.shapes import (
    ChatCompletion,
    ErrorShape,
    ModelList,
    ModelShape,
    Text,
    TextCompletion,
    Tokens,
)
from burnish.service.page import serve

SSE = "text/event-stream"
SSE_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}


class Route(NamedTuple):
    """A path and what answers it; ``shape`` describes the answer in /openapi.json."""

    method: str
    path: str
    endpoint: Callable[..., Any]
    shape: Any = None
    response: type[Response] = JSONResponse
    also: str | None = None  # a second content type of a 200


ROUTES = (
    Route("POST", "/v1/chat/completions", chat.create_chat_completion, ChatCompletion, also=SSE),
    Route("POST", "/v1/completions", completions.create_completion, TextCompletion, also=SSE),
    Route("GET", "/v1/models", models.list_models, ModelList),
    Route("GET", "/v1/models/{model:path}", models.retrieve_model, ModelShape),
    Route("POST", "/tokenize", tokenize.tokenize, Tokens),
    Route("POST", "/detokenize", tokenize.detokenize, Text),
    Route("GET", "/health/live", health.live, health.Health),
    Route("GET", "/health/ready", health.ready, health.Health),
    Route("POST", "/admin/profile", profile.record_profile, profile.TraceShape),
    Route("GET", "/metrics", metrics.scrape, None, PlainTextResponse),
    Route("GET", "/", serve.show_page, None, HTMLResponse),
)


def create_app(
    served: Served,
    codec: TextCodec | None,
    card: ModelCard,
    config: ServiceConfig,
    profiler: Profiled | None = None,
) -> FastAPI:
    """The application over one served model.

    ``codec`` is None for a model without tokenizer: prompts are then token ids only. ``profiler`` records the engine
    behind ``served``, None where there is none that can be recorded. ``app.state.front`` holds the
    meter and the lifecycle; ``serve`` drains through it.
    """
    meter = Meter(served)
    lifecycle = Lifecycle(meter, config)
    app = FastAPI(
        title="burnish",
        version=__version__,
        docs_url=None,  # the documentation pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=dict.fromkeys((HTTPException, RequestValidationError, BurnishError), respond),
        responses={"4XX": {"model": ErrorShape}, "5XX": {"model": ErrorShape}},
        middleware=[
            Middleware(Faults),
            Middleware(Keys, keys=config.api_keys, sign_in=serve.sign_in),
            Middleware(Admission, lifecycle=lifecycle),
            Middleware(BodyLimit, max_bytes=config.max_body_bytes),
        ],
    )
    app.state.front = Front(meter, codec, card, config, lifecycle, profiler)
    for route in ROUTES:
        _add(app, route)
    return app


def _add(app: FastAPI, route: Route) -> None:
    content = {route.also: {"schema": SSE_EVENT}} if route.also else {}
    app.add_api_route(
        route.path,
        route.endpoint,
        methods=[route.method],
        response_model=route.shape,
        response_class=route.response,
        responses={200: {"content": content}} if content else {},
        description=route.endpoint.__doc__,
    )
