"""For people and their tools: create, watch, stop, resume, download."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter
from roundtable import experiment as experiments
from roundtable.errors import InvalidExperiment, InvalidInput, Unknown
from roundtable.experiment import Experiment
from roundtable.messages import CreateRun, RunDetail, RunView
from roundtable.types import RunId
from starlette.responses import Response

from aggregator.bodies import ContentFile
from aggregator.page import REPORT_HEADERS
from aggregator.routes.access import (
    ADMIN,
    READ,
    after,
    check_admin,
    check_reader,
    json_of,
    service_of,
)
from aggregator.tensors import map_file

router = APIRouter(tags=["runs"])
admin = APIRouter(tags=["runs"], route_class=after(check_admin))
_VIEWS = TypeAdapter(list[RunView])


@admin.post(
    "/v1/runs",
    response_model=RunView,
    status_code=201,
    responses={200: {"model": RunView}},
    openapi_extra=ADMIN,
)
async def create(request: Request, body: CreateRun) -> Response:
    """A new run (201), or the one that this experiment has (200) unless `again`."""
    service = service_of(request)
    view, new = await service.turns.submit(lambda: service.runs.create(body))
    return json_of(view, 201 if new else 200)


@admin.post(
    "/v1/experiments",
    response_model=Experiment,
    openapi_extra=ADMIN
    | {"requestBody": {"required": True, "content": {"application/toml": {"schema": {"type": "string"}}}}},
)
async def experiment(request: Request) -> Response:
    """An experiment file, checked: as the JSON that a run is created with. Starts nothing."""
    try:
        text = (await request.body()).decode("utf-8-sig")  # as files are read
    except UnicodeDecodeError:
        raise InvalidExperiment("experiment: is not UTF-8 text: save it as UTF-8") from None
    return Response(experiments.loads(text).model_dump_json(), media_type="application/json")


@router.get(
    "/v1/runs", response_model=list[RunView], dependencies=[Depends(check_reader)], openapi_extra=READ
)
async def runs(request: Request) -> Response:
    """All of them, oldest first."""
    return Response(_VIEWS.dump_json(await service_of(request).runs.views()), media_type="application/json")


@router.get(
    "/v1/runs/{run}", response_model=RunDetail, dependencies=[Depends(check_reader)], openapi_extra=READ
)
async def detail(request: Request, run: RunId) -> Response:
    """One run with its experiment and its rounds."""
    return json_of(await service_of(request).runs.detail(run))


@router.get(
    "/v1/runs/{run}/events",
    response_class=StreamingResponse,
    dependencies=[Depends(check_reader)],
    openapi_extra=READ,
)
async def events(request: Request, run: RunId) -> Response:
    """Server-sent events; `Last-Event-ID` picks up where a reader left."""
    feed = await service_of(request).runs.feed(run)
    return _streamed(feed.watch(_last_seen(request)))


@router.get(
    "/v1/events",
    response_class=StreamingResponse,
    dependencies=[Depends(check_reader)],
    openapi_extra=READ,
)
async def lab_events(request: Request) -> Response:
    """The same of the whole lab: its runs, its workers, and the rounds of the runs that have not ended."""
    return _streamed(service_of(request).runs.lab.watch(_last_seen(request)))


def _last_seen(request: Request) -> int:
    last = request.headers.get("last-event-id", "0")
    if not re.fullmatch(r"\d{1,18}", last, re.ASCII):
        raise InvalidInput(f"Last-Event-ID: is a whole number of at most 18 digits, found {last!r:.40}")
    return int(last)


def _streamed(events: AsyncIterator[bytes]) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


@admin.post(
    "/v1/runs/{run}/stop",
    response_model=RunView,
    openapi_extra=ADMIN,
)
async def stop(request: Request, run: RunId) -> Response:
    """Stop it; it can be resumed."""
    service = service_of(request)
    return json_of(await service.turns.submit(lambda: service.runs.stop(run)))


@admin.post(
    "/v1/runs/{run}/resume",
    response_model=RunView,
    openapi_extra=ADMIN,
)
async def resume(
    request: Request, run: RunId, start_workers: Annotated[int | None, Query(ge=1)] = None
) -> Response:
    """Go on with a stopped, failed or paused run; with `start_workers` once so many are there, or 30 s after
    the first."""
    service = service_of(request)
    return json_of(await service.turns.submit(lambda: service.runs.resume(run, start_workers)))


@router.get("/v1/runs/{run}/ledger", dependencies=[Depends(check_reader)], openapi_extra=READ)
async def ledger(request: Request, run: RunId) -> Response:
    """The chain's entries as they were hashed, oldest first."""
    return Response(await service_of(request).runs.archive.ledger(run), media_type="application/json")


@router.get(
    "/v1/runs/{run}/report", response_class=Response, dependencies=[Depends(check_reader)], openapi_extra=READ
)
async def report(request: Request, run: RunId) -> Response:
    """`lab`'s report of a run that has ended, one page of HTML; where REPORTS_DIR has it."""
    content = await service_of(request).runs.archive.report(run)
    return Response(content, headers=REPORT_HEADERS, media_type="text/html; charset=utf-8")


@router.get(
    "/v1/runs/{run}/model", response_class=Response, dependencies=[Depends(check_reader)], openapi_extra=READ
)
async def model(request: Request, run: RunId, which: str = "latest") -> Response:
    """The weights as safetensors: `latest`, `best` or `round:N` (kept rounds only)."""
    if not re.fullmatch(r"latest|best|round:\d{1,9}", which, re.ASCII):
        raise InvalidInput(f'which: "latest", "best" or "round:N", found {which!r:.40}')
    path, digest = await service_of(request).runs.archive.model(run, which)
    try:
        content = memoryview(map_file(path))
    except FileNotFoundError:  # there a moment ago
        raise Unknown(f"run {run} has gone on, and keeps the weights of {which} no more: ask again") from None
    return ContentFile(content, digest, lambda _: None, lasting=False)
