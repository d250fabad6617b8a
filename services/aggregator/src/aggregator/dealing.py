"""Which worker gets which open order: the meeting of `book` (what is wanted) and `staff` (who is there)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from roundtable.types import WorkerId

from aggregator.book import Book
from aggregator.events import Give, Key, Kind, Withdraw
from aggregator.staff import Staff

SHARED: Final[tuple[Kind, ...]] = ("train", "evaluate")


def deal(book: Book, staff: Staff) -> tuple[list[Give], int]:
    """Give every order that nobody holds and someone can do; how many (but evaluations) were issued again.

    To the worker that had it last, if it is back; to a client's home; else to the worker with the fewest.
    """
    gives: list[Give] = []
    again = 0
    evaluating = {
        worker: sum(key.kind == "evaluate" for key in book.held.get(worker, ())) for worker in staff.fit
    }
    for key in book.all_idle():
        worker = _choose(key, book, staff, evaluating)
        if worker is None:
            continue
        order = book.open[key]
        if order.attempt and (order.spoilt or order.worker != worker) and key.kind != "evaluate":
            again += 1
        if key.kind == "train":
            staff.move(key.client, worker)
        elif key.kind == "evaluate":
            evaluating[worker] += 1
        gives.append(book.give(key, worker))
    book.changed = False
    return gives, again


def share(book: Book, staff: Staff, newcomer: WorkerId) -> list[Withdraw | Give | None]:
    """Hand on to a worker that has just come what others hold and have hardly begun: from whoever has most of
    a kind the one issued last, until nobody has two more than the newcomer. So who has but one keeps it.

    Pinned clients' orders stay where their data is.
    """
    said: list[Withdraw | Give | None] = []
    if staff.pinned:
        return said
    for kind in SHARED:
        hands = {worker: book.hand(worker, kind) for worker in staff.fit}
        own = hands[newcomer]
        while len(most := max(hands.values(), key=len)) - len(own) >= 2:
            key = most.pop()
            own.append(key)
            said += book.hand_on(key, newcomer)
            if kind == "train":
                staff.move(key.client, newcomer)
    return said


def _choose(key: Key, book: Book, staff: Staff, evaluating: Mapping[WorkerId, int]) -> WorkerId | None:
    """None: nobody who could is there."""
    order, home = book.open[key], staff.homes.get(key.client)
    if staff.pinned and key.client >= 0:
        return home
    if not order.spoilt and order.worker in evaluating:
        return order.worker
    barred = (
        order.worker if order.spoilt and len(staff.fit) > 1 else None
    )  # somebody else, if there is anybody
    if home in evaluating and home != barred:
        return home
    others = (worker for worker in staff.fit if worker != barred)
    return min(others, key=lambda worker: (evaluating[worker], book.load(worker), worker), default=None)
