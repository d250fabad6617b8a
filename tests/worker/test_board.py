"""The board of orders: what is held, in which order it is worked on, that nothing is lost or done twice."""

from __future__ import annotations

import threading
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from roundtable.codec import Encoded
from roundtable.messages import OrderResult
from worker.backoff import Backoff
from worker.board import UPDATES_IN_MEMORY, Board, Held, Parcel

from tests.worker.scripted import WAIT, order

UPDATE = Encoded((b"",), 0, b"")
RESULT = OrderResult(status="done")


def reply(held: Held) -> Parcel:
    return Parcel(held, RESULT if held.order.kind in ("evaluate", "stop") else UPDATE)


def test_orders_are_taken_by_what_waits_for_them_then_by_arrival() -> None:
    board = Board()
    board.reconcile(
        [
            order(4, "evaluate"),
            order(3),
            order(2, "evaluate"),
            order(1),
            order(5, "initialize"),
            order(6, "stop"),
        ],
        [],
    )
    taken = []
    for _ in range(6):
        held = board.take()
        assert held is not None
        taken.append(held.order.id)
        board.drop(held)
    assert taken == ["o6", "o5", "o3", "o1", "o4", "o2"]


def test_an_order_is_held_until_its_reply_is_taken() -> None:
    board = Board()
    board.reconcile([order(1)], [])
    held = board.take()
    assert held is not None and board.holding() == ("o1",)
    board.hand_over(reply(held))
    assert board.holding() == ("o1",)
    assert board.next_parcel() is not None and board.holding() == ("o1",)
    board.drop(held)
    assert board.holding() == ()


def test_a_reply_is_sent_at_once_where_there_is_no_other_order() -> None:
    board = Board()
    board.reconcile([order(1)], [])
    held = board.take()
    assert held is not None
    parcel = reply(held)
    assert board.send_at_once(parcel)
    assert board.doing() == "sending" and board.holding() == ("o1",)
    board.hand_over(parcel)  # in vain: the send thread is to go on
    assert board.next_parcel() is parcel
    board.reconcile([order(2)], [])
    held = board.take()
    assert held is not None and not board.send_at_once(reply(held))


def test_an_update_that_waits_to_be_sent_can_be_cancelled() -> None:
    board = Board()
    board.reconcile([order(1), order(2)], [])
    for _ in range(2):
        held = board.take()
        assert held is not None
        board.hand_over(reply(held))
    board.reconcile([], ["o1"])
    parcel = board.next_parcel()
    assert parcel is not None and parcel.held.order.id == "o2"


def test_a_pause_ends_when_the_aggregator_is_back() -> None:
    board = Board()
    held = Held(order(1), 0.0)
    threading.Timer(0.05, board.nudge).start()
    assert board.pause(WAIT, held) is True


def test_a_pause_for_a_cancelled_order_says_to_give_up() -> None:
    board = Board()
    board.reconcile([order(1)], [])
    held = board.take()
    threading.Timer(0.05, board.reconcile, ([], ["o1"])).start()
    assert board.pause(WAIT, held) is False


def test_closing_lets_the_waiting_threads_go() -> None:
    board = Board()
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda wait=wait: results.append(wait()))
        for wait in (board.take, board.next_parcel)
    ]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    board.close()
    for thread in threads:
        thread.join(WAIT)
    assert results == [None, None]


def test_what_it_does_is_told_in_a_phrase() -> None:
    board = Board()
    assert board.doing() == "waiting"
    board.reconcile([order(3), order(4, "evaluate", shard=2)], [])
    held = board.take()
    assert held is not None and board.doing() == "training client 3"
    board.hand_over(reply(held))
    assert board.take() is not None and board.doing() == "evaluating shard 2"


