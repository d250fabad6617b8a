"""For browsers: the aggregator's own page, its files, and the form that asks for the read token.

The files are the same for everybody and open; what the page shows comes from the endpoints under /v1, which
check who asks.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from roundtable.errors import Unauthorized, Unknown
from starlette.responses import RedirectResponse, Response

from aggregator import page
from aggregator.routes.access import check_host, check_origin, service_of

router = APIRouter(include_in_schema=False)
_SIGNED_IN_FOR = 30 * 24 * 3600  # seconds


@router.get("/")
async def home(request: Request) -> Response:
    """The page; where looking needs the read token and the browser has not given it, the form for it."""
    tokens = service_of(request).tokens
    if tokens.read is None:
        check_host(request)
    elif tokens.knows_cookie(request.cookies.get(tokens.cookie_name)):
        return _html(page.home(signed_in=True))
    else:
        return _html(page.sign_in())
    return _html(page.home(signed_in=False))


@router.get("/docs")
async def interface() -> Response:
    """In place of FastAPI's own, which loads from elsewhere."""
    return _html(page.interface())


@router.get("/page/{path:path}")
async def asset(request: Request, path: str) -> Response:
    found = page.assets().get(path)
    if found is None or path.endswith(".html"):
        raise Unknown(f"page/{path:.100}: there is no such file")
    return _asset(request, found)


@router.post("/sign-in", dependencies=[Depends(check_origin)])
async def sign_in(request: Request) -> Response:
    """A form with the field `token`; the right one is answered with a cookie."""
    tokens = service_of(request).tokens
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    try:
        tokens.check_reader(f"Bearer {form.get('token', [''])[0]}")
    except Unauthorized:
        reply = _html(page.sign_in("This is not the read token of this lab, nor its admin token."), 401)
        reply.headers["WWW-Authenticate"] = "Bearer"
        return reply
    reply = RedirectResponse("/", 303, page.HEADERS)
    if tokens.read is not None:
        reply.set_cookie(
            tokens.cookie_name,
            tokens.cookie,
            max_age=_SIGNED_IN_FOR,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
    return reply


@router.post("/sign-out", dependencies=[Depends(check_origin)])
async def sign_out(request: Request) -> Response:
    reply = RedirectResponse("/", 303, page.HEADERS)
    reply.delete_cookie(service_of(request).tokens.cookie_name, httponly=True, samesite="strict")
    return reply


def _html(content: bytes, status: int = 200) -> Response:
    headers = page.HEADERS | {"Cache-Control": "no-store"}
    return Response(content, status, headers, "text/html; charset=utf-8")


def _asset(request: Request, asset: page.Asset) -> Response:
    headers = page.HEADERS | {"Cache-Control": "no-cache", "ETag": asset.etag}
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
