"""For workers: join, poll, leave."""

from __future__ import annotations

import json

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from roundtable.errors import (
    IncompatibleVersion,
    InvalidInput,
    NotPossible,
    StorageFull,
    TooLarge,
    Unauthorized,
    Unknown,
)
from roundtable.messages import Join, Joined, Poll, PollReply, WorkerView
from starlette.responses import Response

from aggregator.problems import not_json
from aggregator.routes.access import (
    JOIN,
    READ,
    SESSION,
    after,
    authorization,
    check_reader,
    check_worker,
    json_of,
    peer,
    service_of,
    worker_of,
)
from aggregator.routes.openapi import reference, refusals
from aggregator.workers import check_names, check_version

router = APIRouter(tags=["workers"])
session = APIRouter(tags=["workers"], route_class=after(check_worker))
_VIEWS = TypeAdapter(tuple[WorkerView, ...])


@router.post(
    "/v1/join",
    response_model=Joined,
    responses=refusals(NotPossible, IncompatibleVersion, TooLarge, InvalidInput, StorageFull),
    openapi_extra=JOIN
    | {"requestBody": {"required": True, "content": {"application/json": {"schema": reference("Join")}}}},
)
async def join(request: Request) -> Response:
    """Introduce a worker. The same instance gets the same id again."""
    reception = service_of(request).reception
    try:
        return json_of(await reception.join(await _introduction(request)))
    except (Unauthorized, IncompatibleVersion, NotPossible) as error:
        reception.refuse(peer(request), error)
        raise


@router.post("/{prefix:path}/v1/join", include_in_schema=False)
async def join_elsewhere(request: Request, prefix: str) -> Response:
    """A worker whose address has a path too many: its people may be far from here, ours are told as well."""
    fault = Unknown(
        f"a worker asks for /{prefix:.100}/v1/join: its AGGREGATOR_URL ends in /{prefix:.100}, which is to go"
    )
    service_of(request).reception.refuse(peer(request), fault)
    raise fault


async def _introduction(request: Request) -> Join:
    service_of(request).tokens.check_join(authorization(request))
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise not_json(error) from None
    if isinstance(body, dict):
        check_version(body.get("protocol"))  # another one may have other fields: before they are looked at
    try:
        introduction = Join.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None
    check_names(introduction)
    return introduction


@session.post("/v1/poll", response_model=PollReply, openapi_extra=SESSION)
async def poll(request: Request, body: Poll) -> Response:
    """Say what is held, be told the difference; waits up to `poll_seconds` for one. The heartbeat."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return json_of(await service_of(request).reception.poll(worker_of(request), body, gone))


@session.post("/v1/leave", status_code=204, openapi_extra=SESSION)
async def leave(request: Request) -> Response:
    """Go in good order: what this worker holds goes to others at once."""
    await service_of(request).reception.leave(worker_of(request))
    return Response(status_code=204)


@router.get(
    "/v1/workers",
    response_model=tuple[WorkerView, ...],
    dependencies=[Depends(check_reader)],
    openapi_extra=READ,
)
async def workers(request: Request) -> Response:
    """Who is there, was lost, or has left."""
    return Response(_VIEWS.dump_json(service_of(request).reception.views()), media_type="application/json")
