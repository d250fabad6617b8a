"""For nodes: points in InfluxDB line protocol, passed on to where this lab keeps its points."""

from __future__ import annotations

from fastapi import APIRouter, Request
from roundtable.errors import Unauthorized
from starlette.responses import Response

from aggregator.routes.access import JOIN, authorization, peer, service_of

router = APIRouter(tags=["telemetry"])


@router.post("/v1/telemetry/write", status_code=204, openapi_extra=JOIN)
async def write(request: Request, precision: str = "ns") -> Response:
    """Line protocol with nanoseconds, plain or gzip, as InfluxDB's own /write takes it; 1 MiB at most."""
    service = service_of(request)
    try:
        service.tokens.check_join(authorization(request))
    except Unauthorized as error:
        service.reception.refuse(peer(request), error)
        raise
    encoding = request.headers.get("content-encoding", "").strip().lower()
    service.relay.take(peer(request), await request.body(), encoding, precision)
    return Response(status_code=204)
