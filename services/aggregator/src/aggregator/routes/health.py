"""For whoever watches over the process: whether it lives, whether it can work."""

from __future__ import annotations

import json

from fastapi import APIRouter, Request
from starlette.responses import Response

from aggregator import problems
from aggregator.routes.access import service_of
from aggregator.routes.openapi import refusals

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "alive"}


@router.get("/readyz", responses=refusals(503))
async def readyz(request: Request) -> Response:
    """The store is open and orders are accepted."""
    service = service_of(request)
    if service.ready:
        body = {"status": "ready"} | ({"detail": service.not_started} if service.not_started else {})
        return Response(json.dumps(body), media_type="application/json")
    return problems.problem(503, problems.PLAIN, "the store is not open: starting or stopping")
