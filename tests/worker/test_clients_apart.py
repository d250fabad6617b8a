"""Clients with a machine of their own: what they pay, and that nobody else pays for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from roundtable.codec import Encoded
from roundtable.fleet import Conditions
from worker.apart import Apart
from worker.backoff import Backoff
from worker.board import Board, Held, Parcel
from worker.link import Link

from tests.worker.conftest import Lab
from tests.worker.scripted import TOKEN, Aggregator, order, problem, weights

Start = Callable[..., Lab]
CPU = 0.0625  # seconds that the scripted trainer says a training took


class Rehearsal:
    """The way of one order, step by step, with time that only waiting turns."""

    def __init__(self, aggregator: Aggregator, machine: Conditions) -> None:
        self.now, self.waits, self.delivered = 0.0, list[float](), list[tuple[float, Link]]()
        self.board = Board(lambda: self.now)
        aggregator.sessions.add("")
        self.link = Link(aggregator.url, lambda: TOKEN)
        self.digest = aggregator.publish(1.0)
        self.size = len(aggregator.contents[self.digest])
        self.apart = Apart(
            self.link,
            self.board,
            self.deliver,
            lambda run: run(),
            lambda: Backoff(Random(1), first=0.01, cap=0.01),
            lambda: self.now,
            self.rest,
        )
        self.held = Held(order(1, weights=self.digest, machine=machine), 0.0)

    def rest(self, seconds: float, held: Held) -> bool:
        assert held is self.held
        self.waits += [seconds] if seconds else []
        self.now += seconds
        return True

    def deliver(self, _parcel: Parcel, link: Link) -> float:
        self.delivered.append((self.now, link))
        return 0.0

    def go(self, content: Any = None) -> None:
        """Training takes no time here; it says that it took CPU seconds."""

        def train() -> None:
            taken = self.board.take()
            assert taken is self.held
            taken.cpu_seconds = CPU
            self.board.hand_over(Parcel(taken, content or encoded()))

        thread = threading.Thread(target=train, daemon=True)
        thread.start()
        self.apart.carry_out(self.held)
        thread.join(10)


def encoded() -> Encoded:
    from roundtable.codec import encode

    return encode({"update": weights(1.0)})


def test_it_pays_for_its_download_and_is_held_back_by_its_share_of_the_speed(aggregator: Aggregator) -> None:
    way = Rehearsal(aggregator, Conditions(compute=0.2, down_mbit=0.01, down_delay=0.5))
    way.go()
    ((when, _),) = way.delivered
    download = 0.5 + 8 * way.size / 10_000
    assert way.held.fetching == pytest.approx(download)
    assert when == pytest.approx(download + CPU * (1 / 0.2 - 1))


def test_at_full_speed_on_a_free_link_nothing_waits(aggregator: Aggregator) -> None:
    way = Rehearsal(aggregator, Conditions())
    way.go()
    assert way.waits == []
    assert [when for when, _ in way.delivered] == [0.0]


def test_it_hands_in_over_its_own_link(aggregator: Aggregator) -> None:
    way = Rehearsal(aggregator, Conditions(up_mbit=0.01, up_delay=0.25))
    way.go()
    ((when, link),) = way.delivered
    assert when == 0.0 and link is not way.link
    update = encoded()
    link.put_update("o1", update)
    assert way.now == pytest.approx(0.25 + 8 * sum(map(len, update.buffers)) / 10_000)


# --- in a worker


SLOW = Conditions(compute=0.001)  # CPU · 999: more than a minute


def test_a_slow_client_holds_up_no_other(start: Start, aggregator: Aggregator) -> None:
    start()
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest, machine=SLOW))
    aggregator.wait_for(lambda: "o1" in aggregator.holding, "the slow one to be held")
    aggregator.give(*(order(number, weights=digest) for number in (2, 3)))
    aggregator.wait_for_replies("o2", "o3")
    assert "o1" not in aggregator.updates
    assert aggregator.holding == ("o1",) or "o1" in aggregator.holding


def test_each_client_with_a_link_of_its_own_fetches_the_weights_itself(
    start: Start, aggregator: Aggregator
) -> None:
    lab = start()
    digest, machine = aggregator.publish(1.0), Conditions(down_delay=0.01)
    aggregator.give(*(order(number, weights=digest, machine=machine) for number in (1, 2, 3)))
    aggregator.wait_for_replies("o1", "o2", "o3")
    assert sum("GET /v1/weights/" in request for request in aggregator.requests) == 3
    for number in (1, 2, 3):
        assert np.array_equal(aggregator.update(f"o{number}").arrays[0], weights(float(number)).arrays[0])
        assert aggregator.account(f"o{number}").fetching_seconds >= 0.01
    assert lab.trainer.seen == [1.0, 1.0, 1.0]


def test_real_seconds_are_not_fewer_than_the_settings_say(start: Start, aggregator: Aggregator) -> None:
    start()
    digest = aggregator.publish(1.0)
    began = time.monotonic()
    machine = Conditions(compute=0.25, up_mbit=0.02, up_delay=0.1, down_delay=0.1)
    aggregator.give(order(1, weights=digest, machine=machine))
    aggregator.wait_for_replies("o1")
    upload = 0.1 + 8 * len(aggregator.updates["o1"]) / 20_000
    assert time.monotonic() - began >= 0.1 + 3 * CPU + upload


def test_a_lost_update_is_trained_and_never_handed_in_and_its_order_is_held_until_it_is_cancelled(
    start: Start, aggregator: Aggregator
) -> None:
    lab = start()
    digest = aggregator.publish(1.0)
    aggregator.give(order(1, weights=digest, machine=Conditions(dropped=True)))
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1"], "its training")
    aggregator.give(order(2, weights=digest))
    aggregator.wait_for_replies("o2")
    assert "o1" in aggregator.holding and not aggregator.results
    aggregator.withdraw("o1")
    aggregator.wait_for(lambda: aggregator.holding == (), "the order to be dropped")
    assert not {"o1"} & {*aggregator.updates, *aggregator.results}


def test_a_client_that_is_held_back_goes_at_once_when_it_is_cancelled(
    start: Start, aggregator: Aggregator
) -> None:
    lab = start()
    aggregator.give(order(1, weights=aggregator.publish(1.0), machine=SLOW))
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1"], "its training")
    aggregator.withdraw("o1")
    aggregator.wait_for(lambda: aggregator.holding == (), "the order to be dropped")
    names = {thread.name for thread in threading.enumerate()}
    aggregator.wait_for(lambda: "client-1" not in _threads(), f"its thread to end, of {names}")
    assert "o1" not in aggregator.updates


def test_a_worker_that_leaves_gives_the_orders_of_slow_clients_back(
    start: Start, aggregator: Aggregator
) -> None:
    lab = start()
    aggregator.give(order(1, weights=aggregator.publish(1.0), machine=SLOW))
    aggregator.wait_for(lambda: lab.trainer.begun == ["train 1"], "its training")
    lab.agent.leave(5.0)
    aggregator.wait_for(lambda: "client-1" not in _threads(), "its thread to end")
    assert aggregator.left == 1 and not aggregator.updates


def test_an_order_that_fails_says_so_without_waiting(start: Start, aggregator: Aggregator) -> None:
    lab = start()
    lab.trainer.data_hash = "c" * 64
    aggregator.give(order(1, weights=aggregator.publish(1.0), machine=SLOW))
    aggregator.wait_for_replies("o1")
    assert aggregator.results["o1"].status == "refused"


def test_weights_that_cannot_be_had_are_asked_for_again(start: Start, aggregator: Aggregator) -> None:
    refusals = iter([problem(500, "error"), problem(507, "storage-full")])
    aggregator.meddle = lambda _method, path: next(refusals, None) if "/weights/" in path else None
    start()
    aggregator.give(order(1, weights=aggregator.publish(1.0), machine=Conditions(down_delay=0.01)))
    aggregator.wait_for_replies("o1")
    assert np.array_equal(aggregator.update("o1").arrays[0], weights(1.0).arrays[0])


def _threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}
