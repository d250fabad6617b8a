"""Polling is reconciliation: whatever was lost, repeated or forgotten, the difference puts it right."""

from __future__ import annotations

import asyncio
import json

import pytest
from roundtable.messages import OrderResult

pytestmark = pytest.mark.anyio


async def test_a_lost_reply_is_told_again(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        await lab.create(make_experiment())
        first = await worker.ask(())
        assert [order.kind for order in first.give] == ["initialize"]
        assert (await worker.ask(())).give == first.give


async def test_what_is_held_is_not_given_again_and_what_should_not_be_is_cancelled(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        await lab.create(make_experiment())
        (order,) = (await worker.ask(())).give
        reply = await worker.ask((order.id, "gone.1.1.train.c0.1"))
        assert (reply.give, reply.cancel) == ((), ("gone.1.1.train.c0.1",))


async def test_an_order_that_was_just_answered_is_not_cancelled(open_lab, make_experiment):
    async with open_lab(poll_seconds=0.05) as lab:
        worker = await lab.joined()
        run = await lab.create(make_experiment())
        (order,) = (await worker.ask(())).give
        waiting = asyncio.create_task(worker.ask((order.id,)))  # sent before the reply came
        assert (await worker.upload(order, await worker.prepare(order))).status_code == 200
        assert (await waiting).cancel == ()
        await lab.until(run["id"], lambda detail: detail["cohort"])
        reply = await worker.ask((order.id,))
        assert reply.cancel == () and {given.kind for given in reply.give} == {"train", "evaluate"}
        worker.holding = {given.id: given for given in reply.give}
        await worker.ask()  # it no longer lists the order: from here on it should not
        assert (await worker.ask((*worker.holding, order.id))).cancel == (order.id,)


async def test_a_poll_with_nothing_to_say_waits_and_an_order_wakes_it(open_lab, make_experiment):
    async with open_lab(poll_seconds=30) as lab:
        worker = await lab.joined()
        waiting = asyncio.create_task(worker.ask(()))
        done, _ = await asyncio.wait({waiting}, timeout=0.05)
        assert not done
        await lab.create(make_experiment())
        assert (await asyncio.wait_for(waiting, 5)).give


async def test_a_poll_waits_no_longer_than_it_should(open_lab, clock, settled):
    async with open_lab(clock, poll_seconds=10) as lab:
        worker = await lab.joined()
        waiting = asyncio.create_task(worker.ask(()))
        await settled()
        clock.turn(9.9)
        await settled()
        assert not waiting.done()
        clock.turn(0.2)
        reply = await asyncio.wait_for(waiting, 5)
        assert (reply.give, reply.cancel) == ((), ())


async def test_a_second_poll_takes_the_place_of_the_first(open_lab, make_experiment):
    async with open_lab(poll_seconds=30) as lab:
        worker = await lab.joined()
        first = asyncio.create_task(worker.ask(()))
        await asyncio.wait({first}, timeout=0.05)
        second = asyncio.create_task(worker.ask(()))
        assert (await asyncio.wait_for(first, 5)).give == ()
        await lab.create(make_experiment())
        assert (await asyncio.wait_for(second, 5)).give


async def test_a_poll_that_waits_longer_than_lost_after_is_no_silence(open_lab, clock, settled):
    async with open_lab(clock, poll_seconds=60, lost_after=5) as lab:
        worker = await lab.joined()
        waiting = asyncio.create_task(worker.ask(()))
        await settled()
        for _ in range(5):
            clock.turn(6)
            await settled()
        assert (await lab.http.get("/v1/workers")).json()[0]["state"] == "present"
        waiting.cancel()
        await settled()
        clock.turn(6)  # the connection has gone, and now it is silent
        for _ in range(100):
            await settled()
            (view,) = (await lab.http.get("/v1/workers")).json()
            if view["state"] == "lost":
                return
        raise AssertionError(view)


async def test_what_a_worker_says_of_itself_can_be_shown_wherever_it_was_cut(open_lab):
    async def pieces(text):  # of no told length: read by the app
        yield text.encode()

    async with open_lab() as lab:
        worker = await lab.joined()
        again = json.dumps(worker.introduction(accelerator="GPU \ud83d"))
        joining = {"Authorization": f"Bearer {worker.join_token}"}
        assert (await lab.http.post("/v1/join", content=again, headers=joining)).status_code == 200
        headers = worker.headers | {"Content-Type": "application/json"}
        told = '{"doing": "half of \\ud83d", "holding": ["gone.1.1.train.c0.1"]}'
        for content in (told.encode(), pieces(told)):
            assert (await lab.http.post("/v1/poll", content=content, headers=headers)).status_code == 200
        (view,) = (await lab.http.get("/v1/workers")).json()
        assert (view["doing"], view["accelerator"]) == (r"half of \ud83d", r"GPU \ud83d")
        unheard_of = pieces('{"holding": ["\\ud83d"]}')
        assert (await lab.http.post("/v1/poll", content=unheard_of, headers=headers)).status_code == 422


async def test_joining_again_gives_the_same_worker_and_its_work(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        await lab.create(make_experiment())
        given = (await worker.ask(())).give
        first = worker.id, worker.token
        await worker.join()
        assert (worker.id, worker.token) == first
        assert (await worker.ask(())).give == given
        other = await lab.joined(2)
        assert (worker.id, other.id) == ("w1", "w2")


async def test_a_stop_order_is_acknowledged_once(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await lab.create(make_experiment())
        await worker.poll()
        await lab.http.post(f"/v1/runs/{run['id']}/stop", headers=lab.admin)
        reply = await worker.poll()
        assert [order.kind for order in reply.give] == ["stop"] and len(reply.cancel) == 1
        stop = reply.give[0]
        assert (await worker.ask(())).give == (stop,)
        assert (await worker.report(stop, OrderResult(status="done"))).status_code == 204
        assert (await worker.ask(())).give == ()
