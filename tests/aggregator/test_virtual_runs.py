"""Runs by the virtual clock through the real app: the same bits however many workers, killed or not."""

from __future__ import annotations

import pytest
from aggregator.verify import verify
from lab import forecast
from roundtable.experiment import parse
from roundtable.fleet import Fleet, Load

pytestmark = pytest.mark.anyio

BYTES = 4 * (3 * 2 + 2 + 1)


def machines(**changes):
    slow = {"fraction": 0.5, "compute": 0.1, "latency_ms": 200, "jitter_ms": 150, "up_mbit": 0.01}
    return {"clock": "virtual", "samples_per_second": 100.0, "profiles": {"slow": {**slow, **changes}}}


def told(detail):
    """What has to be the same whoever computed it and how often that was killed."""
    assert detail["state"] == "finished", detail["reason"]
    names = (
        "round",
        "attempt",
        "participants",
        "late",
        "dropped",
        "virtual_seconds",
        "weights_hash",
        "accuracy",
    )
    return [tuple(record[name] for name in names) for record in detail["history"]]


async def finished(lab, body, workers):
    async with lab.working(*workers):
        run = await lab.create(body, again=True)
        return await lab.ended(run["id"])


def cut(make_experiment, quorum=0.5, **profile):
    rounds = {"count": 3, "deadline": 3.0, "quorum": quorum, "retries": 20}
    return make_experiment(rounds=rounds, machines=machines(**profile))


async def test_seconds_add_up_from_the_profiles_and_the_deadline_cuts_by_them(open_lab, make_experiment):
    async with open_lab() as lab:
        body = make_experiment(machines=machines(jitter_ms=0, fraction=1.0, compute=1.0))
        detail = await finished(lab, body, [await lab.joined()])
        longest = 0.2 + 3 * 25 / 100 + 0.2 + BYTES * 8 / 10_000
        seconds = [record["virtual_seconds"] for record in detail["history"][1:]]
        assert seconds == [pytest.approx(longest)] * 3
        body = cut(make_experiment, jitter_ms=0)
        detail = await finished(lab, body, [await lab.joined()])
    for record in detail["history"][1:]:
        assert (len(record["participants"]), record["late"], record["virtual_seconds"]) == (2, 2, 3.0)
        assert record["seconds"] < 3.0  # the real ones: nobody has waited for that deadline


async def test_one_worker_three_and_a_lab_killed_after_each_update_come_to_the_same(
    open_lab, make_experiment
):
    body = cut(make_experiment, quorum=0.75, compute=0.3, drop=0.4, availability=0.8)
    async with open_lab() as lab:
        alone = told(await finished(lab, body, [await lab.joined()]))
        team = [await lab.joined(number) for number in (1, 2, 3)]
        assert told(await finished(lab, body, team)) == alone
        for worker in team[1:]:
            await lab.http.post("/v1/leave", headers=worker.headers)
        run = (await lab.create(body, again=True))["id"]
    kills, state = 0, "queued"
    while state not in ("finished", "failed"):
        async with open_lab(poll_seconds=0.05) as lab:
            before = await lab.detail(run)

            def further(detail, before=before):
                places = [(now["round"], len(now["arrived"]), now["accuracy"]) for now in (detail, before)]
                return detail["state"] in ("finished", "failed") or places[0] != places[1]

            async with lab.working(await lab.joined()):
                after = await lab.until(run, further)
            state, kills = after["state"], kills + 1
    assert told(after) == alone
    assert kills > 6
    assert sum(record["dropped"] for record in after["history"]) > 0
    assert len({record["attempt"] for record in after["history"]}) > 1, "no round had to be tried again"


async def test_over_sampling_takes_the_first_to_arrive(open_lab, make_experiment):
    body = make_experiment(
        clients={"fraction": 0.5}, rounds={"oversample": 1.0}, machines=machines(jitter_ms=0)
    )
    async with open_lab() as lab:
        detail = await finished(lab, body, [await lab.joined()])
    plain = {tuple(record["participants"]) for record in detail["history"][1:]}
    assert len(plain) == 1  # always the two that are not slow
    assert all(record["late"] == 2 for record in detail["history"][1:])
    (clients,) = plain
    longest = max(10 + 5 * client for client in clients) * 3 / 100
    assert all(record["virtual_seconds"] == pytest.approx(longest) for record in detail["history"][1:])


async def test_a_quorum_that_no_deadline_allows_ends_the_run_with_its_remedy(open_lab, make_experiment):
    body = make_experiment(rounds={"deadline": 0.01, "quorum": 0.5, "retries": 2}, machines=machines())
    async with open_lab() as lab:
        detail = await finished(lab, body, [await lab.joined()])
    assert detail["state"] == "failed"
    assert "had 0 of the 2 updates it needs at its deadline of 0.01 s" in detail["reason"]


