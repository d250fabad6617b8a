"""Whom a worker trusts: over https the aggregator's certificate, pinned to this lab's own authority by
AGGREGATOR_CA; and what a connection without trust looks like in one line.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import Final

from roundtable.errors import InvalidSetting

# OpenSSL's codes of what is wrong with a certificate (X509_V_ERR_…).
_NOT_YET, _EXPIRED, _NAME, _ADDRESS = 9, 10, 62, 64
_UNKNOWN_SIGNER: Final = (2, 18, 19, 20, 21)


def client_context(authority: Path | None) -> ssl.SSLContext:
    """Trusts certificates of this authority alone; without one, those that the system trusts.

    Raises InvalidSetting.
    """
    if authority is None:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError:
        raise InvalidSetting(
            f"AGGREGATOR_CA: {authority} holds no certificate: copy the lab's ca.pem there again"
        ) from None
    except OSError as error:
        raise InvalidSetting(
            f"AGGREGATOR_CA: {authority} cannot be read ({error.strerror}): copy the lab's ca.pem there"
        ) from None
    return context


def explained(error: BaseException) -> str | None:
    """What went wrong with TLS, and the remedy; None where it was something else."""
    cause: BaseException | None = error
    for _ in range(6):
        if cause is None or isinstance(cause, ssl.SSLError):
            break
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _certificate(cause)
    if isinstance(cause, ssl.SSLError):
        return (
            f"no TLS came about ({cause.reason or cause}): what answers there may speak plain HTTP, "
            "or be something else: check AGGREGATOR_URL"
        )
    return None


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    code = error.verify_code
    if code == _NOT_YET:
        return (
            f"its certificate is not valid yet at this machine's time, {now}: "
            "if that is wrong, set the clock (timedatectl set-ntp true)"
        )
    if code == _EXPIRED:
        return (
            f"its certificate has expired at this machine's time, {now}: if that is wrong, set the clock "
            "(timedatectl set-ntp true); if not, run make certs on the server"
        )
    if code in (_NAME, _ADDRESS):
        return (
            "its certificate is for other names and addresses than the one in AGGREGATOR_URL: "
            "run make certs NAMES=… with it on the server, or use a name that is in it"
        )
    if code in _UNKNOWN_SIGNER:
        return (
            "its certificate was not signed by the authority in AGGREGATOR_CA: "
            "copy this lab's ca.pem to this node again; if it is the right one, somebody else answers there"
        )
    return f"its certificate cannot be trusted ({error.verify_message})"
