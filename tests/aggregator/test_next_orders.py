"""The reply to an update may wait for what its sender is to do next, and bring it."""

from __future__ import annotations

import asyncio

import pytest
from roundtable import codec
from roundtable.messages import UpdateReply

pytestmark = pytest.mark.anyio


async def first_trains(lab, body, *workers):
    """The run, and each worker's train orders of round 1, everything before them carried out."""
    run = await lab.create(body)
    (order,) = (await workers[0].poll()).give
    await workers[0].carry_out(order)
    await lab.until(run["id"], lambda detail: detail["cohort"])
    for worker in workers:
        await worker.poll()
        for order in [order for order in worker.holding.values() if order.kind == "evaluate"]:
            await worker.carry_out(order)
    return run["id"], [
        [order for order in worker.holding.values() if order.kind == "train"] for worker in workers
    ]


async def put(worker, order, **headers):
    body = await worker.prepare(order)
    return await worker.http.put(
        f"/v1/orders/{order.id}/update", content=body, headers={**worker.headers, **headers}
    )


def split(reply):
    """(UpdateReply, the bytes of the message behind it)."""
    length = int(reply.headers.get("roundtable-json-bytes", len(reply.content)))
    return UpdateReply.model_validate_json(reply.content[:length]), reply.content[length:]


def one_client(make_experiment, **changes):
    return make_experiment(clients={"count": 1}, evaluation={"every": 100, "shards": 1}, **changes)


async def test_it_brings_the_next_order_and_its_weights(open_lab, make_experiment):
    async with open_lab(poll_seconds=30) as lab:
        worker = await lab.joined()
        run, [[order]] = await first_trains(lab, one_client(make_experiment, rounds={"count": 3}), worker)
        waits = {"roundtable-wait": "20", "roundtable-inline": "1000000"}
        reply = await asyncio.wait_for(put(worker, order, **waits), 10)
        told, message = split(reply)
        (next_order,) = told.give
        assert (next_order.kind, next_order.round) == ("train", 2) and not told.duplicate
        plan = await worker.plan(run)
        decoded = codec.decode(message, {"weights": lab.task.manifest}, wire=plan.experiment.wire)
        assert decoded.digest == next_order.weights
        waiting = asyncio.create_task(
            worker.ask((next_order.id,))
        )  # it is known, so there is nothing to tell
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        waiting.cancel()


async def test_should_it_be_lost_the_next_poll_tells_it_again(open_lab, make_experiment):
    async with open_lab(poll_seconds=30) as lab:
        worker = await lab.joined()
        _, [[order]] = await first_trains(lab, one_client(make_experiment, rounds={"count": 3}), worker)
        told, _ = split(await put(worker, order, **{"roundtable-wait": "20"}))
        assert (await asyncio.wait_for(worker.ask(()), 10)).give == told.give


async def test_a_lost_reply_whose_update_is_sent_again_wakes_the_poll_that_waits(open_lab, make_experiment):
    async with open_lab(poll_seconds=30) as lab:
        worker = await lab.joined()
        _, [[order]] = await first_trains(lab, one_client(make_experiment, rounds={"count": 3}), worker)
        body = await worker.prepare(order)
        waits = worker.headers | {"roundtable-wait": "20"}
        path = f"/v1/orders/{order.id}/update"
        waiting = asyncio.create_task(worker.ask((order.id,)))
        await asyncio.wait({waiting}, timeout=0.05)
        first, _ = split(await worker.http.put(path, content=body, headers=waits))
        again = await worker.http.put(path, content=body, headers=waits)
        assert again.status_code == 409  # the round is over by then
        assert (await asyncio.wait_for(waiting, 10)).give == first.give


async def test_it_comes_without_orders_when_there_are_none_for_so_long(open_lab, make_experiment):
    async with open_lab(poll_seconds=30) as lab:
        workers = [await lab.joined(number) for number in (1, 2)]
        _, [[order], [other]] = await first_trains(
            lab,
            make_experiment(
                clients={"count": 2}, evaluation={"every": 100, "shards": 1}, rounds={"count": 3}
            ),
            *workers,
        )
        reply = await asyncio.wait_for(put(workers[0], order, **{"roundtable-wait": "0.05"}), 10)
        told, message = split(reply)
        assert told.give == () and not message and told.waited >= 0.05
        # The round's end reaches it by its poll then.
        waiting = asyncio.create_task(workers[0].ask(()))
        await workers[1].carry_out(other)
        assert [order.round for order in (await asyncio.wait_for(waiting, 10)).give] == [2]


async def test_a_worker_that_has_more_to_do_is_answered_at_once(open_lab, make_experiment):
    async with open_lab(poll_seconds=60) as lab:
        worker = await lab.joined()
        body = make_experiment(clients={"count": 2}, rounds={"count": 2})
        _, [[first, _]] = await first_trains(lab, body, worker)
        told, _ = split(await asyncio.wait_for(put(worker, first, **{"roundtable-wait": "60"}), 10))
        assert told.give == ()


@pytest.mark.parametrize("wish", ["", "soon", "-1", "nan", "inf", "1e9"])
async def test_a_wish_that_makes_no_sense_is_none(open_lab, make_experiment, wish):
    async with open_lab(poll_seconds=30) as lab:
        worker = await lab.joined()
        _, [[order]] = await first_trains(lab, one_client(make_experiment, rounds={"count": 2}), worker)
        reply = await asyncio.wait_for(put(worker, order, **{"roundtable-wait": wish}), 10)
        assert reply.json() == {"duplicate": False}


@pytest.mark.parametrize("most", ["10", "", "many", "-5"])
async def test_weights_longer_than_asked_for_are_left_to_be_fetched(open_lab, make_experiment, most):
    async with open_lab(poll_seconds=30) as lab:
        worker = await lab.joined()
        _, [[order]] = await first_trains(lab, one_client(make_experiment, rounds={"count": 3}), worker)
        reply = await put(worker, order, **{"roundtable-wait": "20", "roundtable-inline": most})
        told, message = split(reply)
        assert len(told.give) == 1 and not message and reply.headers["content-type"] == "application/json"


async def test_weights_that_the_worker_has_are_not_brought_again(open_lab, make_experiment):
    async with open_lab(poll_seconds=30) as lab:
        workers = [await lab.joined(number) for number in (1, 2)]
        body = make_experiment(clients={"count": 2}, evaluation={"every": 100, "shards": 1})
        _, [[first], [second]] = await first_trains(lab, body, *workers)
        await workers[0].http.post("/v1/leave", headers=workers[0].headers)  # its client moves to the other
        waits = {"roundtable-wait": "20", "roundtable-inline": "1000000"}
        told, message = split(await asyncio.wait_for(put(workers[1], second, **waits), 10))
        assert [(order.round, order.client) for order in told.give] == [(1, first.client)] and not message
