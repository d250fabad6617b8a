"""What watchers of a run are told, and told again when they come back."""

from __future__ import annotations

import asyncio
import json

import pytest
from aggregator.feed import Feed
from roundtable.messages import RoundRecord, RunView

pytestmark = pytest.mark.anyio


def view(**changes):
    fields = {"id": "r", "name": "r", "state": "running", "rounds": 3, "created": 0.0, "experiment_hash": "e"}
    return RunView(**(fields | changes))


def feed_of(clock):
    return Feed(clock, view, tuple)


def kinds(events):
    return [(event.kind, event.round.round if event.round else None) for event in events]


def test_a_newcomer_is_told_what_everything_is_now(clock):
    feed = feed_of(clock)
    feed.round_changed(RoundRecord(round=1))
    feed.round_changed(RoundRecord(round=2))
    feed.round_changed(RoundRecord(round=1, accuracy=0.5))
    events = feed.after(0)
    assert kinds(events) == [("run", None), ("workers", None), ("round", 2), ("round", 1)]
    assert events[-1].round.accuracy == 0.5
    assert [event.seq for event in events] == sorted({event.seq for event in events})


def test_who_comes_back_is_told_what_changed_since_and_nothing_else(clock):
    feed = feed_of(clock)
    feed.round_changed(RoundRecord(round=1))
    last = feed.after(0)[-1].seq
    assert feed.after(last) == []
    feed.round_changed(RoundRecord(round=2))
    feed.round_changed(RoundRecord(round=1, accuracy=0.5))
    feed.note("disk is nearly full")
    assert kinds(feed.after(last)) == [("round", 2), ("round", 1), ("note", None)]


def test_ids_of_a_restarted_aggregator_come_after_those_of_the_one_before(clock):
    before = feed_of(clock)
    for number in range(500):
        before.round_changed(RoundRecord(round=number))
    last = before.after(0)[-1].seq
    clock.turn(1)
    after = feed_of(clock)
    after.round_changed(RoundRecord(round=500))
    assert kinds(after.after(last)) == [("run", None), ("workers", None), ("round", 500)]


async def test_who_comes_back_after_the_clock_was_set_back_is_told_everything(clock):
    last = feed_of(clock).after(0)[-1].seq
    clock.turn(-3600)
    stream = feed_of(clock).watch(last)
    await anext(stream)
    assert b"event: run" in await asyncio.wait_for(anext(stream), 5)


def parsed(body):
    events = []
    for frame in body.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in frame.splitlines() if ": " in line and line[0] != ":")
        if "data" in fields:
            event = json.loads(fields["data"])
            assert fields["id"] == str(event["seq"]) and fields["event"] == event["kind"]
            events.append(event)
    return events


async def test_a_stream_tells_each_round_and_ends_with_the_run(open_lab, make_experiment):
    async with open_lab() as lab:
        async with lab.working(await lab.joined()):
            run = await lab.create(make_experiment())
            reply = await lab.http.get(
                f"/v1/runs/{run['id']}/events"
            )  # the body is whole once the run has ended
        assert reply.headers["content-type"].startswith("text/event-stream")
        events = parsed(reply.text)
        last_of = {event["round"]["round"]: event["round"] for event in events if event["kind"] == "round"}
        assert set(last_of) == {0, 1, 2, 3} and last_of[3]["accuracy"] is not None
        assert events[-1]["kind"] == "run" and events[-1]["run"]["state"] == "finished"
        assert any(event["kind"] == "workers" and event["workers"][0]["id"] == "w1" for event in events)


async def test_a_stream_is_picked_up_where_it_was_left_after_a_restart_too(open_lab, make_experiment):
    async with open_lab() as lab:
        run = await lab.create(make_experiment())
        feed = await lab.service.runs.feed(run["id"])
        last = feed.after(0)[-1].seq
    async with open_lab() as lab:
        async with lab.working(await lab.joined()):
            await lab.ended(run["id"])
        reply = await lab.http.get(f"/v1/runs/{run['id']}/events", headers={"Last-Event-ID": str(last)})
        events = parsed(reply.text)
        assert [event["round"]["round"] for event in events if event["kind"] == "round"] == [0, 1, 2, 3]
        assert events[-1]["run"]["state"] == "finished"
        seen = str(events[-1]["seq"])
        reply = await lab.http.get(f"/v1/runs/{run['id']}/events", headers={"Last-Event-ID": "soon"})
        assert reply.status_code == 422
        assert seen


async def test_a_quiet_stream_shows_that_it_is_alive(clock, settled):
    feed = feed_of(clock)
    stream = feed.watch(feed.after(0)[-1].seq)
    assert await anext(stream) == b"retry: 1000\n\n"

    waiting = asyncio.ensure_future(anext(stream))
    await settled()
    clock.turn(16)
    assert (await asyncio.wait_for(waiting, 5)).startswith(b":")
