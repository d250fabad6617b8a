"""The worker's side of the protocol: one method for each request, typed errors for every answer.

Requests go straight to worker.transport, which moves large bodies in place; another httpx transport can be
injected, so that tests put faults into it.

Every wait on the network is bounded (`Limits`). An answer that may be different in a moment (none, a
server error, a full disk, too many requests) is one of `PASSING`: the caller backs off and asks again.
Any other error is an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias, TypeVar

import httpx
from pydantic import ValidationError
from roundtable.codec import Buffer, Encoded
from roundtable.errors import (
    PROBLEMS,
    IncompatibleVersion,
    InvalidPayload,
    NotAsked,
    RateLimited,
    RoundtableError,
    Stale,
    StorageFull,
    TooLarge,
    Unauthorized,
    Unknown,
    Unreachable,
    error_of,
)
from roundtable.messages import Join, Joined, Message, OrderResult, Plan, Poll, PollReply, UpdateReply
from roundtable.types import Digest, OrderId, RunId, Seconds

from worker.account import Traffic
from worker.connection import Headers
from worker.transport import Answer, SocketTransport
from worker.trust import explained

PASSING: Final = (Unreachable, StorageFull, RateLimited)
PIECE: Final = (
    256 << 10
)  # bytes given to the transport at a time: it copies each piece, and its rest after each send
JSON_LIMIT: Final = 64 << 20  # bytes: more than any reply has

# What an answer means whose body is no problem+json, from a proxy for example.
_STATUSES: Final[dict[int, type[RoundtableError]]] = {
    401: Unauthorized,
    403: NotAsked,
    404: Unknown,
    409: Stale,
    413: TooLarge,
    422: InvalidPayload,
    426: IncompatibleVersion,
    429: RateLimited,
    507: StorageFull,
}
_TYPES: Final = {problem.type for problem in PROBLEMS.values()}

M = TypeVar("M", bound=Message)
Ask: TypeAlias = Callable[
    [str, bytes, Headers, Sequence[bytes | memoryview], dict[str, Seconds], int], Answer
]  # method, target, headers, body, time-outs, limit of the reply's body in bytes


@dataclass(frozen=True)
class Limits:
    """Time-outs in seconds: of opening a connection, and of silence on one while reading or writing."""

    connect: Seconds = 5.0
    read: Seconds = 30.0
    write: Seconds = 30.0
    stored: Seconds = 120.0  # for the answer to an update: it is on disk by then
    poll_margin: Seconds = 10.0  # past what the aggregator said a poll waits
    leave: Seconds = 0.7

    def of(self, read: Seconds | None = None) -> dict[str, Seconds]:
        return {"connect": self.connect, "read": read or self.read, "write": self.write, "pool": self.connect}


class Link:
    """One aggregator as seen from one worker. Thread-safe; raises RoundtableError and nothing else."""

    def __init__(
        self,
        url: str,
        join_token: Callable[[], str],
        *,
        transport: httpx.BaseTransport | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.url = url.rstrip("/")
        self.traffic = Traffic()
        self._join_token = join_token
        self._limits = limits
        self._session: Joined | None = None
        self._transport = transport or SocketTransport()
        self._base = base = httpx.URL(self.url)
        self._host, self._path = base.netloc, base.raw_path.rstrip(b"/")
        self._ask: Ask = self._exchange
        if isinstance(self._transport, SocketTransport) and base.scheme == "http":
            self._ask = partial(self._transport.ask, (base.raw_host.decode("ascii"), base.port or 80))

    def close(self) -> None:
        self._transport.close()

    def over(self, wrap: Callable[[httpx.BaseTransport], httpx.BaseTransport]) -> Link:
        """The same session, as it is now, over another transport around this one's."""
        other = copy(self)
        other._transport, other._ask = wrap(self._transport), other._exchange
        return other

    # --- the session

    def join(self, join: Join) -> Joined:
        """Introduce this worker; the session token in the reply is used from then on."""
        join = Join(**dict(join) | {"time": time.time()})  # not a copy, which nothing checks
        answer = self._request("POST", "/v1/join", self._limits.of(), json=join, token=self._join_token())
        self._session = self._parsed(Joined, answer.content)
        return self._session

    def poll(self, poll: Poll) -> PollReply:
        patience = self._session.poll_seconds if self._session else 0.0
        limits = self._limits.of(read=patience + self._limits.poll_margin)
        return self._parsed(PollReply, self._request("POST", "/v1/poll", limits, json=poll).content)

    def leave(self) -> None:
        """Hand back every order; the session is over."""
        limits = dict.fromkeys(("connect", "read", "write", "pool"), self._limits.leave)
        self._request("POST", "/v1/leave", limits)

    # --- what orders need

    def plan(self, run: RunId) -> Plan:
        answer = self._request("GET", f"/v1/runs/{run}/plan", self._limits.of())
        return self._parsed(Plan, answer.content)

    def weights(self, digest: Digest, limit: int) -> Buffer:
        """A round's global message, at most `limit` bytes; unchecked."""
        return self._request("GET", f"/v1/weights/{digest}", self._limits.of(), limit=limit).content

    def state(self, digest: Digest, limit: int) -> Buffer:
        """A client's state, at most `limit` bytes; unchecked."""
        return self._request("GET", f"/v1/states/{digest}", self._limits.of(), limit=limit).content

    # --- what orders give

    def put_update(
        self, order: OrderId, update: Encoded, wait: Seconds = 0.0, inline: int = 0
    ) -> tuple[UpdateReply, Buffer | None]:
        """The reply, which may wait for the next orders for `wait` seconds, and the global message that they
        need, where it brings one: at most `inline` bytes, unchecked."""
        limits = self._limits.of(read=self._limits.stored + wait)
        asked = [(b"roundtable-wait", b"%g" % wait), (b"roundtable-inline", b"%d" % inline)] if wait else []
        path = f"/v1/orders/{order}/update"
        answer = self._request("PUT", path, limits, body=update, asked=asked, limit=JSON_LIMIT + inline)
        length = answer.headers.get(b"roundtable-json-bytes", b"")
        if not length.isdigit():
            return self._parsed(UpdateReply, answer.content), None
        whole = memoryview(answer.content)
        return self._parsed(UpdateReply, whole[: int(length)]), whole[int(length) :]

    def post_result(self, order: OrderId, result: OrderResult) -> None:
        self._request(
            "POST", f"/v1/orders/{order}/result", self._limits.of(read=self._limits.stored), json=result
        )

    # --- the one way to the network

    def _request(
        self,
        method: str,
        path: str,
        timeout: dict[str, Seconds],
        *,
        json: Message | None = None,
        body: Encoded | None = None,
        token: str | None = None,
        limit: int = JSON_LIMIT,
        asked: Sequence[tuple[bytes, bytes]] = (),
    ) -> Answer:
        if token is None:
            token = self._session.session_token if self._session else ""
        headers = [
            (b"host", self._host),
            (b"authorization", b"Bearer " + token.encode()),
            (b"accept-encoding", b"identity"),
            *asked,
        ]
        buffers: Sequence[bytes | memoryview] = ()
        if json is not None:
            buffers = (json.model_dump_json().encode(),)
            headers.append((b"content-type", b"application/json"))
        elif body is not None:
            buffers = body.buffers
            headers.append((b"content-type", b"application/octet-stream"))
        try:
            answer = self._ask(method, self._path + path.encode(), headers, buffers, timeout, limit)
        except httpx.RequestError as error:
            raise Unreachable(f"{self.url}: {_reason(error)}") from None
        self.traffic.count(len(answer.content), sum(map(len, buffers)))
        if not 200 <= answer.status < 300:
            raise _refusal(answer.status, answer.content, self.url + path)
        return answer

    def _exchange(
        self,
        method: str,
        target: bytes,
        headers: Headers,
        buffers: Sequence[bytes | memoryview],
        timeout: dict[str, Seconds],
        limit: int,
    ) -> Answer:
        """As SocketTransport.ask, over any transport of httpx."""
        request = httpx.Request(
            method,
            self._base.copy_with(raw_path=target),
            headers=[*headers, (b"content-length", b"%d" % sum(map(len, buffers)))],
            content=pieces(buffers),
            extensions={"timeout": timeout, "limit": limit, "buffers": buffers},
        )
        response = self._transport.handle_request(request)
        response.request = request
        try:
            fields = {name.lower(): value for name, value in response.headers.raw}
            return Answer(response.status_code, fields, _content(response, limit))
        finally:
            response.close()

    def _parsed(self, kind: type[M], content: Buffer) -> M:
        try:
            return kind.model_validate_json(bytes(content))
        except ValidationError:
            raise Unreachable(
                f"{self.url}: what answers there is no Roundtable aggregator ({kind.__name__} expected)"
            ) from None


