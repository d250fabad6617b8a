"""Points that nodes send through the aggregator, so that a node needs one address for everything.

They are not looked into: whole bodies of line protocol go into a queue of their own, bounded as the
aggregator's points are, so that no node can push those aside. A peer has an allowance that fills up again
with time.
"""

from __future__ import annotations

import re
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from roundtable.errors import InvalidInput, NotPossible, RateLimited, TooLarge
from roundtable.telemetry import Telemetry
from roundtable.types import Seconds

from aggregator.clock import Clock

LIMIT: Final = 2**20  # bytes of a body, unpacked
RATE: Final = 2**18  # bytes a second that a peer may send in the long run: some 1,500 points
BURST: Final = 2**22  # bytes at once, as after a while without network
PEERS: Final = 1024  # remembered; the ones heard longest ago are forgotten


@dataclass
class _Allowance:
    left: float
    since: Seconds


@dataclass
class Relay:
    """`telemetry` None: this lab keeps no points."""

    clock: Clock
    telemetry: Telemetry | None
    _allowances: OrderedDict[str, _Allowance] = field(default_factory=OrderedDict)

    def start(self) -> None:
        if self.telemetry is not None:
            self.telemetry.start()

    def close(self, patience: Seconds) -> None:
        if self.telemetry is not None:
            self.telemetry.close(patience)

    def take(self, peer: str, body: bytes, encoding: str = "", precision: str = "ns") -> None:
        """Queue a body of line protocol; returns at once.

        Raises InvalidInput, TooLarge, RateLimited, NotPossible.
        """
        if self.telemetry is None:
            raise NotPossible("this lab keeps no points: set TELEMETRY_URL on the aggregator")
        if precision not in ("ns", "n", ""):
            raise InvalidInput(f"precision: times are in nanoseconds (ns), found {precision!r:.20}")
        try:
            text = _unpacked(body, encoding).decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidInput("body: is not line protocol (UTF-8 text)") from None
        lines = [line for line in re.split("\r?\n", text) if line.strip() and not line.startswith("#")]
        if len(lines) > self.telemetry.capacity:
            raise TooLarge(f"body: at most {self.telemetry.capacity} points at once, found {len(lines)}")
        self._spend(peer, len(text))
        if lines and not self.telemetry.pass_on(lines):
            raise RateLimited("points wait here already that nobody takes: send these again later")

    def _spend(self, peer: str, size: int) -> None:
        now = self.clock.monotonic()
        known = self._allowances.setdefault(peer, _Allowance(BURST, now))
        self._allowances.move_to_end(peer)
        while len(self._allowances) > PEERS:
            self._allowances.popitem(last=False)
        known.left = min(known.left + (now - known.since) * RATE, BURST)
        known.since = now
        if size > known.left:
            raise RateLimited(
                f"more than {RATE} bytes of points a second from {peer}: send these again later"
            )
        known.left -= size


def _unpacked(body: bytes, encoding: str) -> bytes:
    if encoding in ("", "identity"):
        return body
    if encoding != "gzip":
        raise InvalidInput(f"Content-Encoding: gzip or nothing, found {encoding!r:.20}")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(body, LIMIT + 1)
    except zlib.error as error:
        raise InvalidInput(f"body: is not gzip ({error})") from None
    if len(content) > LIMIT:
        raise TooLarge(f"body: at most {LIMIT} bytes of points at once")
    if not unpacker.eof:
        raise InvalidInput("body: its gzip ends too early")
    if unpacker.unused_data:
        raise InvalidInput("body: something follows its gzip: send one gzip stream alone")
    return content
