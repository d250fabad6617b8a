"""The run's own events: it starts, a round is committed or scored, time passes, it is to stop.

Handlers of `rounds.TRANSITIONS`; what follows from them is `progress`.
"""

from __future__ import annotations

from aggregator.asking import begin_again, evaluate_if_due, settle
from aggregator.events import Event, ResumeAsked, RoundCommitted, RoundScored, Started, StopAsked, TimePassed
from aggregator.facts import Facts, Phase, Under
from aggregator.progress import cut, go_on, missed, retry
from aggregator.waiting import obstacle


def started(facts: Facts, event: Started) -> None:
    under = facts.under
    if facts.committed >= facts.settings.rounds:
        facts.phase = Phase.SCORING
    elif under.number == 0 and facts.first is not None:
        facts.phase = Phase.HOLDING
    elif under.cohort:
        begin_again(facts, event.now)
    else:
        facts.phase = Phase.GATHERING
    settle(facts)
    evaluate_if_due(facts)
    facts.finished = facts.settings.verdict(facts.committed, facts.scores)
    go_on(facts, event.now)


def round_committed(facts: Facts, event: RoundCommitted) -> None:
    paused = facts.phase is Phase.PAUSED
    if event.round != facts.under.number or (paused and facts.paused_in is not Phase.CLOSING):
        raise facts.illegal(event)
    facts.under = Under(event.round + 1)
    facts.history |= event.seen
    facts.book.forget(event.round)
    following = Phase.SCORING if event.round >= facts.settings.rounds else Phase.GATHERING
    if paused:
        facts.paused_in = following
    else:
        facts.phase = following
    if facts.stopping is not None:
        facts.end("stopped", facts.stopping)
        return
    if event.round == 0:
        settle(facts)
    evaluate_if_due(facts)
    go_on(facts, event.now)


def round_scored(facts: Facts, event: RoundScored) -> None:
    if facts.scoring is None or facts.scoring.open or facts.scoring.round != event.round:
        raise facts.illegal(event)
    facts.scoring = None
    facts.scores[event.round] = event.accuracy
    facts.finished = facts.settings.verdict(facts.committed, facts.scores)
    go_on(facts, event.now)


def time_passed(facts: Facts, event: TimePassed) -> None:
    under, now = facts.under, event.now
    facts.wake = None  # whoever wakes too early is told the time again
    if under.deadline_at is not None and now >= under.deadline_at:
        under.deadline_at = None
        if len(under.accepted) >= facts.needed:
            cut(facts)
        elif facts.wait_until is None or len(facts.staff.eligible()) >= facts.needed:
            missed(facts, len(under.accepted), now)
            return
    if facts.wait_until is not None and now >= facts.wait_until:
        why = f"waited {facts.settings.wait_for_workers:g} s for workers: {obstacle(facts)}"
        facts.wait_until = None
        if facts.phase is Phase.TRAINING and len(facts.staff.eligible()) >= facts.needed:
            retry(facts, why, now)
        else:
            facts.end("failed", why)
        return
    go_on(facts, now)


def stop(facts: Facts, event: StopAsked) -> None:
    facts.end("stopped", event.reason)


def stop_after_commit(facts: Facts, event: StopAsked) -> None:
    facts.stopping = event.reason


def say_end_again(facts: Facts, _: ResumeAsked) -> None:
    facts.say(facts.ended)


def nothing(_: Facts, __: Event) -> None:
    """It does not matter now."""
