"""The aggregator as the lab sees it: its HTTP endpoints, typed on both sides, and its events as an iterator.

Every refusal comes back as the error it was at the other end (problem+json, roundtable.errors.error_of);
silence becomes Unreachable. The transport can be injected, so that tests drive the real app in-process.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError
from roundtable.errors import InvalidSetting, RoundtableError, Unreachable, error_of
from roundtable.messages import ENDED, CreateRun, Event, RunDetail, RunView, WorkerView
from roundtable.types import RunId, Seconds

T = TypeVar("T")
_RUN = TypeAdapter(RunView)
_DETAIL = TypeAdapter(RunDetail)
_RUNS = TypeAdapter(list[RunView])
_WORKERS = TypeAdapter(list[WorkerView])
_EVENT = TypeAdapter(Event)


class Api:
    """One aggregator. `watch` takes a connection of its own and may run in another thread."""

    def __init__(
        self,
        url: str,
        admin_token: str | None = None,
        transport: httpx.BaseTransport | None = None,
        *,
        ca: Path | None = None,
    ) -> None:
        """Without a token, runs can be read but neither created nor stopped. Over https certificates of the
        authority `ca` are trusted, without one those that the system trusts. Raises InvalidSetting."""
        self.url = checked_url(url)
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {admin_token}"} if admin_token else {},
            timeout=httpx.Timeout(30.0, connect=5.0),
            transport=transport,
            verify=_trusted(ca),
            trust_env=False,  # a lab is on one's own network: no proxy stands between, as for its workers
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def create(self, request: CreateRun) -> tuple[RunView, bool]:
        """The run, and whether it is new: the same experiment has one run unless `again`."""
        status, body = self._exchange("POST", "/v1/runs", json=request.model_dump(mode="json"))
        return _parsed(_RUN, body), status == 201

    def runs(self) -> list[RunView]:
        """Oldest first."""
        return _parsed(_RUNS, self._json("GET", "/v1/runs"))

    def run(self, run: RunId) -> RunDetail:
        return _parsed(_DETAIL, self._json("GET", f"/v1/runs/{run}"))

    def workers(self) -> list[WorkerView]:
        return _parsed(_WORKERS, self._json("GET", "/v1/workers"))

    def stop(self, run: RunId) -> None:
        self._json("POST", f"/v1/runs/{run}/stop")

    def resume(self, run: RunId, start_workers: int | None = None) -> None:
        params = {} if start_workers is None else {"start_workers": start_workers}
        self._json("POST", f"/v1/runs/{run}/resume", params=params)

    def ledger(self, run: RunId) -> Any:
        """The entries as JSON, oldest first."""
        return self._json("GET", f"/v1/runs/{run}/ledger")

    def download(self, run: RunId, which: str, target: Path) -> None:
        """The model as safetensors into `target`, whole or not at all."""
        part = target.with_name(f".{target.name}.part")
        try:
            with (
                self._answer("GET", f"/v1/runs/{run}/model", params={"which": which}) as reply,
                part.open("wb") as file,
            ):
                for chunk in reply.iter_bytes():
                    file.write(chunk)
            part.replace(target)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        finally:
            part.unlink(missing_ok=True)

    def watch(
        self,
        run: RunId,
        *,
        patience: Seconds,
        closing: threading.Event,
        clock: Callable[[], Seconds] = time.monotonic,
    ) -> Iterator[Event]:
        """What the run is now and each change, over reconnections, until it has ended or `closing` is set.

        Raises Unreachable when nothing has answered for `patience` seconds.
        """
        last, pause = 0, 0.2
        silent: Seconds | None = None  # since when
        ended = False
        while not ended and not closing.is_set():
            try:
                headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(last)} if last else {})
                with self._answer("GET", f"/v1/runs/{run}/events", headers=headers) as reply:
                    silent = None
                    for event in _events(reply.iter_lines()):
                        last, pause = event.seq, 0.2
                        ended = ended or (event.run is not None and event.run.state in ENDED)
                        yield event
                        if closing.is_set():
                            return
            except (httpx.HTTPError, Unreachable) as error:
                silent = clock() if silent is None else silent
                if clock() - silent >= patience:
                    raise self._unreachable(error) from None
            if not ended:  # the aggregator restarts, or the line was cut: go on after `last`
                closing.wait(pause)
                pause = min(pause * 2, 5.0)

    @contextmanager
    def _answer(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """A successful, open reply; the error that the aggregator told otherwise."""
        with self._client.stream(method, path, **options) as reply:
            if reply.is_success:
                yield reply
                return
            reply.read()
            raise _told(reply)

    def _exchange(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON body of a successful reply."""
        try:
            with self._answer(method, path, **options) as reply:
                body = reply.read()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None
        try:
            return reply.status_code, json.loads(body) if body else None
        except ValueError:
            raise Unreachable(f"{self.url} answers, but not as an aggregator: check the address") from None

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return self._exchange(method, path, **options)[1]

    def _unreachable(self, error: Exception) -> Unreachable:
        if isinstance(error, Unreachable):
            return error
        reason = str(error) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            why = reason.rpartition("failed: ")[2].partition(" (_ssl")[0]
            return Unreachable(
                f"{self.url} shows a certificate that is not trusted ({why}): "
                "give that lab's ca.pem with --ca"
            )
        return Unreachable(
            f"no aggregator answers at {self.url} ({reason}): check the address and that the lab is up"
        )


def checked_url(url: str) -> str:
    """Raises InvalidSetting when this is not the address of an HTTP server."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidSetting(f"--url {url}: is not an address: give one like http://127.0.0.1:8080")
    return url.rstrip("/")


def _trusted(ca: Path | None) -> ssl.SSLContext | bool:
    if ca is None:
        return True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError:
        raise InvalidSetting(f"--ca {ca}: holds no certificate: give the lab's ca.pem") from None
    except OSError as error:
        raise InvalidSetting(f"--ca {ca}: {error.strerror}: give the lab's ca.pem (make certs)") from None
    return context


def read_token(path: Path) -> str:
    """The token in `path`. Raises InvalidSetting, one line."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise InvalidSetting(f"admin token file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidSetting(f"admin token file {path}: is not ASCII text") from None
    if not token or any(not 33 <= ord(letter) <= 126 for letter in token):
        raise InvalidSetting(f"admin token file {path}: holds no token (one line of printable characters)")
    return token


def _told(reply: httpx.Response) -> RoundtableError:
    try:
        body = reply.json()
        if isinstance(body, dict) and "type" in body:
            detail = str(body.get("detail") or body.get("title") or reply.reason_phrase)
            if reply.status_code == 401:
                detail += " (lab takes it from --admin-token-file or LAB_ADMIN_TOKEN_FILE)"
            return error_of(str(body["type"]), detail)
    except ValueError:
        pass
    return Unreachable(
        f"{reply.url} answered {reply.status_code} {reply.reason_phrase}, which is not an aggregator's answer"
    )


def _parsed(adapter: TypeAdapter[T], body: Any) -> T:
    try:
        return adapter.validate_python(body)
    except ValidationError:
        raise Unreachable(
            "the aggregator answers in a way this lab does not understand: use the same version of both"
        ) from None


def _events(lines: Iterator[str]) -> Iterator[Event]:
    """The `data` of each server-sent event (HTML standard, 9.2); comments and other fields are skipped."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield _parsed(_EVENT, json.loads("\n".join(data)))
            data = []
