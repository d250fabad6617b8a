"""The HTTP application: routes, errors, limits. Everything that decides anything is behind `service`."""

from __future__ import annotations

from importlib.metadata import version
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from roundtable.errors import (
    InvalidExperiment,
    InvalidInput,
    NotPossible,
    RateLimited,
    StorageFull,
    TooLarge,
    Unknown,
)
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from aggregator import problems
from aggregator.routes import health, openapi, orders, page, runs, telemetry, workers
from aggregator.routes.openapi import Responses, refusals
from aggregator.service import Service

# With the refusals that all endpoints of a router share, besides those that come with their token.
_ROUTERS: Final[tuple[tuple[APIRouter, Responses], ...]] = (
    (workers.router, {}),
    (workers.session, refusals(TooLarge, InvalidInput, StorageFull)),
    (orders.router, refusals(Unknown)),
    (runs.router, refusals(Unknown, InvalidInput)),
    (runs.admin, refusals(Unknown, NotPossible, TooLarge, InvalidInput, InvalidExperiment, StorageFull)),
    (telemetry.router, refusals(NotPossible, TooLarge, InvalidInput, RateLimited)),
    (health.router, {}),
    (page.router, {}),
)


def create_app(service: Service) -> FastAPI:
    """`service` is opened and closed by whoever serves the app."""
    app = FastAPI(
        title="Roundtable aggregator",
        description="The protocol is told in docs/protocol.md.",
        version=version("roundtable-aggregator"),
        docs_url=None,  # routes/page has our own
        redoc_url=None,
        separate_input_output_schemas=False,
        responses=openapi.ANY_OTHER,
    )
    app.state.service = service
    app.add_middleware(problems.BoundedJson)
    problems.install(app)
    app.add_exception_handler(405, _another_method)
    for router, responses in _ROUTERS:
        app.include_router(router, responses=responses)
    describe = app.openapi
    app.openapi = lambda: openapi.complete(describe())  # type: ignore[method-assign]
    return app


def _another_method(request: Request, error: Exception) -> Response:
    """Of all routes of the path: the one that it met names its own method alone."""
    assert isinstance(error, HTTPException) and error.headers is not None
    allowed = set(error.headers["Allow"].split(", "))
    for router, _ in _ROUTERS:
        for route in router.routes:
            if isinstance(route, Route) and route.path_regex.match(request.scope["path"]):
                allowed |= route.methods or set()
    return problems.problem(405, problems.PLAIN, error.detail, {"Allow": ", ".join(sorted(allowed))})
