"""What endpoints share: the service behind the app, whose token came along, how OpenAPI is told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.routing import APIRoute
from roundtable.errors import Unauthorized
from roundtable.messages import Message
from roundtable.types import WorkerId
from starlette.exceptions import HTTPException
from starlette.responses import Response

from aggregator.routes.openapi import refusals
from aggregator.service import Service

JOIN: Final[dict[str, Any]] = {"security": [{"join token": []}], "responses": refusals(Unauthorized)}
SESSION: Final[dict[str, Any]] = {"security": [{"session token": []}], "responses": refusals(Unauthorized)}
READ: Final[dict[str, Any]] = {
    "security": [{"read token": []}, {"admin token": []}, {}],
    "responses": refusals(Unauthorized, 421),
}
ADMIN: Final[dict[str, Any]] = {
    "security": [{"admin token": []}],
    "responses": refusals(Unauthorized, 403),
}


def service_of(request: Request) -> Service:
    return request.app.state.service  # type: ignore[no-any-return]


def authorization(request: Request) -> str | None:
    return request.headers.get("authorization")


async def check_reader(request: Request) -> None:
    """Raises Unauthorized, where looking needs a token; where it needs none, the host must be our own."""
    tokens = service_of(request).tokens
    if tokens.read is None:
        check_host(request)
    elif not tokens.knows_cookie(request.cookies.get(tokens.cookie_name)):
        tokens.check_reader(authorization(request))


def check_host(request: Request) -> None:
    """Against DNS rebinding, where whoever reaches the service may read: a page elsewhere that has its own
    name point here would be of the same origin. Addresses, localhost and names without a dot (containers,
    machines) cannot be such a name.
    """
    host = request.headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if "." in name.rstrip(".") and not name.endswith(".localhost"):
            ip_address(name)
    except ValueError:
        raise HTTPException(
            421,
            f"Host {host:.100}: is not this machine's: use its address, or, to publish it under a name, set "
            "PUBLISHED_ON to an address beyond loopback (reading then takes the read token)",
        ) from None


async def check_origin(request: Request) -> None:
    """Refuses what a page of another site has a browser send; programs send no Origin."""
    origin = request.headers.get("origin")
    if origin is None:
        return
    try:
        site = urlsplit(origin).netloc
    except ValueError:  # no address at all: "http://["
        site = ""
    if site.lower() != request.headers.get("host", "").lower():
        raise HTTPException(403, f"Origin {origin:.100}: requests from other sites' pages are refused")


def peer(request: Request) -> str:
    return request.client.host if request.client else "unknown"


def worker_of(request: Request) -> WorkerId:
    """Raises Unauthorized."""
    return service_of(request).reception.known(authorization(request))


def json_of(message: Message, status: int = 200) -> Response:
    """Without the second validation that a response model costs."""
    return Response(message.model_dump_json(), status, media_type="application/json")


async def check_admin(request: Request) -> None:
    """Raises Unauthorized; refuses what other sites' pages send."""
    await check_origin(request)
    service_of(request).tokens.check_admin(authorization(request))


async def check_worker(request: Request) -> None:
    """Raises Unauthorized."""
    worker_of(request)


def after(check: Callable[[Request], Awaitable[None]]) -> type[APIRoute]:
    """Endpoints where whose request it is is looked at before anything of its body."""

    class Checked(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def checked(request: Request) -> Response:
                await check(request)
                return await handle(request)

            return checked

    return Checked
