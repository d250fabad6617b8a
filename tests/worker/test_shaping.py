"""A link acted out: it takes what its settings say, on a clock turned by hand and on the real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roundtable.fleet import Conditions
from worker.link import Limits, Link
from worker.shaping import PIECE, Bucket, ShapedTransport
from worker.transport import SocketTransport

from tests.worker.scripted import TOKEN, Aggregator


class Turned:
    """A clock that resting turns, and nothing else."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def rest(self, seconds: float) -> None:
        self.now += max(seconds, 0.0)


def sent(conditions: Conditions, body: bytes) -> tuple[float, bytes]:
    """Seconds that it took, and the body as it was received."""
    clock, seen = Turned(), list[bytes]()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.read())
        return httpx.Response(200)

    shaped = ShapedTransport(httpx.MockTransport(answer), conditions, clock, clock.rest)
    shaped.handle_request(httpx.Request("PUT", "http://lab/x", content=body))
    return clock.now - 1000.0, seen[0]


@settings(max_examples=40)
@given(st.binary(max_size=3 * PIECE), st.floats(0.01, 1000))
def test_an_upload_takes_its_latency_and_its_bytes_at_its_rate(body: bytes, mbit: float) -> None:
    conditions = Conditions(up_mbit=mbit, up_delay=0.25, down_delay=9.0)
    seconds, there = sent(conditions, body)
    assert there == body
    assert seconds == pytest.approx(0.25 + 8 * len(body) / (mbit * 1e6))


@pytest.mark.parametrize("size", [0, 1, PIECE, 10 * PIECE + 7])
def test_a_download_takes_its_latency_and_its_bytes_at_its_rate(size: int) -> None:
    clock, content = Turned(), b"x" * size
    conditions = Conditions(down_mbit=2.0, down_delay=0.5, up_delay=9.0)
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=content))
    shaped = ShapedTransport(transport, conditions, clock, clock.rest)
    response = shaped.handle_request(httpx.Request("GET", "http://lab/x"))
    assert clock.now == pytest.approx(1000.5)  # the body is still to come
    assert response.read() == content
    assert clock.now == pytest.approx(1000.5 + 8 * size / 2e6)


def test_a_link_without_limits_takes_no_time() -> None:
    assert sent(Conditions(), b"x" * 100_000)[0] == 0.0


def test_a_bucket_saves_up_one_piece_and_no_more() -> None:
    clock = Turned()
    bucket = Bucket(8.0, clock, clock.rest)  # a million bytes a second
    bucket.let(500_000)
    clock.now += 100.0
    bucket.let(500_000)
    assert clock.now == pytest.approx(1000.0 + 0.5 + 100.0 + 0.5 - PIECE / 1e6)


def test_time_that_the_network_itself_took_is_not_added_to_the_links() -> None:
    clock = Turned()
    bucket = Bucket(8.0, clock, clock.rest)

    def slow_source() -> Iterator[bytes]:
        for _ in range(4):
            clock.now += 0.005  # twice as fast as the link
            yield b"x" * 10_000

    assert b"".join(bucket.pace(slow_source())) == b"x" * 40_000
    assert clock.now == pytest.approx(1000.0 + 0.005 + 4 * 0.01)


def test_a_wait_that_is_given_up_gives_up_the_request() -> None:
    class GivenUp(Exception):
        pass

    def rest(seconds: float) -> None:
        if seconds > 1:
            raise GivenUp

    conditions = Conditions(up_mbit=0.01, up_delay=0.5)
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=request.read()))
    shaped = ShapedTransport(transport, conditions, Turned(), rest)
    with pytest.raises(GivenUp):
        shaped.handle_request(httpx.Request("PUT", "http://lab/x", content=b"x" * PIECE))


def test_over_a_real_connection_it_is_not_faster_than_its_settings(aggregator: Aggregator) -> None:
    never = threading.Event()

    def rest(seconds: float) -> None:
        never.wait(seconds)

    conditions = Conditions(down_mbit=0.01, down_delay=0.1)
    shaped = ShapedTransport(SocketTransport(), conditions, time.monotonic, rest)
    link = Link(aggregator.url, lambda: TOKEN, transport=shaped, limits=Limits(read=5.0))
    aggregator.sessions.add("")
    digest = aggregator.publish(1.0)
    size = len(aggregator.contents[digest])
    began = time.monotonic()
    content = link.weights(digest, 1 << 20)
    assert bytes(content) == aggregator.contents[digest]
    assert time.monotonic() - began >= 0.1 + 8 * size / 10_000
