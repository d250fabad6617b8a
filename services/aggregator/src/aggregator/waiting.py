"""What the round machine shows and when it wants to be woken: running, or waiting for whom, and for how long.

A part of `rounds`, the last step of every event. Waiting is not a phase but a condition that any phase can be
in: something is wanted, nobody who could do it is there, and without it the phase cannot end.
"""

from __future__ import annotations

from roundtable.types import Seconds

from aggregator.asking import arm
from aggregator.events import Place, Show
from aggregator.facts import Facts, Phase


def tell(facts: Facts, now: Seconds) -> None:
    """Placement, visible state and the next time to wake, where they changed."""
    if facts.staff.moved:
        facts.staff.moved = False
        facts.say(Place(facts.homes))
    why = obstacle(facts)
    if why is not None:
        if facts.wait_until is None:
            facts.wait_until = now + facts.settings.wait_for_workers
        facts.show(Show("waiting", why))
    else:
        if facts.wait_until is not None and facts.phase is Phase.TRAINING:
            arm(facts, now)
        facts.wait_until = None
        facts.show(Show("initializing" if facts.under.number == 0 else "running"))
    times = [time for time in (facts.under.deadline_at, facts.wait_until) if time is not None]
    facts.wake_at(min(times, default=None))


def obstacle(facts: Facts) -> str | None:
    """Why nothing that is under way could end this phase; None: something can."""
    staff, idle, under = facts.staff, facts.book.idle, facts.under
    if facts.phase is Phase.GATHERING:
        if staff.pinned and not staff.nodes:
            return staff.not_joined()
        return staff.nobody() or staff.too_few(facts.needed)
    if idle["initialize"] or idle["evaluate"]:
        return staff.nobody()
    if facts.phase is Phase.TRAINING and facts.settings.virtual:
        return staff.nobody() if idle["train"] else None
    if facts.phase is Phase.TRAINING and len(under.cohort) - len(idle["train"]) < facts.needed:
        return staff.nobody() or staff.too_few(facts.needed)
    return None
