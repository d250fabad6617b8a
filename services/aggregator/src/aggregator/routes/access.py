"""What endpoints share: the service behind the app, whose token came along, how OpenAPI is told of it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Request
from roundtable.messages import Message
from roundtable.types import WorkerId
from starlette.responses import Response

from aggregator.service import Service

JOIN: Final[dict[str, Any]] = {"security": [{"join token": []}]}
SESSION: Final[dict[str, Any]] = {"security": [{"session token": []}]}
READ: Final[dict[str, Any]] = {"security": [{"read token": []}, {"admin token": []}, {}]}
ADMIN: Final[dict[str, Any]] = {"security": [{"admin token": []}]}
SCHEMES: Final[dict[str, Any]] = {
    name: {"type": "http", "scheme": "bearer", "description": description}
    for name, description in {
        "join token": "from STATE_DIR/tokens/join",
        "session token": "from the reply to a join",
        "admin token": "from STATE_DIR/tokens/admin",
        "read token": "from STATE_DIR/tokens/read; only where the service is published beyond loopback",
    }.items()
}


def service_of(request: Request) -> Service:
    return request.app.state.service  # type: ignore[no-any-return]


def authorization(request: Request) -> str | None:
    return request.headers.get("authorization")


def check_reader(request: Request) -> None:
    """Raises Unauthorized, where looking needs a token."""
    service_of(request).tokens.check_reader(authorization(request))


def worker_of(request: Request) -> WorkerId:
    """Raises Unauthorized."""
    return service_of(request).reception.known(authorization(request))


def json_of(message: Message, status: int = 200) -> Response:
    """Without the second validation that a response model costs."""
    return Response(message.model_dump_json(), status, media_type="application/json")
