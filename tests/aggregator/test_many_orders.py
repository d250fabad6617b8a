"""More orders for one worker than one poll could list."""

from __future__ import annotations

import asyncio

import pytest
from aggregator.desk import TOLD, Desk
from aggregator.problems import JSON_LIMIT
from roundtable.messages import Order, Poll

pytestmark = pytest.mark.anyio

RUN = f"20250102-101500-{'n' * 60}-999"  # as long as a name can be


async def test_a_worker_is_told_of_no_more_than_its_polls_can_list_and_of_more_in_time(clock):
    desk = Desk(clock)
    for client in range(20_000):
        identity = f"{RUN}.1000000.101.train.c{client + 80_000}.10"
        desk.give("w1", Order(id=identity, kind="train", run=RUN, round=1, attempt=1, client=client))
    holding: dict[str, Order] = {}
    for _ in range(12):
        give, cancel = desk.difference("w1", holding)
        assert give and not cancel
        holding |= {order.id: order for order in give}
        assert len(Poll(holding=tuple(holding)).model_dump_json()) < JSON_LIMIT / 1.5
        waiting = asyncio.create_task(desk.wait("w1", asyncio.Event(), 30))  # the clock stands still
        await asyncio.sleep(0)
        while holding and not waiting.done():
            for identity in list(holding)[:100]:
                del holding[identity]
                desk.settle("w1", identity)
            await asyncio.sleep(0)
        if not holding:
            waiting.cancel()
            break
    assert not desk.orders() and not holding


async def test_the_reply_to_an_update_brings_no_more_either(clock):
    desk = Desk(clock)
    for client in range(TOLD + 3):
        desk.give("w1", Order(id=f"o{client}", kind="train", run=RUN, round=1, attempt=1, client=client))
    assert len(await desk.next_orders("w1", 1.0)) == TOLD


async def test_what_a_worker_has_lost_of_many_is_told_again(open_lab, make_experiment):
    async with open_lab(poll_seconds=0.01) as lab:
        worker = await lab.joined()
        run = await lab.create(make_experiment(clients={"count": TOLD + 100}))
        (order,) = (await worker.poll()).give
        await worker.carry_out(order)
        await lab.until(run["id"], lambda detail: detail["cohort"])
        await worker.poll()
        assert len(worker.holding) == TOLD
        await worker.poll()
        first = list(worker.holding.values())
        worker.holding.clear()  # it lost them
        assert list((await worker.ask()).give) == first