def pieces(buffers: Sequence[memoryview | bytes], size: int = PIECE) -> Iterator[bytes]:
    """The buffers' bytes, at most `size` at a time: small neighbours joined, large ones cut, not copied."""
    waiting: list[memoryview | bytes] = []
    held = 0
    for buffer in buffers:
        if waiting and held + len(buffer) > size:
            yield b"".join(waiting)
            waiting, held = [], 0
        if len(buffer) >= size // 4:
            yield from waiting  # type: ignore[misc]  # httpx takes any bytes-like object
            waiting, held = [], 0
            view = memoryview(buffer)
            yield from (view[start : start + size] for start in range(0, len(view), size))  # type: ignore[misc]
        elif len(buffer):
            waiting.append(buffer)
            held += len(buffer)
    if waiting:
        yield b"".join(waiting)


def _content(response: httpx.Response, limit: int) -> Buffer:
    """The reply's body, in one buffer of its length where it tells it. Raises TooLarge past `limit` bytes."""
    if (received := response.extensions.get("content")) is not None:
        return received  # type: ignore[no-any-return]
    length = response.headers.get("content-length", "")
    if length.isdigit() and int(length) > limit:
        raise TooLarge(f"{response.request.url}: the reply has {length} bytes, at most {limit} are allowed")
    buffer = bytearray(int(length) if length.isdigit() else 0)
    end = 0
    for chunk in response.iter_bytes():
        if end + len(chunk) > limit:
            raise TooLarge(f"{response.request.url}: the reply has more than the {limit} bytes allowed")
        buffer[end : end + len(chunk)] = chunk
        end += len(chunk)
    del buffer[end:]
    return buffer


def _refusal(status: int, content: Buffer, url: str) -> RoundtableError:
    """The error that an answer other than 2xx describes."""
    kind, detail = "", f"{url} answers {status}"
    try:
        problem = httpx.Response(status, content=bytes(content)).json()
        kind, detail = str(problem.get("type", "")), str(problem.get("detail") or detail)
    except (ValueError, AttributeError):
        pass  # no problem+json: the status must do
    if status >= 500 and status != 507:
        return Unreachable(detail)
    if kind in _TYPES:
        return error_of(kind, detail)
    return _STATUSES.get(status, Unreachable)(detail)


def _reason(error: httpx.RequestError) -> str:
    return explained(error) or (f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
