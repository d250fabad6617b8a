"""Points of rounds and events, what nodes send by the aggregator, and that neither makes anybody wait."""

from __future__ import annotations

import gzip
import re
import threading
import time
from collections.abc import Iterator

import pytest
from roundtable.telemetry import CAPACITY

from tests.roundtable.sink import Sink

pytestmark = pytest.mark.anyio


@pytest.fixture
def sink() -> Iterator[Sink]:
    server = Sink()
    yield server
    server.stop()


async def run_to_its_end(lab, body):
    run = await lab.create(body)
    worker = await lab.joined()
    async with lab.working(worker):
        return await lab.ended(run["id"])


async def test_each_round_is_told_when_committed_and_again_at_the_same_time_when_scored(
    open_lab, make_experiment, sink
):
    async with open_lab(telemetry_url=sink.url) as lab:
        detail = await run_to_its_end(lab, make_experiment())
    lines = sink.wait_for("^fl_round,")
    times = {}
    for text in lines:
        assert f"run={detail['id']}" in text and ",source=" in text.partition(" ")[0]
        times.setdefault(re.search(r"round=(\d+)i", text)[1], set()).add(text.rsplit(" ", 1)[1])
    assert {number: len(at) for number, at in times.items()} == {"1": 1, "2": 1, "3": 1}
    scored = [text for text in lines if "accuracy=" in text and "round=3i" in text]
    assert scored, lines
    total = sum(record["num_examples"] for record in detail["history"])
    assert (
        f"samples_seen={total}i" in scored[-1] and "elapsed=" in scored[-1] and "bytes_total=" in scored[-1]
    )
    events = sink.wait_for("^fl_event,")
    texts = "\n".join(events)
    for found in (
        "kind=worker",
        "kind=run",
        "kind=round",
        'text="round 2"',
        "worker w1 is there",
        "finished",
    ):
        assert found in texts, (found, events)


@pytest.mark.parametrize("behaviour", ["refuses", "errors", "hangs"])
async def test_a_run_does_not_wait_for_its_points(open_lab, make_experiment, sink, behaviour):
    release = threading.Event()
    url = sink.url
    if behaviour == "refuses":
        sink.server.server_close()
    elif behaviour == "errors":
        sink.behave = lambda: 500
    else:
        sink.behave = lambda: (release.wait(30), 503)[1]
    started = time.monotonic()
    async with open_lab(telemetry_url=url) as lab:
        detail = await run_to_its_end(lab, make_experiment())
        took = time.monotonic() - started
        leaving = time.monotonic()
    assert detail["state"] == "finished"
    assert took < 5
    assert time.monotonic() - leaving < 3
    release.set()


async def write(lab, body, token=None, **headers):
    token = token or lab.service.tokens.join
    headers = {"Authorization": f"Bearer {token}"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return await lab.http.post("/v1/telemetry/write?db=lab&precision=ns", content=body, headers=headers)


async def test_what_nodes_send_is_passed_on_plain_or_packed(open_lab, sink):
    async with open_lab(telemetry_url=sink.url) as lab:
        assert (await write(lab, b"cpu,host=pi usage=1 1700000000000000000\n")).status_code == 204
        packed = gzip.compress(b"mem,host=pi used=2 1700000000000000000\n")
        assert (await write(lab, packed, content_encoding="gzip")).status_code == 204
        sink.wait_for("^mem,host=pi used=2 1700000000000000000$")
        assert (await write(lab, b"")).status_code == 204
    assert sink.lines.count("cpu,host=pi usage=1 1700000000000000000") == 1


async def test_what_nodes_send_is_bounded_and_needs_the_join_token(open_lab, sink, clock):
    async with open_lab(clock, telemetry_url=sink.url) as lab:
        wrong = await write(lab, b"cpu usage=1 1", token="x" * 20)
        assert (wrong.status_code, wrong.json()["type"]) == (401, "urn:roundtable:unauthorized")
        assert (await write(lab, b"x" * (2**20 + 1))).status_code == 413
        assert (await write(lab, gzip.compress(b"x" * 2**21), content_encoding="gzip")).status_code == 413
        assert (await write(lab, b"\x1f\x8bnonsense", content_encoding="gzip")).status_code == 422
        assert (await write(lab, gzip.compress(b"x" * 99)[:-9], content_encoding="gzip")).status_code == 422
        twice = gzip.compress(b"mem used=1 1") * 2
        assert (await write(lab, twice, content_encoding="gzip")).status_code == 422
        assert (await write(lab, b"\xff\xfe")).status_code == 422
        assert (await write(lab, b"x", content_encoding="br")).status_code == 422
        lines = (b"cpu,host=pi usage=1 1700000000000000000\n" * 26214)[: 2**20]
        codes = [(await write(lab, b"#" * len(lines))).status_code for _ in range(5)]
        assert codes[0] == 204 and codes[-1] == 429
        clock.turn(10)
        assert (await write(lab, b"cpu usage=1 1700000000000000000")).status_code == 204


async def test_more_points_than_can_ever_wait_here_are_too_many_and_not_for_later(open_lab, sink, clock):
    async with open_lab(clock, telemetry_url=sink.url) as lab:
        points = [b"cpu usage=%d 1" % number for number in range(CAPACITY + 1)]
        many = await write(lab, b"\n".join(points))
        assert (many.status_code, many.json()["type"]) == (413, "urn:roundtable:too-large")
        assert f"at most {CAPACITY} points" in many.json()["detail"]
        assert (await write(lab, b"\n".join(points[1:]))).status_code == 204


async def test_points_end_at_line_breaks_alone_and_not_where_a_text_has_a_break_of_another_kind(
    open_lab, sink
):
    async with open_lab(telemetry_url=sink.url) as lab:
        odd = 'note text="a\u2028b\u0085c\x0cd" 1'
        assert (await write(lab, f"{odd}\r\nlast x=1 2\n".encode())).status_code == 204
        sink.wait_for("^last x=1 2$")
    assert odd in sink.lines


async def test_points_that_nobody_takes_are_refused_and_the_aggregators_own_are_not_pushed_aside(
    open_lab, sink, clock
):
    sink.behave = lambda: 503
    async with open_lab(clock, telemetry_url=sink.url) as lab:
        batch = b"cpu,host=pi usage=1 1700000000000000000\n" * 15_000
        assert (await write(lab, batch)).status_code == 204
        full = await write(lab, batch)
        assert (full.status_code, full.json()["type"]) == (429, "urn:roundtable:rate-limited")
        assert lab.service.telemetry.dropped == 0


async def test_without_a_place_for_points_that_is_said(open_lab):
    async with open_lab() as lab:
        reply = await write(lab, b"cpu usage=1 1700000000000000000")
        assert reply.status_code == 409 and "TELEMETRY_URL" in reply.json()["detail"]
