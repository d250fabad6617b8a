"""The HTTP application: routes, errors, limits. Everything that decides anything is behind `service`."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from aggregator import problems
from aggregator.routes import orders, page, runs, telemetry, workers
from aggregator.routes.access import SCHEMES
from aggregator.service import Service


def create_app(service: Service) -> FastAPI:
    """`service` is opened and closed by whoever serves the app."""
    app = FastAPI(
        title="Roundtable aggregator",
        description="The protocol is told in docs/protocol.md.",
        version=version("roundtable-aggregator"),
        docs_url=None,  # routes/page has our own
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    app.add_middleware(problems.BoundedJson)
    problems.install(app)
    for module in (workers, orders, runs, telemetry, page):
        app.include_router(module.router)
    app.include_router(workers.session)
    app.include_router(runs.admin)

    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["health"])
    async def readyz(request: Request) -> Response:
        """The store is open and orders are accepted."""
        service: Service = request.app.state.service
        if service.ready:
            body = {"status": "ready"} | ({"detail": service.not_started} if service.not_started else {})
            return Response(json.dumps(body), media_type="application/json")
        return problems.problem(503, problems.PLAIN, "the store is not open: starting or stopping")

    describe = app.openapi

    def openapi() -> dict[str, Any]:
        schema = describe()
        schema.setdefault("components", {})["securitySchemes"] = SCHEMES
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app
