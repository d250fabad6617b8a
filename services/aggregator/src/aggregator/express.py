"""A shorter way to the endpoints that rounds are made of: poll, weights, update.

FastAPI's layers (routing, dependencies, telemetry, exit stacks) cost more than these three requests' own
work, and a round has three of them for each worker. They are recognised here and go to the very same endpoint
functions, with the same errors; everything else, and whatever is unusual about a request, goes to the app.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from roundtable.messages import Poll
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aggregator.problems import JSON_LIMIT, not_json, response_of
from aggregator.routes import orders, workers
from aggregator.routes.access import worker_of

_POLL: Final = "/v1/poll"
_WEIGHTS: Final = "/v1/weights/"
_ORDERS, _UPDATE = "/v1/orders/", "/update"


class Express:
    """An ASGI application around the app."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "%" in scope["path"] or scope["root_path"]:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        endpoint = _endpoint(request)
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        try:
            response = await endpoint
        except Exception as error:  # noqa: BLE001 -- every one is answered, and logged where it is a fault of ours
            response = response_of(error)
        await response(scope, receive, send)


def _endpoint(request: Request) -> Awaitable[Response] | None:
    """The endpoint's answer to come; None where this request is not of the three."""
    method, path = request.method, request.scope["path"]
    if method == "POST" and path == _POLL:
        length = request.headers.get("content-length", "")
        # Of another length, or of none: the app bounds it.
        return _poll(request) if length.isdigit() and int(length) <= JSON_LIMIT else None
    if method == "GET" and path.startswith(_WEIGHTS):
        digest = path[len(_WEIGHTS) :]
        return orders.weights(request, digest) if "/" not in digest and digest else None
    if method == "PUT" and path.startswith(_ORDERS) and path.endswith(_UPDATE):
        order = path[len(_ORDERS) : -len(_UPDATE)]
        return orders.update(request, order) if "/" not in order and order else None
    return None


async def _poll(request: Request) -> Response:
    worker_of(request)  # before anything of the body is looked at
    try:
        body = Poll.model_validate(json.loads(await request.body()))  # which takes half a surrogate pair
    except (ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise not_json(error) from None
        raise RequestValidationError(error.errors(include_url=False)) from None
    return await workers.poll(request, body)
