"""How long a round took, and what was sent in it: whatever the wall clock says or comes between."""

from __future__ import annotations

import errno
import os

import pytest

pytestmark = pytest.mark.anyio


def trains(worker):
    return [order for order in worker.holding.values() if order.kind == "train"]


async def begun(lab, clock, body):
    """A run in its first round: after 5 s the first of four updates is in."""
    worker = await lab.joined()
    run = (await lab.create(body))["id"]
    while not trains(worker):
        await worker.poll()
        for order in [order for order in worker.holding.values() if order.kind != "train"]:
            await worker.carry_out(order)
    clock.turn(5.0)
    await worker.carry_out(trains(worker)[0])
    return run, worker


async def ended(lab, run, worker):
    for order in list(worker.holding.values()):
        await worker.carry_out(order)
    async with lab.working(worker):
        detail = await lab.ended(run)
    assert detail["state"] == "finished", detail["reason"]
    return detail["history"][1]


@pytest.fixture
def body(make_experiment):
    return make_experiment(rounds={"count": 1}, evaluation={"shards": 1})


async def test_a_round_takes_as_long_however_the_wall_clock_is_set(open_lab, clock, body):
    async with open_lab(clock, lost_after=1e6) as lab:
        run, worker = await begun(lab, clock, body)
        clock.midnight -= 7200.0
        clock.turn(3.0)
        record = await ended(lab, run, worker)
    assert record["committed"] < record["started"]  # points in time are the wall clock's
    assert (record["seconds"], record["phases"]) == (8.0, {"clients": 8.0, "aggregate": 0.0})


async def test_a_pause_is_no_time_of_its_round(open_lab, clock, body):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with open_lab(clock, lost_after=1e6) as lab:
        run, worker = await begun(lab, clock, body)
        refused = trains(worker)[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            assert (await worker.upload(refused, await worker.prepare(refused))).status_code == 507
        assert (await lab.detail(run))["state"] == "paused"
        clock.turn(1000.0)
        await lab.http.post(f"/v1/runs/{run}/resume", headers=lab.admin)
        clock.turn(3.0)
        record = await ended(lab, run, worker)
    assert (record["seconds"], record["phases"]["clients"]) == (8.0, 8.0)


async def test_a_round_that_its_aggregator_left_takes_up_what_was_recorded_in_it_last(open_lab, clock, body):
    async with open_lab(clock, lost_after=1e6) as lab:
        run, worker = await begun(lab, clock, body)
        sent = lab.service.runs.live.bytes_down
        started = (await lab.detail(run))["first_order"]
        clock.turn(40.0)  # in which nothing came
    clock.turn(86_400.0)
    async with open_lab(clock, lost_after=1e6) as lab:
        worker.http = lab.http
        clock.turn(3.0)
        record = await ended(lab, run, worker)
    assert record["bytes_down"] == sent // 2 * 5  # to evaluate, and to train each of four clients
    assert (record["started"], record["seconds"]) == (started, 8.0)
