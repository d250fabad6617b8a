"""Whatever the facts allow by now: a round begins, its orders are dealt, its cohort is cut, it closes.

A part of `rounds`: every handler changes the facts and then calls `go_on`, so that no handler has to know
what another has left to do.
"""

from __future__ import annotations

from roundtable.fleet import play
from roundtable.types import Seconds

from aggregator.asking import begin
from aggregator.dealing import deal
from aggregator.events import Close, Score, Show
from aggregator.facts import Facts, Phase, Under
from aggregator.waiting import tell


def go_on(facts: Facts, now: Seconds) -> None:
    """All of it, in this order."""
    if facts.phase in (Phase.CREATED, Phase.ENDED):
        return
    if facts.phase is Phase.PAUSED:
        facts.show(Show("paused", facts.trouble))
        facts.wake_at(None)
        return
    if facts.finished is not None:
        facts.end("finished", facts.finished)
        return
    if facts.phase is Phase.GATHERING:
        begin(facts, now)
        if facts.ended is not None:
            return
    if facts.book.changed:
        gives, again = deal(facts.book, facts.staff)
        facts.say(*gives)
        facts.under.lost += again
    if facts.phase is Phase.TRAINING:
        if facts.settings.virtual:
            if len(facts.under.accepted) == facts.under.coming:
                _play(facts, now)
        elif len(facts.under.accepted) >= facts.target:
            cut(facts)
        if facts.ended is not None:
            return
    scoring = facts.scoring
    if scoring is not None and not scoring.open and not scoring.asked:
        scoring.asked = True
        facts.say(Score(scoring.round))
    if facts.phase is Phase.HOLDING and scoring is None:
        _close(facts)
    tell(facts, now)


def cut(facts: Facts) -> None:
    """The cohort is complete, or cut by the deadline: nobody else gets in."""
    facts.withdraw("train")
    facts.under.deadline_at = None
    facts.phase = Phase.HOLDING


def missed(facts: Facts, arrived: int, now: Seconds) -> None:
    """The deadline found too few."""
    retry(
        facts,
        f"had {arrived} of the {facts.needed} updates it needs at its deadline of"
        f" {facts.settings.deadline:g} s: raise rounds.deadline or lower rounds.quorum",
        now,
    )


def retry(facts: Facts, why: str, now: Seconds) -> None:
    """Another sample for the same round, if there may be one: `retries` after the first of a start, and as
    many after the first of a resume.
    """
    under = facts.under
    if under.trial % (facts.settings.retries + 1) == 0:
        why = f"round {under.number} {why} (trial {under.trial} of {under.trial})"
        facts.end("failed", why, spent=True)
        return
    facts.withdraw("train")
    facts.under = Under(under.number, under.trial + 1, lost=under.lost)
    facts.phase = Phase.GATHERING
    go_on(facts, now)


def _play(facts: Facts, now: Seconds) -> None:
    """The virtual clock: all that will come is in, and happens now in the order that it would have."""
    under = facts.under
    under.counted, under.seconds = play(under.arrivals, facts.target, facts.settings.deadline)
    if len(under.counted) >= facts.needed:
        cut(facts)
    else:
        missed(facts, len(under.counted), now)


def _close(facts: Facts) -> None:
    under, settings = facts.under, facts.settings
    participants = under.counted if settings.virtual else tuple(sorted(under.accepted))
    late = tuple(sorted(set(under.cohort) - set(participants)))
    dropped = len(settings.dropped(*under.place, late))
    virtual = (under.trial - 1) * (settings.deadline or 0.0) + under.seconds if settings.virtual else None
    facts.phase = Phase.CLOSING
    facts.say(Close(under.number, under.trial, participants, late, under.lost, dropped, virtual))
