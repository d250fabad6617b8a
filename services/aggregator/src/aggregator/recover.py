"""What the store knows of a run that begins or goes on, for the round machine and for the driver. Store
thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from roundtable.fleet import Load
from roundtable.messages import Account
from roundtable.strategy.part import Seen
from roundtable.types import ClientId, Digest, RunId, Seconds, WorkerId

from aggregator.events import Key
from aggregator.rows import Accepted, CommitRow, OpenRound, RunRow, Taken
from aggregator.store import Store
from aggregator.terms import Issued, Recovered, Settings


@dataclass(frozen=True)
class Known:
    """`recovered` is for the machine, the rest for the driver."""

    row: RunRow
    recovered: Recovered
    commits: tuple[CommitRow, ...]
    states: Mapping[ClientId, Digest]
    begun: OpenRound | None
    taken: Taken | None  # by the round after the last committed one, so far
    workers: frozenset[WorkerId]  # that were ever asked for something


def recover(store: Store, run: RunId) -> Known:
    """Raises Unknown, CorruptStore."""
    row = store.run(run)
    commits = tuple(store.commits(run))
    committed = commits[-1].round if commits else -1
    begun = store.open_round(run)
    if begun is not None and begun.round != committed + 1:
        begun = None
    attempts = store.attempts(run)
    issued = {
        Key(row.round, row.kind, row.trial, row.client, row.shard): Issued(row.attempt, row.worker)
        for row in attempts
        if row.round >= committed
    }
    updates = store.updates(run, begun.round, begun.trial) if begun else {}
    recovered = Recovered(
        committed=committed,
        initialized=row.initial if committed < 0 else None,
        accuracies={commit.round: commit.accuracy for commit in commits if commit.scored},
        trial=begun.trial if begun else store.trials(run, committed + 1) + 1,
        cohort=begun.cohort if begun else (),
        accepted={client: update.digest for client, update in updates.items()},
        arrivals=_arrivals(row, updates),
        evaluated=frozenset(
            Key(done.round, "evaluate", done.trial, done.client, done.shard)
            for done in store.evaluations(run, committed)
        ),
        issued=issued,
        lost=sum(
            key.round > committed and key.kind == "train" and last.attempt - 1 for key, last in issued.items()
        ),
        homes=store.homes(run),
        nodes=row.pinned,
        history=_history(store, run, commits, row.experiment.clients.count),
    )
    workers = frozenset(attempt.worker for attempt in attempts)
    taken = store.taken(run, committed + 1)
    return Known(row, recovered, commits, store.client_states(run), begun, taken, workers)


def _arrivals(row: RunRow, updates: Mapping[ClientId, Accepted]) -> dict[ClientId, Seconds]:
    """By the virtual clock: when accepted updates would have been in."""
    fleet = Settings.of(row.id, row.experiment, row.participants).fleet
    if fleet is None or not fleet.virtual or row.initialized is None:
        return {}
    manifest, arrivals = row.initialized.manifest, {}
    for client, update in updates.items():
        load = Load.of(row.experiment, manifest, update.account.num_examples)
        arrivals[client] = fleet.arrival(update.round, update.trial, client, load)
    return arrivals


def seen(round_number: int, account: Account) -> Seen:
    seconds = account.fetching_seconds + account.training_seconds + account.sending_seconds
    return Seen(round_number, account.loss, seconds)


def _history(store: Store, run: RunId, commits: tuple[CommitRow, ...], clients: int) -> dict[ClientId, Seen]:
    """Each client's last committed round, looked for from the end."""
    history: dict[ClientId, Seen] = {}
    for commit in reversed(commits[1:]):
        if len(history) == clients:
            break
        for client, update in store.updates(run, commit.round, commit.trial).items():
            if client in commit.record.participants:
                history.setdefault(client, seen(commit.round, update.account))
    return history
