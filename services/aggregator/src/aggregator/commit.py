"""Closing a round, in steps that the conductor runs where they belong.

    plan_round   (store thread)   what is folded, from the store
    carry_out    (fold thread)    the arithmetic and the files: nothing counts yet
    commit_round (store thread)   ledger entry, record, client states, weights: the round counts
    tidy         (any of the two) files that nothing names any more go

After a crash between any two steps the round is open, with all its updates: closing it again gives the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from roundtable.errors import CorruptStore
from roundtable.ledger import START, LedgerEntry, Participation, canonical, hash_of
from roundtable.messages import Evaluated, Initialized, RoundRecord, WorkerAccount
from roundtable.metrics import added, values
from roundtable.types import ClientId, Digest, RunId, Seconds, WorkerId

from aggregator.events import Close
from aggregator.files import RunFiles
from aggregator.fold import Folded, FoldPlan, Input, extract_states, fold, write_message
from aggregator.personal import gains
from aggregator.rows import Accepted, Commit, CommitRow, EvaluationRow, RunRow
from aggregator.store import Store


@dataclass(frozen=True)
class Closing:
    """A round about to be folded."""

    row: RunRow
    initialized: Initialized
    initial: Digest
    close: Close
    before: CommitRow | None  # the round before
    plan: FoldPlan | None  # None for round 0, whose weights are there already
    accepted: Mapping[ClientId, Accepted]  # the participants' updates, in client order

    @property
    def nbytes(self) -> int:
        """Of the weights and the updates that closing it goes through."""
        updates = sum(update.nbytes for update in self.accepted.values())
        return self.initialized.manifest.nbytes + updates


@dataclass(frozen=True)
class Outcome:
    """What carrying out left in the run's folder."""

    folded: Folded
    states: Mapping[ClientId, Digest]  # the participants' new states


@dataclass(frozen=True)
class Times:
    """Points in time (Unix seconds), and how long it was by the round's own clock."""

    started: Seconds  # its first order issued
    committed: Seconds
    clients: Seconds  # until its last update was in
    seconds: Seconds  # in all


def plan_round(store: Store, files: RunFiles, row: RunRow, close: Close) -> Closing:
    """Raises CorruptStore where the store lacks what the round machine takes for recorded."""
    run = row.id
    if row.initialized is None or row.initial is None:
        raise CorruptStore(f"run {run} has no first weights: start it anew")
    if close.round == 0:
        return Closing(row, row.initialized, row.initial, close, None, None, {})
    before = store.last_commit(run)
    if before is None or before.round != close.round - 1:
        raise CorruptStore(f"run {run} cannot close round {close.round}: the round before is not committed")
    updates = store.updates(run, close.round, close.trial)
    missing = [client for client in close.participants if client not in updates]
    if missing:
        raise CorruptStore(
            f"round {close.round} of {run} lacks the update of client {missing[0]}: start the run anew"
        )
    accepted = {client: updates[client] for client in sorted(close.participants)}
    plan = fold_plan(
        files, row, row.initialized, close.round, close.trial, accepted, before.weights, before.server
    )
    return Closing(row, row.initialized, row.initial, close, before, plan, accepted)


def fold_plan(
    files: RunFiles,
    row: RunRow,
    initialized: Initialized,
    round_number: int,
    trial: int,
    accepted: Mapping[ClientId, Accepted],
    weights: Digest,
    server: Digest | None,
) -> FoldPlan:
    """`accepted` in client order; `weights` and `server` as they were before the round."""
    experiment = row.experiment
    inputs = []
    for client, update in accepted.items():
        account = update.account
        share = experiment.strategy.share(
            experiment.training, account.num_examples, account.num_steps, account.loss
        )
        place = files.spool.place((round_number, trial), client, update.digest)
        room = files.spool.room(place)
        seen = (room.content, room.header) if room else (None, None)
        inputs.append(Input(client, place, share, *seen))
    return FoldPlan(
        round=round_number,
        manifest=initialized.manifest,
        strategy=experiment.strategy,
        wire=experiment.wire,
        clients=experiment.clients.count,
        inputs=tuple(inputs),
        weights=files.path("weights", weights),
        server=None if server is None else files.path("server", server),
    )


def carry_out(files: RunFiles, closing: Closing) -> Outcome:
    """Raises StorageFull (nothing counts; do it again once there is space), CorruptStore, RunFailed."""
    if closing.plan is None:
        experiment = closing.row.experiment
        manifest = closing.initialized.manifest
        message = write_message(files, manifest, experiment.strategy, experiment.wire, closing.initial)
        return Outcome(Folded(closing.initial, message, None), {})
    return Outcome(fold(files, closing.plan), extract_states(files, closing.plan))


