"""Replies to orders: which the round machine accepts, which are in already, and why others are refused.

Handlers of `rounds.TRANSITIONS`. The first accepted reply of an order wins; the same content again is a
success that changes nothing.
"""

from __future__ import annotations

from typing import TypeAlias

from roundtable.errors import AlreadyAccepted, NotAsked, RoundtableError, Stale, StorageFull
from roundtable.types import Digest, Seconds

from aggregator.events import (
    Accept,
    AcceptAgain,
    EvaluationArrived,
    InitializeArrived,
    Key,
    Kind,
    Reject,
    UpdateArrived,
)
from aggregator.facts import Facts, Phase
from aggregator.progress import go_on

Reply: TypeAlias = InitializeArrived | UpdateArrived | EvaluationArrived


def initialize_arrived(facts: Facts, event: InitializeArrived) -> None:
    key = event.key
    if facts.first is not None and event.digest == facts.first:
        facts.say(AcceptAgain(key))
    elif facts.first is not None or facts.under.number > 0:
        _reject(facts, key, Stale("this run has its first weights already: drop these"))
    elif _awaited(facts, event, "initialize"):
        facts.first = event.digest
        facts.phase = Phase.HOLDING
        _accept(facts, key, event.digest, event.now)


def update_arrived(facts: Facts, event: UpdateArrived) -> None:
    key, under = event.key, facts.under
    if (key.round, key.trial) < under.place:
        _reject(facts, key, Stale(f"round {key.round}, trial {key.trial} is closed: drop it"))
    elif under.accepted.get(key.client) == event.digest and key == under.key(key.client):
        facts.say(AcceptAgain(key))
    elif key.client in under.accepted and key == under.key(key.client):
        _reject(facts, key, AlreadyAccepted(f"another update of client {key.client} is in: drop it"))
    elif facts.phase in (Phase.HOLDING, Phase.CLOSING) and key.client in under.cohort:
        _reject(facts, key, Stale(f"round {key.round} has enough updates without it: drop it"))
    elif _awaited(facts, event, "train"):
        under.accepted[key.client] = event.digest
        under.arrivals[key.client] = event.arrival
        _accept(facts, key, event.digest, event.now)


def evaluation_arrived(facts: Facts, event: EvaluationArrived) -> None:
    key, scoring = event.key, facts.scoring
    if scoring is None or key.round < scoring.round:
        _reject(facts, key, Stale(f"the evaluation of round {key.round} is over: drop it"))
    elif key in scoring.accepted:
        facts.say(AcceptAgain(key))
    elif _awaited(facts, event, "evaluate"):
        scoring.accepted.add(key)
        scoring.open -= 1
        _accept(facts, key, "", event.now)


def no_room(facts: Facts, event: Reply) -> None:
    """While it is paused."""
    _reject(facts, event.key, StorageFull(f"the run is paused ({facts.trouble}): send it again later"))


def over(facts: Facts, event: Reply) -> None:
    """After the end."""
    _reject(facts, event.key, Stale("the run is over: drop it"))


def _awaited(facts: Facts, event: Reply, kind: Kind) -> bool:
    """Whether this is the reply that an open order waits for; refused where it is not."""
    key = event.key
    fault: RoundtableError | None
    if key.kind != kind or key not in facts.book.open:
        fault = NotAsked(f"nobody was asked for this reply ({kind}, round {key.round}): drop it")
    else:
        fault = facts.book.fault(key, event.attempt, event.worker)
    if fault is not None:
        _reject(facts, key, fault)
    return fault is None


def _accept(facts: Facts, key: Key, digest: Digest, now: Seconds) -> None:
    facts.book.close(key)
    facts.say(Accept(key, digest))
    go_on(facts, now)


def _reject(facts: Facts, key: Key, error: RoundtableError) -> None:
    facts.say(Reject(key, error))
