"""Who is asked for what next: the first weights, a cohort, an evaluation. And where their clients are.

A part of `rounds`: from the facts to the keys that the book wants; `dealing` finds who carries them out.
"""

from __future__ import annotations

from roundtable.fleet import LOOKS
from roundtable.types import ClientId, Seconds

from aggregator.events import BeginRound, Key, Pin
from aggregator.facts import Facts, Phase, Scoring


def begin(facts: Facts, now: Seconds) -> None:
    """From GATHERING, if those are there whom the next thing needs: first weights, or a cohort."""
    staff, under = facts.staff, facts.under
    if staff.pinned and not staff.nodes:
        if not staff.pin():
            return
        facts.say(Pin(dict(staff.nodes)))
        settle(facts)
    if under.number == 0:
        if staff.fit:
            facts.phase = Phase.INITIALIZING
            facts.book.want([Key(0, "initialize")])
        return
    cohort = _draw(facts)
    if cohort:
        facts.phase = Phase.TRAINING
        under.cohort = cohort
        missing = facts.missing()
        under.coming = len(missing)
        facts.say(BeginRound(under.number, under.trial, cohort))
        arm(facts, now)
        staff.gather(cohort)
        facts.book.want(map(under.key, missing))


def begin_again(facts: Facts, now: Seconds) -> None:
    """The round whose cohort is known from before a restart: whoever is still missing is asked."""
    under = facts.under
    facts.phase = Phase.TRAINING
    missing = facts.missing()
    under.coming = len(under.accepted) + len(missing)
    arm(facts, now)
    facts.book.want(map(under.key, missing))


def _draw(facts: Facts) -> tuple[ClientId, ...]:
    """The cohort of the next round; empty while it could not reach its quorum."""
    settings, under, eligible = facts.settings, facts.under, facts.staff.eligible()
    if settings.participants is not None:
        forced = settings.participants[under.number - 1]
        return tuple(sorted(forced)) if set(forced) <= set(eligible) else ()
    if len(eligible) < facts.needed:
        return ()
    on = settings.on(under.number, under.trial, eligible)
    if not on:
        facts.end(
            "failed",
            f"round {under.number}: it needs {facts.needed} clients that are on, and {LOOKS} looks never"
            " found so many: raise the availability in machines.profiles or lower rounds.quorum",
        )
        return ()
    size = settings.asked(under.number)
    return settings.sampler.sample(settings.seed, under.number, under.trial, on, size, facts.history)


def arm(facts: Facts, now: Seconds) -> None:
    """The deadline of the round under way counts from now."""
    if facts.settings.deadline is not None and not facts.settings.virtual:
        facts.under.deadline_at = now + facts.settings.deadline


def evaluate_if_due(facts: Facts) -> None:
    """Want every shard of the weights committed last and, where asked, every client that is there."""
    settings, committed = facts.settings, facts.committed
    if committed < 0 or not settings.due(committed) or committed in facts.scores:
        return
    keys = [Key(committed, "evaluate", shard=shard) for shard in range(settings.shards)]
    if settings.federated:
        clients = facts.staff.eligible() if settings.pinned else range(settings.clients)
        keys += [Key(committed, "evaluate", client=client) for client in clients]
    done = {key for key in facts.evaluated if key.round == committed}
    wanted = [key for key in keys if key not in done]
    facts.scoring = Scoring(committed, done, len(wanted))
    facts.book.want(wanted)


def settle(facts: Facts) -> None:
    """After workers came or went: clients move."""
    staff, book = facts.staff, facts.book
    if facts.under.number > 0:
        staff.settle({key.client for key in book.idle["train"]}, book.load)
    if staff.pinned and facts.scoring is not None:
        # nobody else could evaluate on a pinned client's data, and a round is not held up for it
        away = [key for key in book.idle["evaluate"] if key.client >= 0 and key.client not in staff.homes]
        for key in away:
            book.close(key)
            facts.scoring.open -= 1
