"""Workers come and go, and orders fail in their hands: how the round machine takes it.

Handlers of `rounds.TRANSITIONS`. Whatever nobody present holds is given again by `dealing`.
"""

from __future__ import annotations

from typing import Final

from roundtable.types import Seconds

from aggregator.asking import settle
from aggregator.dealing import share
from aggregator.events import OrderFailed, WorkerArrived, WorkerGone
from aggregator.facts import Facts, Phase
from aggregator.progress import go_on

FAILED_ATTEMPTS: Final = 3  # of one order, before the run fails


def worker_arrived(facts: Facts, event: WorkerArrived) -> None:
    facts.staff.arrive(event)
    fleet = facts.settings.fleet
    # A machine that is acted out by the real clock has begun with its order as soon as it has it.
    if facts.phase not in (Phase.CREATED, Phase.PAUSED) and (fleet is None or fleet.virtual):
        facts.say(*share(facts.book, facts.staff, event.worker))
    _changed(facts, event.now)


def worker_gone(facts: Facts, event: WorkerGone) -> None:
    if facts.staff.leave(event.worker):
        facts.book.gone(event.worker)
        _changed(facts, event.now)


def _changed(facts: Facts, now: Seconds) -> None:
    if facts.phase is not Phase.CREATED:
        facts.book.changed = True
        settle(facts)
        go_on(facts, now)


def order_failed(facts: Facts, event: OrderFailed) -> None:
    key, book = event.key, facts.book
    order = book.open.get(key)
    if order is None or book.fault(key, event.attempt, event.worker) is not None:
        return  # it was given to another, or is not wanted any more
    facts.say(book.spoil(key))
    if event.refused:
        facts.say(*(book.spoil(other) for other in sorted(book.held.get(event.worker, ()))))
        facts.staff.refuse(event.worker, event.detail)
        _changed(facts, event.now)
        return
    order.failures += 1
    if order.failures < FAILED_ATTEMPTS:
        go_on(facts, event.now)
        return
    what = f"{key.kind} client {key.client}" if key.client >= 0 else key.kind
    facts.end(
        "failed",
        f"round {key.round}: the order to {what} failed {order.failures} times,"
        f" last on worker {event.worker}: {event.detail}",
    )
