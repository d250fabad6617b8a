"""Every error as `application/problem+json` (RFC 9457), in one place, and the bound on JSON bodies."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from roundtable.errors import InvalidInput, RoundtableError, Truncated, problem_of
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aggregator.logs import trouble

MEDIA_TYPE: Final = "application/problem+json"
PLAIN: Final = "about:blank"  # the type where the status says it all (RFC 9457, 4.2.1)
JSON_LIMIT: Final = 2**20
_TYPES: Final = {404: "urn:roundtable:unknown", 413: "urn:roundtable:too-large"}


def problem(status: int, uri: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    body = {
        "type": uri,
        "title": HTTPStatus(status).phrase if uri == PLAIN else uri.rpartition(":")[2].replace("-", " "),
        "status": status,
        "detail": "; ".join(detail.splitlines()),
    }
    return Response(json.dumps(body), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    app.add_exception_handler(Exception, _answer)
    for kind in (RoundtableError, RequestValidationError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, _answer)


def response_of(error: Exception) -> Response:
    """The answer; the error's traceback ends here. With futures and frames that name the error it is a cycle,
    and a refused upload's room would keep its disk space until garbage is collected."""
    response = _response_of(error)
    error.__traceback__ = None
    return response


def _response_of(error: Exception) -> Response:
    if isinstance(error, RoundtableError):
        status, uri = problem_of(error)
        if status >= 500:
            trouble("request failed", error if uri.endswith(":error") else None, detail=str(error))
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
        return problem(status, uri, str(error), headers)
    if isinstance(error.__cause__, ValueError | RecursionError) and isinstance(
        error, RequestValidationError | HTTPException
    ):  # FastAPI's, of a body
        return _response_of(not_json(error.__cause__))
    if isinstance(error, ClientDisconnect):  # nobody reads it
        return _response_of(Truncated("the sender went away before its body was in"))
    if isinstance(error, RequestValidationError):
        return problem(422, "urn:roundtable:invalid-input", "; ".join(map(_line, error.errors())))
    if isinstance(error, HTTPException):
        uri = _TYPES.get(error.status_code, PLAIN)
        return problem(error.status_code, uri, str(error.detail), dict(error.headers or {}))
    trouble("request failed", error)
    return problem(500, "urn:roundtable:error", "a fault inside the aggregator; its log has the details")


def not_json(error: ValueError | RecursionError) -> InvalidInput:
    """A body that the JSON reader fails on, in words."""
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return InvalidInput(f"body: is not JSON ({error})")
    deep = isinstance(error, RecursionError)
    return InvalidInput(
        "body: cannot be read: it has " + ("too deep a nesting" if deep else "a number of too many digits")
    )


def _answer(_request: Request, error: Exception) -> Response:
    return response_of(error)


def _line(fault: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in fault["loc"] if part != "body") or "body"
    found = fault.get("input")
    shown = "" if isinstance(found, (dict, list)) else f" (found {found!r:.100})"
    return f"{where}: {fault['msg']}{shown}"


class BoundedJson:
    """Middleware: no request body past JSON_LIMIT except PUTs, which bound their own.

    A body that says it is too long is refused before it is read; one that lies is cut off while it is read.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > JSON_LIMIT):
                await _too_large()(scope, receive, send)
                return
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > JSON_LIMIT:
                raise HTTPException(413, f"JSON bodies are at most {JSON_LIMIT} bytes")
            return message

        await self.app(scope, bounded, send)


def _too_large() -> Response:
    return problem(
        413,
        "urn:roundtable:too-large",
        f"JSON bodies are at most {JSON_LIMIT} bytes",
        {"connection": "close"},
    )