async def test_a_run_that_missed_its_quorum_is_tried_on_by_each_resume(open_lab, make_experiment):
    """To what it would have come to with enough retries from the start."""
    body = cut(make_experiment, quorum=0.75, compute=0.3, drop=0.4, availability=0.8)
    async with open_lab() as lab:
        enough = told(await finished(lab, body, [await lab.joined()]))
    few = body | {"rounds": body["rounds"] | {"retries": 0}}
    async with open_lab() as lab:
        run = (await lab.create(few))["id"]
    resumed, state = 0, "queued"
    while state != "finished" and resumed < 20:
        async with open_lab() as lab:
            if state == "failed":
                resumed += 1
                assert "its deadline of 3 s" in (await lab.detail(run))["reason"]
                await lab.http.post(f"/v1/runs/{run}/resume", headers=lab.admin)
            async with lab.working(await lab.joined()):
                detail = await lab.ended(run)
            state = detail["state"]
    assert told(detail) == enough
    assert resumed == sum(record["attempt"] - 1 for record in detail["history"]) > 0


async def test_lab_check_foresees_it_exactly(open_lab, make_experiment):
    body = cut(make_experiment, quorum=0.75, compute=0.3, drop=0.4, availability=0.8)
    async with open_lab() as lab:
        detail = await finished(lab, body, [await lab.joined()])
        sizes = [len(x) for x, _ in lab.task.data]
        manifest = lab.task.manifest
    experiment = parse(body)
    foreseen = forecast.of_loads(experiment, [Load.of(experiment, manifest, size) for size in sizes])
    rounds = detail["history"][1:]
    assert foreseen.rounds == len(rounds)
    assert foreseen.seconds == pytest.approx(sum(record["virtual_seconds"] for record in rounds))
    assert foreseen.late == sum(record["late"] for record in rounds)
    assert foreseen.dropped == sum(record["dropped"] for record in rounds) > 0


async def test_a_run_that_kept_its_updates_is_recomputed_though_some_came_too_late(
    open_lab, make_experiment, tmp_path
):
    body = cut(make_experiment) | {"keep": {"updates": "all"}}
    async with open_lab() as lab:
        detail = await finished(lab, body, [await lab.joined()])
    assert sum(record["late"] for record in detail["history"]) == 6
    report = verify(tmp_path / "state", detail["id"])
    assert report.problems == []
    assert report.folded == [1, 2, 3]


async def test_a_replay_has_the_same_weights_and_no_virtual_seconds(open_lab, make_experiment):
    body = cut(make_experiment)
    async with open_lab() as lab:
        worker = await lab.joined()
        first = await finished(lab, body, [worker])
        cohorts = [record["participants"] for record in first["history"][1:]]
        worker.holding.clear()  # of the first run
        async with lab.working(worker):
            run = await lab.create(body, again=True, participants=cohorts)
            again = await lab.ended(run["id"])
    for one, other in zip(first["history"], again["history"], strict=True):
        assert one["weights_hash"] == other["weights_hash"]
    assert all(record["virtual_seconds"] is None for record in again["history"])


# --- by the real clock: what workers are told


async def orders_of(lab, body):
    """Train orders of the first round, by client."""
    worker = await lab.joined()
    run = await lab.create(body)
    while True:
        await worker.poll()
        orders = {order.client: order for order in worker.holding.values() if order.kind == "train"}
        if orders:
            return run["id"], worker, orders
        for order in list(worker.holding.values()):
            await worker.carry_out(order)


async def test_orders_tell_of_the_machines_that_are_not_plain_and_evaluations_do_not(
    open_lab, make_experiment
):
    body = make_experiment(machines={**machines(), "clock": "real"})
    fleet = Fleet(parse(body).machines, 4, parse(body).seed)
    async with open_lab() as lab:
        _, _, orders = await orders_of(lab, body)
    assert {client: order.machine for client, order in orders.items()} == {
        client: fleet.conditions(1, 1, client) for client in range(4)
    }
    assert [order.machine is None for order in orders.values()].count(True) == 2


async def test_by_the_virtual_clock_workers_are_told_nothing(open_lab, make_experiment):
    async with open_lab() as lab:
        _, _, orders = await orders_of(lab, make_experiment(machines=machines()))
    assert [order.machine for order in orders.values()] == [None] * 4


async def test_an_update_that_a_machine_loses_is_counted_as_dropped_at_the_deadline(
    open_lab, make_experiment, clock
):
    rounds = {"count": 1, "deadline": 30.0, "quorum": 0.5}
    lossy = {"clock": "real", "profiles": {"lossy": {"fraction": 0.5, "drop": 1.0}}}
    async with open_lab(clock) as lab:
        body = make_experiment(rounds=rounds, machines=lossy)
        run, worker, orders = await orders_of(lab, body)
        silent = [client for client, order in orders.items() if order.machine]
        assert all(orders[client].machine.dropped for client in silent)
        for client, order in orders.items():
            if client not in silent:
                await worker.carry_out(order)
        clock.turn(30.0)
        async with lab.working(worker):
            for client in silent:
                worker.holding.pop(orders[client].id, None)
            detail = await lab.until(run, lambda detail: len(detail["history"]) == 2)
    record = detail["history"][1]
    assert (record["late"], record["dropped"], record["virtual_seconds"]) == (0, 2, None)
    assert set(record["participants"]) == set(range(4)) - set(silent)
