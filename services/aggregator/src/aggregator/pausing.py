"""A pause of the round machine, while storage is full or failing, and going on after it.

Handlers of `rounds.TRANSITIONS`. Nothing accepted is lost: what could not be recorded is taken back and asked
for again, and commands that may not have been carried out are said again.
"""

from __future__ import annotations

from aggregator.asking import arm
from aggregator.events import BeginRound, Key, PauseAsked, Pin, ResumeAsked
from aggregator.facts import Facts, Phase
from aggregator.progress import go_on


def pause(facts: Facts, event: PauseAsked) -> None:
    facts.paused_in, facts.phase = facts.phase, Phase.PAUSED
    pause_again(facts, event)


def pause_again(facts: Facts, event: PauseAsked) -> None:
    if facts.stopping is not None:  # the commit that it waits for has failed
        facts.end("stopped", facts.stopping)
        return
    facts.trouble = event.reason
    facts.wait_until = facts.under.deadline_at = None
    for key in event.unrecorded:
        _take_back(facts, key)
    go_on(facts, event.now)


def _take_back(facts: Facts, key: Key) -> None:
    """An Accept that was not recorded: as if it had not come, nor what followed from it."""
    under, scoring, book, present = facts.under, facts.scoring, facts.book, facts.staff.present
    if scoring is not None and key in scoring.accepted:
        scoring.accepted.discard(key)
        scoring.open += 1
        book.reopen(key, present)
    elif key.kind == "initialize" and under.number == 0 and facts.first is not None:
        facts.first = None
        facts.paused_in = Phase.INITIALIZING
        book.reopen(key, present)
    elif key == under.key(key.client) and key.client in under.accepted:
        del under.accepted[key.client]
        under.arrivals.pop(key.client, None)
        facts.paused_in = Phase.TRAINING
        book.reopen(key, present)
        missing = map(under.key, facts.missing())
        book.want(key for key in missing if key not in book.open)


def resume(facts: Facts, event: ResumeAsked) -> None:
    """Say again what may not have been carried out, and go on."""
    under = facts.under
    facts.phase, facts.trouble = facts.paused_in, None
    if facts.phase is Phase.CLOSING:
        facts.phase = Phase.HOLDING
    if facts.staff.nodes:
        facts.say(Pin(dict(facts.staff.nodes)))
    if under.cohort:
        facts.say(BeginRound(under.number, under.trial, under.cohort))
    if facts.phase is Phase.TRAINING:
        arm(facts, event.now)
    if facts.scoring is not None:
        facts.scoring.asked = False
    facts.staff.moved = True
    facts.book.scatter()
    go_on(facts, event.now)
