"""Whom a run waits for before it begins, and the experiment that the service starts by itself."""

from __future__ import annotations

import asyncio
import json

import pytest
from aggregator.gathering import Gathering

pytestmark = pytest.mark.anyio

TOML = """
name = "regression"
task = "regression"
[clients]
count = 4
[training]
epochs = 3
batch_size = "full"
learning_rate = 0.05
[rounds]
count = 2
[evaluation]
shards = 2
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(TOML)
    return path


def test_it_waits_for_enough_and_then_until_nobody_joins_any_more():
    gathering = Gathering(2, settled=5)
    assert gathering.look([], 100) is None
    assert gathering.look(["w1"], 101) is None
    assert gathering.reason() == "waits for 2 workers: 1 here"
    assert gathering.look(["w1", "w2"], 103) == 108
    assert gathering.look(["w1", "w2", "w3"], 107) == 112
    assert gathering.reason() == "3 workers here: begins when none has joined for 5 s"
    assert gathering.look(["w1", "w2", "w3"], 112) == 112


def test_one_that_leaves_and_comes_back_has_joined_again():
    gathering = Gathering(1, settled=5)
    assert gathering.look(["w1"], 0) == 5
    assert gathering.look([], 1) is None
    assert gathering.look(["w1"], 3) == 8


def test_with_patience_it_begins_with_those_who_came_in_time():
    gathering = Gathering(3, patience=30)
    assert gathering.look([], 0) is None
    assert gathering.look(["w1"], 50) == 80
    assert gathering.look(["w1", "w2"], 60) == 80
    assert gathering.reason() == "waits for 3 workers, or for 30 s after the first: 2 here"
    assert gathering.look(["w1", "w2", "w3"], 70) == 70


async def test_the_own_experiment_waits_visibly_and_begins_once_everybody_is_there(
    open_lab, clock, file, settled
):
    async with open_lab(clock, experiment=file, start_workers=2) as lab:
        (run,) = (await lab.http.get("/v1/runs")).json()
        assert (run["state"], run["reason"]) == ("waiting", "waits for 2 workers: 0 here")
        first = await lab.joined(1)
        await lab.joined(2)
        (run,) = (await lab.http.get("/v1/runs")).json()
        assert run["reason"] == "2 workers here: begins when none has joined for 5 s"
        assert run["first_order"] is None
        clock.turn(4.9)
        await settled()
        assert lab.service.runs.active is None
        clock.turn(0.1)
        await lab.service.turns.submit(lambda: settled())
        assert lab.service.runs.active is not None
        reply = await first.ask()
        assert [order.kind for order in reply.give] in (["initialize"], [])


async def test_the_own_experiment_goes_on_after_a_restart_and_is_shown_when_it_has_finished(open_lab, file):
    async with open_lab(experiment=file) as lab:
        (run,) = (await lab.http.get("/v1/runs")).json()
        await lab.http.post(f"/v1/runs/{run['id']}/resume", headers=lab.admin)  # not 5 s of a real clock
        worker = await lab.joined()
        async with lab.working(worker):
            await lab.until(run["id"], lambda detail: detail["round"] >= 1)
    async with open_lab(experiment=file) as lab:  # begun: whoever is there goes on
        worker = await lab.joined()
        async with lab.working(worker):
            assert (await lab.ended(run["id"]))["state"] == "finished"
    async with open_lab(experiment=file) as lab:
        (shown,) = (await lab.http.get("/v1/runs")).json()
        assert (shown["id"], shown["state"]) == (run["id"], "finished")


async def test_a_run_that_gathers_can_be_told_to_begin_or_to_stop(open_lab, clock, make_experiment):
    async with open_lab(clock) as lab:
        held = await lab.create(make_experiment(), start_workers=3)
        await lab.joined()
        assert held["state"] == "waiting"
        second = await lab.create(make_experiment(), again=True, start_workers=3)
        assert second["state"] == "queued"
        await lab.http.post(f"/v1/runs/{held['id']}/stop", headers=lab.admin)
        assert (await lab.detail(second["id"]))["reason"].startswith("waits for 3 workers")
        reply = await lab.http.post(f"/v1/runs/{second['id']}/resume", headers=lab.admin)
        assert reply.json()["state"] == "initializing"


async def test_a_run_with_start_workers_begins_without_those_who_stay_away(
    open_lab, clock, make_experiment, settled
):
    async with open_lab(clock, lost_after=100) as lab:
        run = await lab.create(make_experiment(), start_workers=2)
        clock.turn(60)
        await lab.joined()
        clock.turn(29.9)
        await lab.service.turns.submit(lambda: settled())
        assert (await lab.detail(run["id"]))["state"] == "waiting"
        clock.turn(0.1)
        await lab.service.turns.submit(lambda: settled())
        assert (await lab.detail(run["id"]))["state"] == "initializing"


async def begun(lab, body):
    run = await lab.create(body)
    worker = await lab.joined()
    while not any(order.kind == "train" for order in worker.holding.values()):
        await worker.poll()
        for order in [order for order in worker.holding.values() if order.kind == "initialize"]:
            await worker.carry_out(order)
    return run["id"]


@pytest.mark.parametrize("again", ["resume", "create"])
async def test_a_run_whose_workers_are_gone_is_left_as_it_is_until_it_is_asked_for(
    open_lab, clock, make_experiment, again
):
    body = make_experiment(rounds={"wait_for_workers": 1.0})
    async with open_lab(clock) as lab:
        run = await begun(lab, body)
    for _ in range(2):  # started to look only
        async with open_lab(clock, workers_outlive_it=False) as lab:
            clock.turn(60)
            await lab.service.turns.submit(lambda: asyncio.sleep(0))
            assert lab.service.runs.active is None
            assert (await lab.detail(run))["state"] in ("initializing", "running")  # as it was
    async with open_lab(workers_outlive_it=False) as lab:
        if again == "resume":
            path = f"/v1/runs/{run}/resume?start_workers=1"
            view = (await lab.http.post(path, headers=lab.admin)).json()
        else:
            view = await lab.create(body, start_workers=1)
        assert (view["id"], view["state"]) == (run, "waiting")
        assert view["reason"].startswith("waits for 1 worker")
        await asyncio.sleep(1.2)
        async with lab.working(await lab.joined()):
            assert (await lab.ended(run))["state"] == "finished"


async def test_another_run_does_not_wait_for_one_that_nobody_asks_for(open_lab, make_experiment):
    async with open_lab() as lab:
        left = await begun(lab, make_experiment())
    async with open_lab(workers_outlive_it=False) as lab:
        run = await lab.create(make_experiment(seed=2), start_workers=1)
        async with lab.working(await lab.joined()):
            assert (await lab.ended(run["id"]))["state"] == "finished"
            stopped = (await lab.http.post(f"/v1/runs/{left}/stop", headers=lab.admin)).json()
            assert (stopped["state"], stopped["reason"]) == ("stopped", "stopped by hand")
            reply = await lab.http.post(f"/v1/runs/{left}/resume?start_workers=0", headers=lab.admin)
            assert reply.status_code == 422
            await lab.http.post(f"/v1/runs/{left}/resume", headers=lab.admin)
            assert (await lab.ended(left))["state"] == "finished"


@pytest.mark.parametrize(("text", "says"), [(None, "cannot be read"), ("rounds = 3\n", "rounds")])
async def test_a_file_that_cannot_be_used_is_one_line_and_the_service_is_up(
    open_lab, tmp_path, text, says, caplog
):
    path = tmp_path / "absent.toml"
    if text is not None:
        path.write_text(text)
    async with open_lab(experiment=path) as lab:
        assert (await lab.http.get("/v1/runs")).json() == []
        ready = await lab.http.get("/readyz")
        assert ready.status_code == 200
        assert says in ready.json()["detail"] and str(path) in ready.json()["detail"]
    assert "EXPERIMENT cannot be used" in caplog.text


async def test_beyond_loopback_looking_needs_the_read_token_or_the_admin_token(open_lab, tmp_path):
    async with open_lab(published_on="192.168.1.10") as lab:
        path = tmp_path / "state" / "tokens" / "read"
        assert path.stat().st_mode & 0o777 == 0o600
        token = path.read_text().strip()
        for address in ("/v1/runs", "/v1/workers", "/v1/runs/x", "/v1/runs/x/ledger", "/v1/runs/x/events"):
            assert (await lab.http.get(address)).status_code == 401
            headers = {"Authorization": f"Bearer {lab.service.tokens.join}"}
            assert (await lab.http.get(address, headers=headers)).status_code == 401
            for good in (token, lab.service.tokens.admin):
                reply = await lab.http.get(address, headers={"Authorization": f"Bearer {good}"})
                assert reply.status_code in (200, 404)
        reading = {"Authorization": f"Bearer {token}"}
        assert (await lab.http.post("/v1/runs", content=json.dumps({}), headers=reading)).status_code in (
            401,
            422,
        )
        assert (await lab.http.get("/readyz")).status_code == 200


async def test_on_loopback_everybody_may_look(open_lab, tmp_path):
    async with open_lab(host="0.0.0.0", published_on="127.0.0.1") as lab:
        assert (await lab.http.get("/v1/runs")).status_code == 200
        assert not (tmp_path / "state" / "tokens" / "read").exists()
