"""Who may do what: tokens kept in files, compared in constant time, sent as `Authorization: Bearer …`.

Files, generated with mode 0600 where absent: `join` lets a worker introduce itself, `admin` creates and stops
runs, and `read` lets people look where the service is published beyond loopback. A worker's session token is
`{worker id}.{HMAC-SHA256 of the id}` under a secret that is kept beside them: it names its worker, stays
valid over restarts, and needs no table.
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from roundtable.errors import InvalidSetting, Unauthorized
from roundtable.ownership import of_another
from roundtable.types import WorkerId

_SHORTEST = 16
_LONGEST = 512


@dataclass(frozen=True)
class Tokens:
    join: str
    admin: str
    secret: str
    read: str | None = None  # None: everybody may look

    def check_join(self, authorization: str | None) -> None:
        _compare(authorization, self.join, "join")

    def check_admin(self, authorization: str | None) -> None:
        _compare(authorization, self.admin, "admin")

    def check_reader(self, authorization: str | None) -> None:
        """The admin token will do as well."""
        if self.read is None:
            return
        presented = _bearer(authorization, "read").encode()
        if not any(hmac.compare_digest(presented, token.encode()) for token in (self.read, self.admin)):
            raise Unauthorized(
                "this is not the aggregator's read token, nor its admin token: read the token file again"
            )

    @property
    def cookie_name(self) -> str:
        """Another one for each lab: browsers send cookies to every port of a host."""
        return "roundtable_" + hmac.digest(self.secret.encode(), b"cookie", "sha256").hex()[:8]

    @property
    def cookie(self) -> str:
        """What the browser of someone who gave the read token keeps; a new token makes it worthless."""
        return hmac.digest(self.secret.encode(), f"reader {self.read}".encode(), "sha256").hex()

    def knows_cookie(self, value: str | None) -> bool:
        return hmac.compare_digest((value or "").encode(), self.cookie.encode())

    def session(self, worker: WorkerId) -> str:
        return _session(self.secret, worker)

    def worker_of(self, authorization: str | None) -> WorkerId:
        """The worker that a session token names. Raises Unauthorized."""
        presented = _bearer(authorization, "session")
        worker = presented.partition(".")[0]
        if not hmac.compare_digest(presented.encode(), self.session(worker).encode()):
            raise Unauthorized(
                "the session token is not one of this aggregator's: join again with the join token"
            )
        return worker


@lru_cache(1024)  # asked for with each request
def _session(secret: str, worker: WorkerId) -> str:
    return f"{worker}.{hmac.digest(secret.encode(), worker.encode(), 'sha256').hex()}"


def open_tokens(join: Path, admin: Path, secret: Path, read: Path | None = None) -> Tokens:
    """Read the files, generating those that are absent. Raises InvalidSetting, one line."""
    return Tokens(
        _read_or_make(join, "join"),
        _read_or_make(admin, "admin"),
        _read_or_make(secret, "session"),
        None if read is None else _read_or_make(read, "read"),
    )


def _bearer(authorization: str | None, kind: str) -> str:
    scheme, _, presented = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not presented.strip():
        raise Unauthorized(f"no token: send `Authorization: Bearer` with the {kind} token")
    return presented.strip()


def _compare(authorization: str | None, expected: str, kind: str) -> None:
    if not hmac.compare_digest(_bearer(authorization, kind).encode(), expected.encode()):
        raise Unauthorized(
            f"this is not the aggregator's {kind} token: read it from the {kind} token file again"
        )


def _read_or_make(path: Path, kind: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make(path)
        mode = path.stat().st_mode
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (
            f"{error.strerror}{of_another(path, error)}"
            if isinstance(error, OSError)
            else "is not ASCII text"
        )
        raise InvalidSetting(f"{kind} token file {path}: {reason}") from None
    if not stat.S_ISREG(mode):
        raise InvalidSetting(f"{kind} token file {path}: is not a file")
    if mode & 0o037:  # the group may read (a volume shared with workers), nobody else may anything
        raise InvalidSetting(
            f"{kind} token file {path}: mode {mode & 0o777:04o} is too open: run `chmod 600 {path}`"
        )
    if not _SHORTEST <= len(token) <= _LONGEST or any(not 33 <= ord(letter) <= 126 for letter in token):
        raise InvalidSetting(
            f"{kind} token file {path}: holds no token ({_SHORTEST} to {_LONGEST} printable characters, "
            "no spaces): delete it to have one made"
        )
    return token


def _make(path: Path) -> None:
    """Whole or not at all, so that a worker that watches the folder never reads half a token."""
    if path.exists():
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # one left behind is in nobody's way
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        os.link(draft, path)  # fails where another process was first: then its token counts
    except FileExistsError:
        pass
    finally:
        draft.unlink()