def commit_round(
    store: Store, closing: Closing, outcome: Outcome, times: Times, *, bytes_down: int = 0
) -> RoundRecord:
    """The record as stored, entry hash included; evaluation figures come later (`score`)."""
    close, folded = closing.close, outcome.folded
    entry = LedgerEntry(
        run=closing.row.id,
        round=close.round,
        trial=close.trial,
        participants=tuple(
            Participation(
                client=client,
                update=update.digest,
                num_examples=update.account.num_examples,
                num_steps=update.account.num_steps,
                state=outcome.states.get(client),
            )
            for client, update in closing.accepted.items()
        ),
        weights_hash=folded.weights,
        message_hash=folded.message,
        server_hash=folded.server,
        task_hash=closing.initialized.task_hash,
        data_hash=closing.initialized.data_hash,
        experiment=closing.row.experiment_hash,
        previous=START if closing.before is None else closing.before.entry_hash,
    )
    written = canonical(entry)
    record = _record(closing, folded.weights, hash_of(written), times, bytes_down)
    store.commit_round(
        closing.row.id,
        Commit(
            round=close.round,
            trial=close.trial,
            weights=folded.weights,
            message=folded.message,
            server=folded.server,
            entry=written.decode("ascii"),
            entry_hash=record.entry_hash,
            record=record,
            states=outcome.states,
        ),
    )
    return record


def score(store: Store, run: RunId, round_number: int) -> RoundRecord:
    """Sum up a round's evaluations into its record (events.Score)."""
    record = scored(store.commit_of(run, round_number).record, store.evaluations(run, round_number))
    store.score_round(run, record)
    return record


def scored(record: RoundRecord, rows: Sequence[EvaluationRow]) -> RoundRecord:
    """The record with what its evaluations add up to: shards in order, and clients in order."""
    shards = [row.evaluated for row in rows if row.client < 0]
    clients = [row.evaluated for row in rows if row.client >= 0]
    central, federated = _values(shards), _values(clients)
    return record.model_copy(
        update={
            "accuracy": central.pop("accuracy", None),
            "loss": central.pop("loss", None),
            "metrics": central,
            "federated": federated,
        }
    )


def tidy(store: Store, files: RunFiles, run: RunId, *, starting: bool = False) -> None:
    """Remove what neither the round under way nor the keep policy needs; `starting`: left-overs too."""
    files.tidy(store.wanted(run, store.run(run).experiment.keep), starting=starting)


def _values(parts: Sequence[Evaluated]) -> dict[str, float]:
    return values(added(parts)) if any(part.num_examples for part in parts) else {}


def _record(closing: Closing, weights: Digest, entry: Digest, times: Times, bytes_down: int) -> RoundRecord:
    accepted, close = closing.accepted.values(), closing.close
    examples = sum(update.account.num_examples for update in accepted)
    losses = [(update.account.loss, update.account.num_examples) for update in accepted]
    known = [(loss, count) for loss, count in losses if loss is not None]
    weight = sum(count for _, count in known)
    together, each = gains((update.client, update.account.personal) for update in accepted)
    return RoundRecord(
        round=close.round,
        attempt=close.trial,
        participants=close.participants,
        late=len(close.late) - close.dropped,
        dropped=close.dropped,
        lost=close.lost,
        train_loss=sum(loss * count for loss, count in known) / weight if weight else None,
        personalized=together,
        gains=dict(each),
        num_examples=examples,
        started=times.started,
        committed=times.committed,
        seconds=times.seconds,
        virtual_seconds=close.virtual_seconds,
        phases={"clients": times.clients, "aggregate": times.seconds - times.clients},
        bytes_up=sum(update.nbytes for update in accepted),
        bytes_down=bytes_down,
        workers=_by_worker(accepted),
        weights_hash=weights,
        entry_hash=entry,
    )


def _by_worker(accepted: Iterable[Accepted]) -> dict[WorkerId, WorkerAccount]:
    groups: dict[WorkerId, list[Accepted]] = {}
    for update in accepted:
        groups.setdefault(update.worker, []).append(update)
    return {
        worker: WorkerAccount(
            clients=tuple(update.client for update in updates),
            cpu_seconds=sum(update.account.cpu_seconds for update in updates),
            waiting_seconds=sum(update.account.waiting_seconds for update in updates),
            training_seconds=sum(update.account.training_seconds for update in updates),
            sending_seconds=sum(update.account.sending_seconds for update in updates),
            bytes_in=sum(update.account.bytes_in for update in updates),
            bytes_out=sum(update.account.bytes_out for update in updates),
            peak_memory_bytes=max(update.account.peak_memory_bytes for update in updates),
        )
        for worker, updates in sorted(groups.items())
    }
