"""TLS on the aggregator's side: its certificate, and one line in the log for handshakes that fail.

Event loops keep quiet about a handshake that fails with an ssl.SSLError, and hand every other error to their
exception handler, with the connection it came by: so here it becomes another. The node that it belongs to has
no name yet: its address and what the two ends disagreed about are told, once a minute at most.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path
from typing import Any, Final

from roundtable.errors import InvalidSetting

from aggregator.logs import trouble

QUIET: Final = 60.0  # seconds that the same reason is not told again

# What a peer's alert, or its first bytes, mean here (OpenSSL's names of RFC 8446's alerts).
_MEANING: Final = {
    "UNKNOWN_CA": "{} does not know who signed this certificate: give it this lab's ca.pem",
    "BAD_CERTIFICATE": "{} knows this lab by a name or address that is not in the certificate "
    "(make certs NAMES=…), or its clock is behind",
    "CERTIFICATE_EXPIRED": "{} finds the certificate expired: make certs, or set that machine's clock",
    "CERTIFICATE_UNKNOWN": "{} cannot use this certificate: compare its ca.pem and its clock",
    "HTTP_REQUEST": "{} speaks plain HTTP: the address it is given must begin with https://",
    "WRONG_VERSION_NUMBER": "{} speaks something other than TLS here",
    "UNSUPPORTED_PROTOCOL": "{} speaks TLS older than 1.2",
}


def server_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """None without either. Raises InvalidSetting."""
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing, given = (
            ("TLS_KEY_FILE", "TLS_CERT_FILE") if key is None else ("TLS_CERT_FILE", "TLS_KEY_FILE")
        )
        raise InvalidSetting(
            f"{missing}: is not set, though {given} is: a certificate and its key are needed"
        )
    for name, path in (("TLS_CERT_FILE", certificate), ("TLS_KEY_FILE", key)):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise InvalidSetting(f"{name} {path}: {error.strerror}: make certs makes it") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        why = getattr(error, "reason", None) or str(error)
        raise InvalidSetting(
            f"TLS_CERT_FILE {certificate}, TLS_KEY_FILE {key}: are not a certificate and its key ({why}): "
            "make certs makes both"
        ) from None
    context.sslobject_class = _Telling
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


class _Failed(Exception):
    """A handshake, with OpenSSL's reason."""


class _Telling(ssl.SSLObject):
    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            raise _Failed(error.reason or type(error).__name__) from None


def tell_failures(loop: asyncio.AbstractEventLoop) -> None:
    """Handshakes that fail on this loop, in connections with the context from above, go to the log."""
    told: dict[tuple[str, str], float] = {}

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, _Failed):
            loop.default_exception_handler(context)
            return
        peer = context["transport"].get_extra_info("peername")
        _tell(peer[0] if peer else "a peer", str(error), told)

    loop.set_exception_handler(handle)


def _tell(peer: str, reason: str, told: dict[tuple[str, str], float]) -> None:
    now = time.monotonic()
    if now - told.get((peer, reason), -QUIET) < QUIET:
        return
    if len(told) > 64:
        told.clear()
    told[peer, reason] = now
    meaning = next((text for mark, text in _MEANING.items() if mark in reason), "with {} no TLS came about")
    trouble("TLS handshake failed", detail=meaning.format(peer), reason=reason)
