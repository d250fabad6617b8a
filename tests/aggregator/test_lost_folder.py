"""A run whose folder somebody removes while it goes on: it says so and ends, and the next one begins."""

from __future__ import annotations

import shutil

import pytest
from aggregator.disk import failing_disk_is_storage_full
from roundtable.errors import StorageFull

pytestmark = pytest.mark.anyio


async def removed(lab, body, state):
    """A run in its first round, without its folder."""
    run = (await lab.create(body))["id"]
    worker = await lab.joined()
    while not (trains := [order for order in worker.holding.values() if order.kind == "train"]):
        await worker.poll()
        for order in [order for order in worker.holding.values() if order.kind == "initialize"]:
            await worker.carry_out(order)
    bodies = [(order, await worker.prepare(order)) for order in trains]
    shutil.rmtree(state / "runs" / run)
    return run, worker, bodies


async def test_the_run_fails_with_what_is_gone_and_the_next_begins(open_lab, make_experiment, tmp_path):
    async with open_lab() as lab:
        run, worker, bodies = await removed(lab, make_experiment(), tmp_path / "state")
        other = (await lab.create(make_experiment(seed=2)))["id"]
        reply = await worker.upload(*bodies[0])
        assert (reply.status_code, reply.json()["type"]) == (500, "urn:roundtable:corrupt-store")
        detail = await lab.ended(run)
        spool = tmp_path / "state" / "runs" / run / "spool"
        assert detail["state"] == "failed"
        assert detail["reason"] == f"{spool} is gone: put it back if you can, then resume the run"

        await lab.http.post(f"/v1/runs/{run}/resume", headers=lab.admin)
        worker.holding.clear()
        async with lab.working(worker):
            assert (await lab.ended(other))["state"] == "finished"
            detail = await lab.ended(run)
        assert detail["state"] == "failed"
        assert f"{run}/weights/" in detail["reason"] and "put it back from a copy" in detail["reason"]


def test_a_file_that_is_gone_from_a_folder_that_is_there_can_pass(tmp_path):
    place = tmp_path / "spare.part"
    with pytest.raises(StorageFull, match="cannot be written"), failing_disk_is_storage_full(place):
        place.stat()
