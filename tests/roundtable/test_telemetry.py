"""Points: their bytes, and a sender that never makes anybody wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from roundtable import telemetry
from roundtable.telemetry import Point, Telemetry, line, source

from tests.roundtable.sink import Sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    server = Sink()
    yield server
    server.stop()


def test_a_point_is_one_line_with_sorted_tags_and_nanoseconds():
    point = Point(
        "fl_round", {"run": "r 1,a=b", "source": "", "a": "x\ny\\"}, {"n": 3, "x": 0.5, "ok": True}, 1.5
    )
    assert line(point) == r"fl_round,a=x\ y,run=r\ 1\,a\=b n=3i,x=0.5,ok=true 1500000000"


def test_fields_that_are_nothing_are_left_out_and_a_point_without_any_is_none():
    assert line(Point("m", {}, {"x": None, "y": float("nan"), "z": float("inf")}, 1)) is None
    assert line(Point("m", {}, {"x": None, "t": 'say "a\\b"\nc'}, 1)) == r'm t="say \"a\\b\" c" 1000000000'


def test_the_source_is_a_containers_short_id_else_host_and_instance(monkeypatch, tmp_path):
    mark = tmp_path / ".dockerenv"
    monkeypatch.setattr(telemetry.socket, "gethostname", lambda: "0123456789ab")
    assert source("feedbeef99", mark) == "0123456789ab-feedbeef"
    mark.touch()
    assert source("feedbeef99", mark) == "0123456789ab"
    monkeypatch.setattr(telemetry.socket, "gethostname", lambda: "pi-3")
    assert source("feedbeef99", mark) == "pi-3-feedbeef"


def test_points_arrive_and_the_last_ones_at_the_end(sink):
    with Telemetry(sink.url) as sender:
        sender.put(Point("early", {}, {"x": 1}, 1))
        sink.wait_for("^early x=1i 1000000000$")
        sender.put(Point("late", {}, {"x": 2}, 2))
    assert "late x=2i 2000000000" in sink.lines
    assert sender.dropped == 0


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_queue_drops_and_counts_and_putting_never_waits(sink):
    release = threading.Event()
    sink.behave = lambda: (release.wait(30), 204)[1]
    sender = Telemetry(sink.url, capacity=100)
    sender.start()
    begun = time.monotonic()
    for number in range(20_000):
        sender.put(Point("m", {}, {"x": number}, number))
    assert time.monotonic() - begun < 20  # of the 30 that the sink takes for a batch
    assert sender.dropped in (19_800, 19_900)  # with a batch on its way by then, or without
    begun = time.monotonic()
    sender.close(0.2)
    assert time.monotonic() - begun < 20
    release.set()
    for thread in [thread for thread in threading.enumerate() if thread.name == "telemetry"]:
        thread.join(60)


@pytest.mark.parametrize("status", [500, 503, 429, 404])
def test_what_is_not_taken_now_is_kept_and_sent_when_it_is(sink, status, monkeypatch):
    monkeypatch.setattr(telemetry, "INTERVAL", 0.05)
    answers = iter([status, status])
    sink.behave = lambda: next(answers, 204)
    with Telemetry(sink.url) as sender:
        sender.put(Point("m", {}, {"x": 1}, 1))
        sink.wait_for("^m x=1i")
    assert sender.dropped == 0 and sink.lines == ["m x=1i 1000000000"]


def test_it_is_said_once_that_nobody_takes_points_and_once_that_somebody_does_again(sink, monkeypatch):
    monkeypatch.setattr(telemetry, "INTERVAL", 0.02)
    said, enough, now = [], threading.Event(), [100.0]

    def say(event, **fields):
        said.append((event, now[0], fields))
        (enough.set if event == "points are taken again" else lambda: None)()

    def answer():
        now[0] += 20
        return next(answers, 204)

    answers = iter([503] * 4)
    sink.behave = answer
    with Telemetry(sink.url, say=say, monotonic=lambda: now[0]) as sender:
        sender.put(Point("m", {}, {"x": 1}, 1))
        assert enough.wait(60)
    assert [(event, at) for event, at, _ in said] == [
        ("points are not taken", 180.0),  # a minute after the first try, which was at 120
        ("points are taken again", 200.0),
    ]
    assert said[0][2]["by"] == sink.url and said[0][2]["reason"].startswith("503")
    assert said[1][2]["dropped"] == 0


def test_a_start_before_telegrafs_is_not_worth_a_word(sink, monkeypatch):
    monkeypatch.setattr(telemetry, "INTERVAL", 0.02)
    answers = iter([503, 503])
    sink.behave = lambda: next(answers, 204)
    said = []
    with Telemetry(sink.url, say=lambda event, **_: said.append(event)) as sender:
        sender.put(Point("m", {}, {"x": 1}, 1))
        sink.wait_for("^m x=1i")
    assert not said


def test_what_is_refused_for_what_it_says_is_given_up_and_counted(sink, monkeypatch):
    monkeypatch.setattr(telemetry, "INTERVAL", 0.05)
    answers = iter([400])
    sink.behave = lambda: next(answers, 204)
    with Telemetry(sink.url) as sender:
        sender.put(Point("bad", {}, {"x": 1}, 1))
        deadline = time.monotonic() + 10
        while not sender.dropped and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        sender.put(Point("good", {}, {"x": 1}, 1))
        sink.wait_for("^good")
    assert sender.dropped == 1 and len(sink.lines) == 1


def test_lines_are_passed_on_whole_or_not_at_all():
    sender = Telemetry("http://127.0.0.1:9", capacity=3)
    assert sender.pass_on(["a x=1 1", "b x=1 1"])
    assert not sender.pass_on(["c x=1 1", "d x=1 1"])
    assert sender.pass_on(["c x=1 1"])
    assert sender.dropped == 0
