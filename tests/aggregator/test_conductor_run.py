"""Whole runs through the real app, held against numpy doing the same alone."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from roundtable import codec
from roundtable.messages import Evaluated

pytestmark = pytest.mark.anyio


async def latest(lab, run):
    reply = await lab.http.get(f"/v1/runs/{run}/model", params={"which": "latest"})
    assert reply.headers["cache-control"] == "no-cache"  # the next round has others under this address
    assert reply.status_code == 200, reply.text
    return list(codec.decode(reply.content, {"weights": lab.task.manifest}).groups["weights"].arrays)


def federated_average(task, rounds, steps, rate, clients=4):
    """McMahan et al. 2017, Algorithm 1, all clients in every round."""
    weights = task.first()
    for _ in range(rounds):
        sizes = np.array([len(task.data[client][0]) for client in range(clients)], np.float64)
        total = [np.zeros(array.shape, np.float64) for array in weights]
        for client, share in enumerate(sizes / sizes.sum()):
            end = task.train(weights, client, steps=steps, rate=rate)
            for position, (after, before) in enumerate(zip(end, weights, strict=True)):
                total[position] += (after - before) * share
        weights = [(a + t).astype(np.float32) for a, t in zip(weights, total, strict=True)]
    return weights


async def test_a_run_ends_with_the_weights_that_numpy_computes(open_lab, make_experiment):
    async with open_lab() as lab:
        workers = [await lab.joined(number) for number in (1, 2)]
        async with lab.working(*workers):
            run = await lab.create(make_experiment())
            detail = await lab.ended(run["id"])
        assert detail["state"] == "finished", detail["reason"]
        expected = federated_average(lab.task, rounds=3, steps=3, rate=0.05)
        for found, array in zip(await latest(lab, run["id"]), expected, strict=True):
            np.testing.assert_array_equal(found, array)


async def run_to_its_end(open_lab, body, workers=2, **options):
    async with open_lab() as lab:
        team = [await lab.joined(number + 1) for number in range(workers)]
        async with lab.working(*team):
            run = await lab.create(body, **options)
            detail = await lab.ended(run["id"])
            weights = await latest(lab, run["id"])
        return detail, weights, lab.task, team


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


async def test_federated_sgd_is_one_full_batch_step_a_round(open_lab, make_experiment):
    body = make_experiment(training={"epochs": 1}, rounds={"count": 5})
    detail, found, task, _ = await run_to_its_end(open_lab, body)
    assert detail["state"] == "finished"
    assert_same(found, federated_average(task, rounds=5, steps=1, rate=0.05))
    losses = [record["loss"] for record in detail["history"][1:]]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("workers", [1, 3])
async def test_the_number_of_workers_does_not_change_a_bit(open_lab, make_experiment, workers):
    _, found, task, _ = await run_to_its_end(open_lab, make_experiment(), workers)
    assert_same(found, federated_average(task, rounds=3, steps=3, rate=0.05))


def scaffold(task, rounds, steps, rate, clients=4):
    """Karimireddy et al. 2020, Algorithm 1 with option II, all clients in every round, server rate 1."""
    x = task.first()
    c = [np.zeros_like(array) for array in x[:2]]
    own = [[np.zeros_like(array) for array in x[:2]] for _ in range(clients)]
    sizes = np.array([len(task.data[client][0]) for client in range(clients)], np.float64)
    for _ in range(rounds):
        mean, change = [np.zeros(array.shape) for array in x], [np.zeros(array.shape) for array in c]
        for client in range(clients):
            control = [server - local for server, local in zip(c, own[client], strict=True)]
            y = task.train(x, client, steps=steps, rate=rate, control=control)
            mean = [m + (a - b) * (sizes[client] / sizes.sum()) for m, a, b in zip(mean, y, x, strict=True)]
            for position in range(2):
                after = (
                    own[client][position]
                    - c[position]
                    + (x[position] - y[position]) / np.float32(steps * rate)
                )
                change[position] += (after - own[client][position]) / clients
                own[client][position] = after
        x = [(a + m).astype(np.float32) for a, m in zip(x, mean, strict=True)]
        c = [(a + d).astype(np.float32) for a, d in zip(c, change, strict=True)]
    return x


async def test_control_variates_travel_as_broadcast_and_state(open_lab, make_experiment):
    body = make_experiment(strategy={"objective": {"name": "control-variates"}}, rounds={"count": 4})
    detail, found, task, _ = await run_to_its_end(open_lab, body)
    assert detail["state"] == "finished", detail["reason"]
    for one, other in zip(found, scaffold(task, rounds=4, steps=3, rate=0.05), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=2e-6)
    plain = federated_average(task, rounds=4, steps=3, rate=0.05)
    assert np.abs(found[0] - plain[0]).max() > 1e-4  # else the controls did nothing


async def test_float16_on_the_wire_comes_close(open_lab, make_experiment):
    detail, found, task, _ = await run_to_its_end(open_lab, make_experiment(wire="float16"))
    assert detail["state"] == "finished", detail["reason"]
    expected = federated_average(task, rounds=3, steps=3, rate=0.05)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.02)


async def test_every_round_leaves_its_record(open_lab, make_experiment):
    detail, _, _, team = await run_to_its_end(open_lab, make_experiment())
    first, *rounds = detail["history"]
    assert (first["round"], first["participants"]) == (0, [])
    assert [record["round"] for record in rounds] == [1, 2, 3] and detail["round"] == 3
    for record in rounds:
        assert record["participants"] == [0, 1, 2, 3]
        assert record["num_examples"] == 10 + 15 + 20 + 25
        assert 0 <= record["accuracy"] <= 1 and record["loss"] > 0 and record["train_loss"] == 1.0
        assert record["bytes_up"] > 0 and record["bytes_down"] > 0
        assert set(record["phases"]) == {"clients", "aggregate"}
        assert {c for account in record["workers"].values() for c in account["clients"]} == {0, 1, 2, 3}
        assert set(record["workers"]) == {worker.id for worker in team}
    assert detail["first_order"] >= detail["created"] and detail["ended"] >= detail["first_order"]
    best = max(rounds, key=lambda record: (record["accuracy"], -record["round"]))
    assert detail["best_round"] == best["round"]
    assert detail["environment"]["python"]


@pytest.mark.parametrize("restart", [False, True])
async def test_a_round_that_is_tried_again_lasts_from_its_first_order(
    open_lab, make_experiment, clock, restart
):
    body = make_experiment(rounds={"count": 1, "deadline": 60.0, "retries": 3}, evaluation={"shards": 1})
    async with open_lab(clock, lost_after=1e6) as lab:
        worker = await lab.joined()
        run = (await lab.create(body))["id"]
        for kind in ("initialize", "evaluate"):
            await worker.poll()
            for order in [order for order in worker.holding.values() if order.kind == kind]:
                await worker.carry_out(order)
        began = (await lab.detail(run))["first_order"]
        for _ in range(2):
            clock.turn(61.0)
            await lab.service.turns.submit(lambda: asyncio.sleep(0))  # after the turn that saw the deadline
        if not restart:
            clock.turn(5.0)
            async with lab.working(worker):
                record = (await lab.ended(run))["history"][-1]
    if restart:
        async with open_lab(clock, lost_after=1e6) as lab:
            clock.turn(5.0)
            async with lab.working(await lab.joined()):
                record = (await lab.ended(run))["history"][-1]
    assert (record["attempt"], record["started"], record["seconds"]) == (3, began, 127.0)
    assert record["phases"]["clients"] == 127.0


async def test_whoever_took_part_is_told_the_ledgers_head_at_the_end(open_lab, make_experiment):
    async with open_lab() as lab:
        workers = [await lab.joined(number) for number in (1, 2)]
        async with lab.working(*workers):
            run = await lab.create(make_experiment())
            detail = await lab.ended(run["id"])
            ledger = (await lab.http.get(f"/v1/runs/{run['id']}/ledger")).json()
            second = await lab.create(make_experiment(), again=True)
            await lab.ended(second["id"])
        assert [entry["round"] for entry in ledger] == [0, 1, 2, 3]
        assert all(worker.heads[0] == detail["head"] for worker in workers)


async def test_the_same_experiment_is_the_same_run_unless_asked_anew(open_lab, make_experiment):
    async with open_lab() as lab:
        reply = await lab.http.post("/v1/runs", json={"experiment": make_experiment()}, headers=lab.admin)
        assert reply.status_code == 201
        body = make_experiment(description="other words")
        again = await lab.http.post("/v1/runs", json={"experiment": body}, headers=lab.admin)
        assert again.status_code == 200 and again.json()["id"] == reply.json()["id"]
        anew = await lab.create(make_experiment(), again=True)
        assert anew["id"] != reply.json()["id"]
        assert [view["id"] for view in (await lab.http.get("/v1/runs")).json()] == [
            reply.json()["id"],
            anew["id"],
        ]


async def test_runs_queue_and_one_is_active_at_a_time(open_lab, make_experiment):
    async with open_lab() as lab:
        first = await lab.create(make_experiment())
        second = await lab.create(make_experiment(seed=2))
        assert [view["state"] for view in (await lab.http.get("/v1/runs")).json()] == ["waiting", "queued"]
        async with lab.working(await lab.joined()):
            one, two = await lab.ended(first["id"]), await lab.ended(second["id"])
        assert one["state"] == two["state"] == "finished"
        assert two["first_order"] >= one["ended"]


async def test_a_stopped_run_lets_the_next_one_in_and_goes_on_when_resumed(open_lab, make_experiment):
    async with open_lab() as lab:
        run = await lab.create(make_experiment(rounds={"count": 3}))
        other = await lab.create(make_experiment(seed=2))
        worker = await lab.joined()
        await worker.poll()
        (order,) = worker.holding.values()
        await worker.carry_out(order)
        await worker.poll()
        train = next(order for order in worker.holding.values() if order.kind == "train")
        await worker.carry_out(train)  # one of four updates is in
        stop = await lab.http.post(f"/v1/runs/{run['id']}/stop", headers=lab.admin)
        assert stop.json()["state"] == "stopped"
        again = await lab.http.post(f"/v1/runs/{run['id']}/stop", headers=lab.admin)
        assert again.status_code == 409 and "nothing to stop" in again.json()["detail"]
        async with lab.working(worker):
            assert (await lab.ended(other["id"]))["state"] == "finished"
            resumed = await lab.http.post(f"/v1/runs/{run['id']}/resume", headers=lab.admin)
            assert resumed.status_code == 200
            detail = await lab.ended(run["id"])
        assert detail["state"] == "finished"
        assert worker.trained.count((1, train.client)) == 2  # once for each run: what was in stayed in
        assert_same(await latest(lab, run["id"]), federated_average(lab.task, rounds=3, steps=3, rate=0.05))
        finished = await lab.http.post(f"/v1/runs/{run['id']}/resume", headers=lab.admin)
        assert finished.status_code == 409 and "--again" in finished.json()["detail"]


async def ahead(worker, last=99):
    """Everything but evaluations of rounds after `last`; training first, as where several workers are."""
    held = [None]
    while held:
        await worker.poll()
        held = [order for order in worker.holding.values() if order.kind != "evaluate" or order.round <= last]
        for order in [order for order in held if order.kind != "evaluate"] or held:
            await worker.carry_out(order)


async def test_a_run_that_ends_early_leaves_no_update_in_its_spool(open_lab, make_experiment, tmp_path):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await lab.create(make_experiment(rounds={"count": 9}, stop={"accuracy": 0.001}))
        await ahead(worker)
        detail = await lab.ended(run["id"])
        assert (detail["state"], detail["round"]) == ("finished", 0)
        assert (1, 0) in worker.trained  # what would have been the next round
        await lab.service.turns.submit(lambda: asyncio.sleep(0))  # after the turn that ended it
        assert not list(tmp_path.glob("state/runs/*/spool/*"))
        assert len(list(tmp_path.glob("state/runs/*/weights/*"))) == 1


async def test_the_accuracy_of_a_run_is_the_last_known_though_an_earlier_was_better(
    open_lab, make_experiment
):
    async with open_lab() as lab:
        worker = await lab.joined()
        right = {0: 36, 1: 20}

        async def evaluate(order):
            return Evaluated(num_examples=20, sums={"loss": 1.0, "accuracy": right[order.round] / 2})

        worker.evaluate = evaluate
        run = await lab.create(make_experiment(rounds={"count": 3}))
        await ahead(worker, last=1)
        detail = await lab.detail(run["id"])
        assert (detail["round"], detail["accuracy"]) == (2, 0.5)
        stopped = await lab.http.post(f"/v1/runs/{run['id']}/stop", headers=lab.admin)
        assert (stopped.json()["state"], stopped.json()["accuracy"]) == ("stopped", 0.5)


async def test_a_queued_run_can_be_stopped_before_it_begins(open_lab, make_experiment):
    async with open_lab() as lab:
        await lab.create(make_experiment())
        queued = await lab.create(make_experiment(seed=2))
        stopped = await lab.http.post(f"/v1/runs/{queued['id']}/stop", headers=lab.admin)
        assert stopped.json()["state"] == "stopped"
        back = await lab.http.post(f"/v1/runs/{queued['id']}/resume", headers=lab.admin)
        assert back.json()["state"] == "queued"


async def test_a_replay_takes_the_cohorts_it_is_given(open_lab, make_experiment):
    body = make_experiment(clients={"count": 4, "fraction": 0.5}, rounds={"count": 2})
    detail, *_ = await run_to_its_end(open_lab, body, participants=[[0, 3], [1, 2]])
    assert [record["participants"] for record in detail["history"]] == [[], [0, 3], [1, 2]]


async def test_a_model_can_be_downloaded_latest_best_and_by_round(open_lab, make_experiment):
    async with open_lab() as lab:
        async with lab.working(await lab.joined()):
            run = await lab.create(make_experiment(keep={"checkpoint_every": 1}))
            detail = await lab.ended(run["id"])
        hashes = {record["round"]: record["weights_hash"] for record in detail["history"]}
        for which, number in (("latest", 3), ("best", detail["best_round"]), ("round:1", 1)):
            reply = await lab.http.get(f"/v1/runs/{run['id']}/model", params={"which": which})
            assert codec.decode(reply.content, {"weights": lab.task.manifest}).digest == hashes[number]
            assert reply.headers["etag"] == f'"{hashes[number]}"'
        reply = await lab.http.get(f"/v1/runs/{run['id']}/model", params={"which": "round:9"})
        assert reply.status_code == 404


async def test_a_model_that_is_not_kept_or_was_damaged_is_refused_with_what_to_do(
    open_lab, make_experiment, tmp_path
):
    async with open_lab() as lab:
        async with lab.working(await lab.joined()):
            run = await lab.create(make_experiment(keep={"checkpoint_every": 2}))
            detail = await lab.ended(run["id"])

        async def refused(which, status):
            reply = await lab.http.get(f"/v1/runs/{run['id']}/model", params={"which": which})
            assert reply.status_code == status
            return reply.json()["detail"]

        assert "keep.checkpoint_every" in await refused("round:1", 404)
        (path,) = (tmp_path / "state").glob(f"runs/*/weights/{detail['history'][3]['weights_hash']}*")
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        told = await refused("round:3", 500)
        assert "put" in told and str(path) in told and "round 2" in told and "\n" not in told
        path.unlink()
        for which in ("latest", "round:3"):  # `lab verify` says so too
            told = await refused(which, 500)
            assert told.startswith(f"the weights of round 3 are missing: put {path} back")
            assert "round 2" in told and "\n" not in told
        assert "keep.checkpoint_every" in await refused("round:1", 404)