def test_waits_between_tries_grow_to_their_cap_and_start_over() -> None:
    backoff = Backoff(Random(1), first=0.1, cap=5.0)
    waits = [backoff.next() for _ in range(10)]
    assert all(min(0.1 * 2**n, 5.0) / 2 <= wait <= min(0.1 * 2**n, 5.0) for n, wait in enumerate(waits))
    assert len(set(waits)) == 10  # jitter
    backoff.reset()
    assert backoff.next() <= 0.1


class Life(RuleBasedStateMachine):
    """Any interleaving of the three threads' steps, one thread at a time, against what should be held."""

    def __init__(self) -> None:
        super().__init__()
        self.board = Board()
        self.wanted: set[str] = set()  # what the aggregator wants this worker to hold
        self.running: Held | None = None
        self.sending: Parcel | None = None
        self.at_once: Parcel | None = None
        self.queued: set[str] = set()
        self.waiting = 0  # parcels handed over and not yet taken

    @rule(numbers=st.lists(st.integers(0, 8), max_size=4), kind=st.sampled_from(["train", "evaluate"]))
    def give(self, numbers: list[int], kind: str) -> None:
        orders = [order(10 * number + (kind == "train"), kind) for number in numbers]
        orders = [given for given in orders if given.id not in self.board.holding()]
        self.board.reconcile(orders, [])
        self.wanted |= {given.id for given in orders}
        self.queued |= {given.id for given in orders}

    @rule(number=st.integers(0, 8), train=st.booleans())
    def cancel(self, number: int, train: bool) -> None:
        self.board.reconcile([], [f"o{10 * number + train}"])
        self.wanted.discard(f"o{10 * number + train}")
        self.queued.discard(f"o{10 * number + train}")

    @precondition(lambda self: not (self.running or self.at_once) and self.board._next() is not None)
    @rule()
    def take(self) -> None:
        self.running = self.board.take()
        assert self.running is not None and self.running.order.id in self.queued
        self.queued.discard(self.running.order.id)

    @precondition(lambda self: self.running is not None)
    @rule(dropped=st.booleans())
    def finish(self, dropped: bool) -> None:
        assert self.running is not None
        if dropped:
            self.board.drop(self.running)
            if not self.running.cancelled:
                self.wanted.discard(self.running.order.id)
        else:
            self.board.hand_over(reply(self.running))
        self.running = None

    @precondition(lambda self: self.running is not None)
    @rule()
    def finish_and_send_at_once(self) -> None:
        assert self.running is not None
        parcel = reply(self.running)
        if self.board.send_at_once(parcel):
            assert self.sending is None and set(self.board.holding()) == {self.running.order.id}
            self.at_once, self.running = parcel, None

    @precondition(lambda self: self.at_once is not None)
    @rule(taken=st.booleans())
    def sent_at_once(self, taken: bool) -> None:
        assert self.at_once is not None
        if taken:
            self.board.drop(self.at_once.held)
            if not self.at_once.held.cancelled:
                self.wanted.discard(self.at_once.held.order.id)
        else:
            self.board.hand_over(self.at_once)
        self.at_once = None

    @precondition(lambda self: self.sending is None and self.board._outbox)
    @rule()
    def send(self) -> None:
        self.sending = self.board.next_parcel()
        assert self.sending is not None and not self.sending.held.cancelled

    @precondition(lambda self: self.sending is not None)
    @rule()
    def sent(self) -> None:
        assert self.sending is not None
        self.board.drop(self.sending.held)
        if not self.sending.held.cancelled:
            self.wanted.discard(self.sending.held.order.id)
        self.sending = None

    @invariant()
    def holds_what_is_wanted(self) -> None:
        assert set(self.board.holding()) == self.wanted

    @invariant()
    def has_room(self) -> None:
        updates = [parcel for parcel in self.board._outbox if isinstance(parcel.content, Encoded)]
        sent = [parcel for parcel in (self.sending, self.at_once) if parcel is not None]
        sending = sum(isinstance(parcel.content, Encoded) for parcel in sent)
        assert len(updates) + sending <= UPDATES_IN_MEMORY


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestLife = pytest.mark.timeout(60)(TestLife)
