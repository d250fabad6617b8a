"""The aggregator's own page: static files beside this module, read once, and the headers they go out with.

One page of HTML, CSS and JavaScript modules without a build step; nothing is loaded from elsewhere
(`static/vendor` has the plotting library and where it is from). routes/page.py serves it, docs/page.md tells
of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Final

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
HEADERS: Final = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer a browser hides its own Origin when it posts a form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# A report brings its style and pictures along. Somebody wrote that file: it runs nothing and has no origin.
REPORT_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_FAULT: Final = "<!-- fault -->"


@dataclass(frozen=True)
class Asset:
    content: bytes
    media_type: str
    etag: str


@lru_cache(1)
def assets() -> dict[str, Asset]:
    """Path below `/page/` → what is there."""
    return dict(_found(Path(__file__).parent / "static", ""))


def home(*, signed_in: bool) -> bytes:
    """The page; `signed_in`: it offers to sign out."""
    content = assets()["index.html"].content
    return content.replace(b'action="/sign-out" hidden', b'action="/sign-out"') if signed_in else content


def interface() -> bytes:
    """The HTTP interface, listed from /openapi.json."""
    return assets()["interface.html"].content


def sign_in(fault: str = "") -> bytes:
    """The form that asks for the read token; `fault`: one line on why it asks again."""
    line = f'<p class="fault" role="alert">{escape(fault)}</p>' if fault else ""
    return assets()["sign-in.html"].content.replace(_FAULT.encode(), line.encode())


def _found(folder: Path, prefix: str) -> list[tuple[str, Asset]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _found(entry, f"{prefix}{entry.name}/")
        elif media_type := _TYPES.get(entry.name.rpartition(".")[2]):
            content = entry.read_bytes()
            found.append(
                (prefix + entry.name, Asset(content, media_type, f'"{sha256(content).hexdigest()[:16]}"'))
            )
    return found
