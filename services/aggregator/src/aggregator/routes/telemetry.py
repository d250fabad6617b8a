"""For nodes: points in InfluxDB line protocol, passed on to where this lab keeps its points."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from aggregator.routes.access import JOIN, authorization, service_of

router = APIRouter(tags=["telemetry"])


@router.post("/v1/telemetry/write", status_code=204, openapi_extra=JOIN)
async def write(request: Request, precision: str = "ns") -> Response:
    """Line protocol with nanoseconds, plain or gzip, as InfluxDB's own /write takes it; 1 MiB at most."""
    service = service_of(request)
    service.tokens.check_join(authorization(request))
    peer = request.client.host if request.client else "unknown"
    encoding = request.headers.get("content-encoding", "").strip().lower()
    service.relay.take(peer, await request.body(), encoding, precision)
    return Response(status_code=204)
