"""For workers: what orders need, and what they give."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from roundtable.errors import (
    PROBLEMS,
    AlreadyAccepted,
    InvalidInput,
    InvalidPayload,
    NotAsked,
    Stale,
    StorageFull,
    Superseded,
    TooLarge,
    Unknown,
)
from roundtable.messages import OrderResult, Plan, UpdateReply
from roundtable.types import Digest, OrderId, RunId
from starlette.responses import Response

from aggregator.bodies import INLINE, ContentFile, ReplyAndContent, immutable, unchanged
from aggregator.files import Sent
from aggregator.routes.access import SESSION, after, check_worker, json_of, service_of, worker_of
from aggregator.routes.openapi import refusals

router = APIRouter(tags=["orders"], route_class=after(check_worker))
_ARRAYS: dict[str, Any] = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"description": "safetensors"} | _ARRAYS,
    304: {"description": "the reader has it"},
}
_UNWANTED = (NotAsked, Superseded, Stale, AlreadyAccepted)
_SPOILED = tuple(kind for kind in PROBLEMS if issubclass(kind, InvalidPayload))


@router.get("/v1/runs/{run}/plan", response_model=Plan, openapi_extra=SESSION)
async def plan(request: Request, run: RunId) -> Response:
    """What all orders of a run have in common."""
    return json_of(await service_of(request).runs.plan(run))


@router.get("/v1/weights/{digest}", response_class=Response, responses=_FILE, openapi_extra=SESSION)
async def weights(request: Request, digest: Digest) -> Response:
    """A round's global message."""
    return _content(request, digest, "weights")


@router.get("/v1/states/{digest}", response_class=Response, responses=_FILE, openapi_extra=SESSION)
async def states(request: Request, digest: Digest) -> Response:
    """A client's own state."""
    return _content(request, digest, "states")


def _content(request: Request, digest: Digest, kind: Sent) -> Response:
    worker = worker_of(request)
    live = service_of(request).runs.live
    if live is None or len(digest) != 64 or not digest.isalnum():
        raise Unknown(f"{kind} {digest:.64} are not kept here: ask for what an order names")
    content = live.files.content(kind, digest)
    if unchanged(request.headers.get("if-none-match"), digest):
        reply = Response(status_code=304)
        reply.raw_headers += immutable(digest)
        return reply
    if kind == "weights":
        live.sent[worker] = digest
    return ContentFile(content, digest, live.count_down)


@router.put(
    "/v1/orders/{order}/update",
    response_model=UpdateReply,
    responses=refusals(*_UNWANTED, 411, *_SPOILED, InvalidInput, StorageFull),
    openapi_extra=SESSION | {"requestBody": {"required": True} | _ARRAYS},
)
async def update(request: Request, order: OrderId) -> Response:
    """The reply to a train or initialize order: safetensors, bounded by what the order's arrays can take."""
    worker, replies = worker_of(request), service_of(request).replies
    reply = await replies.upload(worker, order, request)
    most = request.headers.get(INLINE, "")
    if reply.give and most.isascii() and most.isdigit():
        content = replies.content(worker, reply, int(most[:18]))
        if content is not None:
            return ReplyAndContent(reply.model_dump_json().encode(), content)
    return Response(reply.model_dump_json(exclude_unset=True), media_type="application/json")


@router.post(
    "/v1/orders/{order}/result",
    status_code=204,
    responses=refusals(*_UNWANTED, TooLarge, InvalidInput, StorageFull),
    openapi_extra=SESSION,
)
async def result(request: Request, order: OrderId, body: OrderResult) -> Response:
    """The reply to an evaluate or stop order, or that an order could not be carried out."""
    await service_of(request).replies.result(worker_of(request), order, body)
    return Response(status_code=204)
