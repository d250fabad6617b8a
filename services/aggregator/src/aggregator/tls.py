"""TLS on the aggregator's side: its certificate, and one line in the log for handshakes that fail.

Event loops keep quiet about a handshake that fails, and the node that it belongs to has no name yet: what
the two ends disagreed about is all there is to tell, once a minute at most.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Final

from roundtable.errors import InvalidSetting

from aggregator.logs import trouble

QUIET: Final = 60.0  # seconds that the same reason is not told again

# What a peer's alert, or its first bytes, mean here (OpenSSL's names of RFC 8446's alerts).
_MEANING: Final = {
    "UNKNOWN_CA": "a peer does not know who signed this certificate: give it this lab's ca.pem",
    "BAD_CERTIFICATE": "a peer knows this lab by a name or address that is not in the certificate "
    "(make certs NAMES=…), or its clock is behind",
    "CERTIFICATE_EXPIRED": "a peer finds the certificate expired: make certs, or set that peer's clock",
    "CERTIFICATE_UNKNOWN": "a peer cannot use this certificate: compare its ca.pem and its clock",
    "HTTP_REQUEST": "a peer speaks plain HTTP: its address must begin with https://",
    "WRONG_VERSION_NUMBER": "a peer speaks something other than TLS here",
    "UNSUPPORTED_PROTOCOL": "a peer speaks TLS older than 1.2",
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
    context.sslobject_class = _telling()
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _telling() -> type[ssl.SSLObject]:
    told: dict[str, float] = {}

    class Telling(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                _tell(error.reason or type(error).__name__, told)
                raise

    return Telling


def _tell(reason: str, told: dict[str, float]) -> None:
    now = time.monotonic()
    if now - told.get(reason, -QUIET) < QUIET:
        return
    if len(told) > 64:
        told.clear()
    told[reason] = now
    meaning = next((text for mark, text in _MEANING.items() if mark in reason), "no TLS came about")
    trouble("TLS handshake failed", detail=meaning, reason=reason)
