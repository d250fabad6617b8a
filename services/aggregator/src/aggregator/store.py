"""The aggregator's memory: one SQLite file (WAL), one connection. files.py has the weights.

Every method is one transaction: after a crash at any instant it has happened whole or not at all. With
`durability` "process" (synchronous=NORMAL) what was returned survives the process being killed, with "power"
(FULL) the machine too. All methods raise StorageFull where the disk is full or fails (nothing changed; call
again), CorruptStore where the database cannot be used, with what to do about it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Literal

from roundtable.errors import NotPossible, Unknown
from roundtable.experiment import Experiment, Keep
from roundtable.messages import Evaluated, Initialized, Join, RoundRecord, RunState
from roundtable.types import ClientId, Digest, RunId, Seconds, WorkerId

from aggregator.database import Database, open_database, read_database
from aggregator.events import Key
from aggregator.rows import (
    Accepted,
    AttemptRow,
    Commit,
    CommitRow,
    EvaluationRow,
    OpenRound,
    RunRow,
    Taken,
    Wanted,
    WorkerRow,
    accepted_row,
    commit_row,
    run_row,
)

FILE: Final = "lab.sqlite"  # in STATE_DIR
LONG: Final = 250  # transactions, of some pages each

Durability = Literal["process", "power"]

_BEST: Final = "WHERE run = ? AND accuracy IS NOT NULL ORDER BY accuracy DESC, round LIMIT 1"


class Store:
    """Use `open_store`. Not thread-safe: one use after the other (threads.StoreThread)."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.waits_for_disk = False  # each transaction, before it returns

    def close(self) -> None:
        self._db.close()

    def together(self) -> AbstractContextManager[None]:
        """What is done within it is one transaction."""
        return self._db.transaction()

    @property
    def log_is_long(self) -> bool:
        """Whether it is time to `write_back`."""
        return self._db.logged >= LONG

    def write_back(self) -> None:
        """SQLite's log into its file: nothing changes but how fast things are found. Waits for the disk."""
        self._db.write_back()

    def set_durability(self, durability: Durability) -> None:
        """Of everything written from now on; set when a run becomes the active one."""
        self.waits_for_disk = durability == "power"
        self._db.one(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")

    # --- runs -----------------------------------------------------------------------------------------------

    def create_run(
        self,
        run: RunId,
        experiment: Experiment,
        created: Seconds,
        *,
        participants: Sequence[Sequence[ClientId]] | None = None,
        environment: Mapping[str, str] = {},
    ) -> RunRow:
        """A queued run. Raises NotPossible where the id is taken."""
        with self._db.transaction():
            if self._db.one("SELECT 1 FROM runs WHERE id = ?", run):
                raise NotPossible(f"run {run} exists already: choose another id")
            self._db.write(
                "INSERT INTO runs"
                " (id, experiment, experiment_hash, participants, created, state, environment)"
                " VALUES (?, ?, ?, ?, ?, 'queued', ?)",
                (
                    run,
                    experiment.model_dump_json(),
                    experiment.digest,
                    None if participants is None else _json(participants),
                    created,
                    _json(environment),
                ),
            )
        return self.run(run)

    def run(self, run: RunId) -> RunRow:
        """Raises Unknown."""
        row = self._db.one("SELECT * FROM runs WHERE id = ?", run)
        if row is None:
            raise Unknown(f"run {run} is not known here: `lab runs` lists those that are")
        return run_row(row)

    def runs(self) -> list[RunRow]:
        """All of them, oldest first: in the order in which they were made."""
        return [run_row(row) for row in self._db.all("SELECT * FROM runs ORDER BY rowid")]

    def runs_of(self, experiment_hash: Digest) -> list[RunRow]:
        """Those of the same experiment, oldest first."""
        return [
            run_row(row)
            for row in self._db.all(
                "SELECT * FROM runs WHERE experiment_hash = ? ORDER BY rowid", experiment_hash
            )
        ]

    def set_run_state(
        self,
        run: RunId,
        state: RunState,
        reason: str | None = None,
        *,
        first_order: Seconds | None = None,
        ended: Seconds | None = None,
    ) -> None:
        """State and reason replace the old ones, `ended` too (None: under way again); the first `first_order`
        stays."""
        self._db.write(
            "UPDATE runs SET state = ?, reason = ?, first_order = coalesce(first_order, ?), ended = ?"
            " WHERE id = ?",
            (state, reason, first_order, ended, run),
        )

    def set_pinned(self, run: RunId, pinned: Mapping[str, ClientId]) -> None:
        """Which node is which client."""
        self._db.write("UPDATE runs SET pinned = ? WHERE id = ?", (_json(pinned), run))

    def accept_initial(self, run: RunId, digest: Digest, initialized: Initialized) -> None:
        """The first weights are in `weights/` (files.accept_initial)."""
        self._db.write(
            "UPDATE runs SET initial = ?, initialized = ? WHERE id = ?",
            (digest, initialized.model_dump_json(), run),
        )

    # --- the round under way --------------------------------------------------------------------------------

    def begin_round(
        self, run: RunId, round_number: int, trial: int, cohort: Sequence[ClientId], taken: Taken
    ) -> None:
        """`taken`: by the trials before this one. Any other open round is discarded, updates and all. Said
        again, it changes nothing."""
        with self._db.transaction():
            self._discard(run, but=(round_number, trial))
            self._db.write(
                "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?, 'open') ON CONFLICT DO UPDATE"
                " SET cohort = excluded.cohort, started = excluded.started, seconds = excluded.seconds,"
                " bytes_down = excluded.bytes_down, state = 'open' WHERE state = 'discarded'",
                (
                    run,
                    round_number,
                    trial,
                    _json(tuple(cohort)),
                    taken.started,
                    taken.seconds,
                    taken.bytes_down,
                ),
            )

    def discard_open_round(self, run: RunId) -> None:
        """When a run ends: what was begun after its last committed round counts no more."""
        with self._db.transaction():
            self._discard(run, but=(-1, -1))

    def _discard(self, run: RunId, but: tuple[int, int]) -> None:
        open_but = (
            "SELECT round, trial FROM rounds WHERE run = ?1 AND state = 'open' AND (round, trial) != (?2, ?3)"
        )
        self._db.write(f"DELETE FROM updates WHERE run = ?1 AND (round, trial) IN ({open_but})", (run, *but))
        self._db.write(
            f"UPDATE rounds SET state = 'discarded' WHERE run = ?1 AND (round, trial) IN ({open_but})",
            (run, *but),
        )

    def open_round(self, run: RunId) -> OpenRound | None:
        row = self._db.one(
            "SELECT round, trial, cohort FROM rounds"
            " WHERE run = ? AND state = 'open' ORDER BY round DESC, trial DESC",
            run,
        )
        if row is None:
            return None
        return OpenRound(row["round"], row["trial"], tuple(json.loads(row["cohort"])))

    def taken(self, run: RunId, round_number: int) -> Taken | None:
        """By all of the round's trials; None where it has not begun."""
        row = self._db.one(
            "SELECT min(started), max(seconds), max(bytes_down) FROM ("
            "SELECT started, seconds, bytes_down FROM rounds WHERE run = ?1 AND round = ?2"
            " UNION ALL SELECT NULL, seconds, bytes_down FROM updates WHERE run = ?1 AND round = ?2)",
            run,
            round_number,
        )
        return None if row is None or row[0] is None else Taken(*row)

    def trials(self, run: RunId, round_number: int) -> int:
        """How many samples were drawn for the round."""
        row = self._db.one(
            "SELECT count(*) AS count FROM rounds WHERE run = ? AND round = ?", run, round_number
        )
        return 0 if row is None else int(row["count"])

    def issue(self, run: RunId, orders: Iterable[tuple[Key, int, WorkerId]]) -> None:
        """Orders (key, attempt, worker) about to be given: recorded before any of them is."""
        with self._db.transaction():
            self._db.executemany(
                "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET worker = excluded.worker",
                [
                    (run, key.round, key.kind, key.trial, key.client, key.shard, attempt, worker)
                    for key, attempt, worker in orders
                ],
            )

    def attempts(self, run: RunId) -> list[AttemptRow]:
        """All orders given, attempts of one key in order."""
        return [
            AttemptRow(*tuple(row)[1:])
            for row in self._db.all(
                "SELECT run, round, kind, trial, client, shard, attempt, worker FROM attempts"
                " WHERE run = ? ORDER BY round, kind, trial, client, shard, attempt",
                run,
            )
        ]

    def accept_update(self, run: RunId, update: Accepted) -> None:
        """Its file is in the spool (Spool.accept): now it counts. A second one: NotPossible."""
        try:
            self._db.write(
                "INSERT INTO updates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    run,
                    update.round,
                    update.trial,
                    update.client,
                    update.digest,
                    update.worker,
                    update.attempt,
                    update.nbytes,
                    update.account.model_dump_json(),
                    update.state_digest,
                    update.seconds,
                    update.bytes_down,
                ),
            )
        except sqlite3.IntegrityError:
            raise NotPossible(
                f"client {update.client} has an update in round {update.round}, trial {update.trial} already"
            ) from None

    def forget_update(self, run: RunId, round_number: int, trial: int, client: ClientId) -> None:
        """Its file turned out to be damaged: the client is to be asked again."""
        self._db.write(
            "DELETE FROM updates WHERE run = ? AND round = ? AND trial = ? AND client = ?",
            (run, round_number, trial, client),
        )

    def updates(self, run: RunId, round_number: int, trial: int) -> dict[ClientId, Accepted]:
        """In client order."""
        rows = self._db.all(
            "SELECT * FROM updates WHERE run = ? AND round = ? AND trial = ? ORDER BY client",
            run,
            round_number,
            trial,
        )
        return {row["client"]: accepted_row(row) for row in rows}

    def accept_evaluation(self, run: RunId, row: EvaluationRow) -> None:
        """The first one counts; the same again changes nothing."""
        self._db.write(
            "INSERT INTO evaluations VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                run,
                row.round,
                row.client,
                row.shard,
                row.trial,
                row.worker,
                row.attempt,
                row.evaluated.model_dump_json(),
            ),
        )

    def evaluations(self, run: RunId, round_number: int) -> list[EvaluationRow]:
        """In the order in which sums are made: shards first, then clients, each ascending."""
        return [
            EvaluationRow(
                row["round"],
                row["client"],
                row["shard"],
                row["worker"],
                row["attempt"],
                Evaluated.model_validate_json(row["evaluated"]),
                row["trial"],
            )
            for row in self._db.all(
                "SELECT * FROM evaluations WHERE run = ? AND round = ? ORDER BY client, shard",
                run,
                round_number,
            )
        ]

    # --- committed rounds -----------------------------------------------------------------------------------

    def commit_round(self, run: RunId, commit: Commit) -> None:
        """The round counts from here on: ledger entry, record, client states and new weights at once.

        The same commit again changes nothing. Raises NotPossible for another one, or a round out of turn.
        """
        with self._db.transaction():
            held = self._db.one(
                "SELECT entry_hash FROM commits WHERE run = ? AND round = ?", run, commit.round
            )
            if held is not None:
                if held["entry_hash"] == commit.entry_hash:
                    return
                raise NotPossible(f"round {commit.round} of {run} is committed already, with another result")
            last = self._db.one("SELECT max(round) AS round FROM commits WHERE run = ?", run)
            reached = -1 if last is None or last["round"] is None else last["round"]
            if commit.round != reached + 1:
                raise NotPossible(f"round {commit.round} of {run} cannot be committed after round {reached}")
            self._db.write(
                "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, NULL)",
                (
                    run,
                    commit.round,
                    commit.trial,
                    commit.weights,
                    commit.message,
                    commit.server,
                    commit.entry,
                    commit.entry_hash,
                    commit.record.model_dump_json(),
                ),
            )
            self._db.write(
                "UPDATE rounds SET state = 'committed' WHERE run = ? AND round = ? AND trial = ?",
                (run, commit.round, commit.trial),
            )
            self._db.executemany(
                "INSERT INTO client_states VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET digest = excluded.digest, round = excluded.round",
                [(run, client, digest, commit.round) for client, digest in commit.states.items()],
            )

    def score_round(self, run: RunId, record: RoundRecord) -> None:
        """The round's evaluation is in: its record, with accuracy, loss and metrics, replaces the old one."""
        self._db.write(
            "UPDATE commits SET record = ?, scored = 1, accuracy = ? WHERE run = ? AND round = ?",
            (record.model_dump_json(), record.accuracy, run, record.round),
        )

    def commits(self, run: RunId) -> list[CommitRow]:
        """In round order."""
        return [
            commit_row(row) for row in self._db.all("SELECT * FROM commits WHERE run = ? ORDER BY round", run)
        ]

    def commit_of(self, run: RunId, round_number: int) -> CommitRow:
        """Raises Unknown."""
        row = self._db.one("SELECT * FROM commits WHERE run = ? AND round = ?", run, round_number)
        if row is None:
            raise Unknown(f"round {round_number} of {run} is not committed")
        return commit_row(row)

    def last_commit(self, run: RunId) -> CommitRow | None:
        row = self._db.one("SELECT * FROM commits WHERE run = ? ORDER BY round DESC LIMIT 1", run)
        return None if row is None else commit_row(row)

    def best_commit(self, run: RunId) -> CommitRow | None:
        """The highest accuracy, the earliest of equals; None where nothing was scored with one."""
        row = self._db.one(f"SELECT * FROM commits {_BEST}", run)
        return None if row is None else commit_row(row)

    def last_accuracy(self, run: RunId) -> float | None:
        """Of the last round that was scored with one."""
        row = self._db.one(
            "SELECT accuracy FROM commits WHERE run = ? AND accuracy IS NOT NULL ORDER BY round DESC LIMIT 1",
            run,
        )
        return None if row is None else float(row["accuracy"])

    def client_states(self, run: RunId) -> dict[ClientId, Digest]:
        """As of the last committed round."""
        rows = self._db.all("SELECT client, digest FROM client_states WHERE run = ? ORDER BY client", run)
        return {row["client"]: row["digest"] for row in rows}

    # --- workers and placement ------------------------------------------------------------------------------

    def put_worker(self, worker: WorkerRow) -> None:
        """New, or seen again under the same id."""
        self._db.write(
            "INSERT INTO workers VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
            " SET join_message = excluded.join_message, state = excluded.state",
            (worker.id, worker.join.instance, worker.join.model_dump_json(), worker.state),
        )

    def workers(self) -> list[WorkerRow]:
        return [
            WorkerRow(row["id"], Join.model_validate_json(row["join_message"]), row["state"])
            for row in self._db.all("SELECT * FROM workers ORDER BY id")
        ]

    def place(self, run: RunId, homes: Mapping[ClientId, WorkerId]) -> None:
        """Replace all placements of the run."""
        with self._db.transaction():
            self._db.write("DELETE FROM homes WHERE run = ?", (run,))
            self._db.executemany(
                "INSERT INTO homes VALUES (?, ?, ?)", [(run, *home) for home in homes.items()]
            )

    def homes(self, run: RunId) -> dict[ClientId, WorkerId]:
        rows = self._db.all("SELECT client, worker FROM homes WHERE run = ? ORDER BY client", run)
        return {row["client"]: row["worker"] for row in rows}

    # --- what files stay ------------------------------------------------------------------------------------

    def wanted(self, run: RunId, keep: Keep) -> Wanted:
        """The files that are still needed, and those that the experiment's keep policy asks for.

        Needed: the last two commits' weights and messages (an evaluation of the one before may be under way),
        the last server slots, the clients' states, the round under way. Policy: the best weights, those of
        every n-th round, and the updates of the last n rounds or of all, with the weights and slots that they
        were folded into.
        """
        newest = self._db.one("SELECT max(round) AS round FROM commits WHERE run = ?", run)
        last = -1 if newest is None or newest["round"] is None else newest["round"]
        first = _first_kept(keep.updates, last)
        recomputed = max(first - 1, 0)  # what the kept updates were folded into, from this round on
        files = "SELECT round, trial, weights, message, server FROM commits WHERE run = ? AND "
        recent = self._db.all(files + "round >= ? ORDER BY round", run, min(recomputed, last - 1))
        weights = {commit["weights"] for commit in recent}
        if keep.checkpoint_every:
            nth = self._db.all(files + "round > 0 AND round % ? = 0", run, keep.checkpoint_every)
            weights |= {commit["weights"] for commit in nth}
        best = self._db.one(f"SELECT weights FROM commits {_BEST}", run)
        weights |= {best["weights"]} if best else set()
        if last < 0:
            weights |= {self.run(run).initial}
        server = {commit["server"] for commit in recent if commit["round"] >= min(recomputed, last)}
        begun = self._db.one("SELECT round, trial FROM rounds WHERE run = ? AND state = 'open'", run)
        under_way = (begun["round"], begun["trial"]) if begun else (last + 1, 1)
        updates = "SELECT client, digest FROM updates WHERE run = ? AND round = ? AND trial = ?"
        return Wanted(
            weights={digest for digest in weights if digest is not None},
            messages={commit["message"] for commit in recent[-2:]},
            server={digest for digest in server if digest is not None},
            states=set(self.client_states(run).values()),
            rounds={(commit["round"], commit["trial"]) for commit in recent if commit["round"] >= first},
            open=under_way,
            accepted={(row["client"], row["digest"]) for row in self._db.all(updates, run, *under_way)},
        )


def open_store(path: Path) -> Store:
    """Open the store, or make it. Raises CorruptStore for one that cannot be trusted."""
    return Store(open_database(path))


def read_store(path: Path) -> Store:
    """For a look at a store that an aggregator may be using. Raises CorruptStore; Unknown for none."""
    return Store(read_database(path))


def _first_kept(policy: str, last: int) -> int:
    """The first round whose updates stay, under `keep.updates`, when round `last` is the last committed."""
    if policy == "all":
        return 1
    if policy == "none":
        return last + 1
    return max(last + 1 - int(policy.removeprefix("last:")), 1)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
