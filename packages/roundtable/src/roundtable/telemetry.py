"""Points about the lab, in InfluxDB line protocol, sent in the background and never waited for.

`put` takes a point from any thread and returns at once: the queue is bounded, what does not fit is dropped
and counted. One thread sends batches to TELEMETRY_URL (Telegraf's influxdb_listener or InfluxDB: the same
bytes), and says once when nobody has taken them for a while, and once when somebody does again.
docs/telemetry.md lists the points.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import httpx

from roundtable.types import Seconds

Value: TypeAlias = float | int | str | bool

CAPACITY: Final = 20_000  # points kept while nobody takes them: some 4 MB
BATCH: Final = 2_000  # points a request
INTERVAL: Final[Seconds] = 1.0
LONGEST_PAUSE: Final[Seconds] = 30.0
QUIET: Final[Seconds] = 60.0  # Telegraf may start later than who tells it something


@dataclass(frozen=True)
class Point:
    """One point. `time` is in Unix seconds; fields that are None or not finite are left out."""

    measurement: str
    tags: Mapping[str, str]
    fields: Mapping[str, Value | None]
    time: Seconds


def line(point: Point) -> str | None:
    """The point in line protocol with nanoseconds; None where no field is left (the protocol needs one)."""
    texts = {key: _value(value) for key, value in point.fields.items()}
    fields = [f"{_name(key)}={text}" for key, text in texts.items() if text is not None]
    if not fields:
        return None
    tags = "".join(f",{_name(key)}={_name(value)}" for key, value in sorted(point.tags.items()) if value)
    return f"{_measurement(point.measurement)}{tags} {','.join(fields)} {round(point.time * 1e9)}"


def _measurement(name: str) -> str:
    return name.replace(",", "\\,").replace(" ", "\\ ").replace("\n", "\\ ")


def _name(text: str) -> str:
    """Tag keys, tag values, field keys: a line break would end the point, a last backslash escape its end."""
    plain = text.replace("\n", " ").rstrip("\\")
    return plain.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def _value(value: Value | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value}i"
    if isinstance(value, float):
        return repr(value) if abs(value) < float("inf") else None  # NaN compares false: left out too
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'


def source(instance: str, in_docker: Path = Path("/.dockerenv")) -> str:
    """Who tells: a container's short id, which is its host name in Docker; else `<host>-<instance>`."""
    host = socket.gethostname() or "localhost"
    return host if re.fullmatch("[0-9a-f]{12}", host) and in_docker.exists() else f"{host}-{instance[:8]}"


def _nobody(event: str, **fields: object) -> None:
    """Where nobody reads a log."""


@dataclass
class Telemetry:
    """Sends points; `dropped` counts those given up. Use as a context manager, or `start` and `close`."""

    url: str
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=5.0, trust_env=False))
    capacity: int = CAPACITY
    dropped: int = 0
    say: Callable[..., None] = _nobody  # the log: what happened, and fields
    monotonic: Callable[[], Seconds] = time.monotonic
    _failing: Seconds | None = None  # since when, by `monotonic`
    _said: bool = False
    _waiting: deque[str] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Telemetry:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    def put(self, point: Point) -> None:
        """Never blocks on the network; a full queue drops the point."""
        text = line(point)
        if text is not None and not self.pass_on([text]):
            with self._lock:
                self.dropped += 1

    def pass_on(self, lines: Sequence[str]) -> bool:
        """Points that are in line protocol (ns) already: all of them, or none (False: there is no room)."""
        with self._lock:
            if len(self._waiting) + len(lines) > self.capacity:
                return False
            self._waiting.extend(lines)
            return True

    def close(self, patience: Seconds = 2.0) -> None:
        """Sends what is waiting, once, for `patience` seconds at most."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(patience)
        self.client.close()

    def _run(self) -> None:
        pause = INTERVAL
        while not self._closing.wait(pause):
            reason = self._send_waiting()
            pause = min(2 * pause, LONGEST_PAUSE) if reason else INTERVAL
            self._tell(reason)
        self._send_waiting()

    def _tell(self, reason: str) -> None:
        now = self.monotonic()
        if not reason:
            if self._said:
                self.say("points are taken again", by=self.url, dropped=self.dropped)
            self._failing, self._said = None, False
            return
        self._failing = now if self._failing is None else self._failing
        if not self._said and now - self._failing >= QUIET:
            keeping = f"up to {self.capacity} points are kept and sent later; training goes on"
            self.say("points are not taken", by=self.url, reason=reason, detail=keeping)
            self._said = True

    def _send_waiting(self) -> str:
        """Sends until nothing waits. Why, where nobody takes points now: they stay, first in the queue."""
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            if not batch:
                return ""
            try:
                reply = self.client.post(
                    f"{self.url.rstrip('/')}/write",
                    params={"db": "lab", "precision": "ns"},
                    content="\n".join(batch).encode(),
                )
            except httpx.HTTPError as error:
                self._keep(batch)
                return str(error) or type(error).__name__
            except RuntimeError:  # `close` has waited for as long as it may
                if not self.client.is_closed:
                    raise
                self._keep(batch)
                return "closing"
            if reply.status_code >= 500 or reply.status_code in (404, 429):  # 404: no database there yet
                self._keep(batch)
                return f"{reply.status_code} {reply.reason_phrase}"
            if reply.status_code >= 400:  # refused for what it says: sending it again would not help
                with self._lock:
                    self.dropped += len(batch)

    def _keep(self, batch: list[str]) -> None:
        with self._lock:
            room = self.capacity - len(self._waiting)
            kept = batch[-room:] if room > 0 else []  # the newest matter most
            self.dropped += len(batch) - len(kept)
            self._waiting.extendleft(reversed(kept))
