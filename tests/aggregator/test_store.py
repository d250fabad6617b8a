"""The run store: what it promises after a crash, on a full disk, and with a database it cannot trust."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sqlite3
from pathlib import Path

import pytest
from aggregator.database import Database
from aggregator.events import Key
from aggregator.files import RunFiles
from aggregator.rows import Accepted, Commit, EvaluationRow, Taken, WorkerRow
from aggregator.store import FILE, Store, open_store, read_store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roundtable.errors import CorruptStore, NotPossible, StorageFull, Unknown
from roundtable.experiment import Experiment, Keep
from roundtable.messages import Account, Evaluated, Initialized, Join, RoundRecord
from roundtable.weights import ArraySpec

EXPERIMENT = Experiment(name="stored", task="digits")
FRESH = Taken(started=1.0, seconds=0.0, bytes_down=0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / FILE)
    store.create_run("r", EXPERIMENT, 1.0)
    return store


def digest(number: int) -> str:
    return f"{number:064x}"


def accepted(round_number: int, client: int, trial: int = 1) -> Accepted:
    account = Account(num_examples=5, num_steps=2, loss=0.1)
    mark = digest(100 * round_number + client)
    return Accepted(
        round_number, trial, client, mark, "w1", 1, 800, account, None, float(client), 10 * client
    )


def committed(round_number: int, trial: int = 1, states: dict[int, str] | None = None) -> Commit:
    mark = digest(round_number)
    record = RoundRecord(round=round_number, weights_hash=mark, entry_hash=mark)
    return Commit(round_number, trial, mark, mark, None, "{}", mark, record, states or {})


def test_a_run_is_found_again_as_it_was_created(tmp_path: Path) -> None:
    store = open_store(tmp_path / FILE)
    made = store.create_run("r", EXPERIMENT, 1.5, participants=[[0, 2], [1]], environment={"numpy": "2"})
    store.set_run_state("r", "running", "because", first_order=3.0)
    store.set_run_state("r", "running", None, first_order=4.0)
    store.set_pinned("r", {"pi-1": 0})
    initialized = Initialized(
        arrays=(ArraySpec("kernel", (2, 3)),),
        task_hash=digest(1),
        data_hash=digest(2),
        train_examples=3,
        test_examples=4,
        metrics=("loss",),
    )
    store.accept_initial("r", digest(9), initialized)
    store.close()

    row = open_store(tmp_path / FILE).run("r")
    assert (row.experiment, row.experiment_hash) == (EXPERIMENT, EXPERIMENT.digest)
    assert row.participants == made.participants == ((0, 2), (1,))
    assert (row.state, row.reason, row.first_order) == ("running", None, 3.0)
    assert (row.initial, row.initialized) == (digest(9), initialized)
    assert (row.pinned, row.environment) == ({"pi-1": 0}, {"numpy": "2"})


def test_runs_are_listed_oldest_first_though_the_clock_was_set_back_and_found_by_experiment(
    store: Store,
) -> None:
    other = Experiment(name="stored", task="digits", seed=2)
    store.create_run("b", other, 2.0)
    store.create_run("a", EXPERIMENT.model_copy(update={"name": "renamed"}), 0.5)
    assert [row.id for row in store.runs()] == ["r", "b", "a"]
    assert [row.id for row in store.runs_of(EXPERIMENT.digest)] == ["r", "a"]
    with pytest.raises(NotPossible, match="run b exists"):
        store.create_run("b", other, 3.0)
    with pytest.raises(Unknown, match="run d is not known"):
        store.run("d")


def test_an_update_is_accepted_once_for_a_client_round_and_trial(store: Store) -> None:
    store.accept_update("r", accepted(1, 3))
    with pytest.raises(NotPossible, match="client 3 has an update in round 1, trial 1"):
        store.accept_update("r", accepted(1, 3))
    store.accept_update("r", accepted(1, 3, trial=2))
    store.accept_update("r", accepted(2, 3))
    assert store.updates("r", 1, 1) == {3: accepted(1, 3)}


def test_updates_come_back_in_client_order_however_they_arrived(store: Store) -> None:
    for client in (7, 0, 10, 2):
        store.accept_update("r", accepted(1, client))
    assert list(store.updates("r", 1, 1)) == [0, 2, 7, 10]


def test_a_new_trial_discards_what_the_one_before_had(store: Store) -> None:
    store.begin_round("r", 1, 1, [0, 1], FRESH)
    store.accept_update("r", accepted(1, 0))
    store.begin_round("r", 1, 1, [0, 1], Taken(9.0, 8.0, 800))  # said again after a restart
    begun = store.open_round("r")
    assert begun is not None and (begun.trial, begun.cohort) == (1, (0, 1))
    assert 0 in store.updates("r", 1, 1)
    assert store.taken("r", 1) == FRESH

    store.begin_round("r", 1, 2, [0, 2], Taken(1.0, 7.0, 700))
    begun = store.open_round("r")
    assert begun is not None and (begun.trial, begun.cohort) == (2, (0, 2))
    assert store.updates("r", 1, 1) == {}
    assert store.taken("r", 1) == Taken(1.0, 7.0, 700)


def test_a_round_has_taken_what_was_recorded_in_it_last(store: Store) -> None:
    assert store.taken("r", 1) is None
    store.begin_round("r", 1, 1, [2, 3, 4], FRESH)
    for client in (4, 3):  # in whatever order
        store.accept_update("r", accepted(1, client))
    assert store.taken("r", 1) == Taken(1.0, 4.0, 40)
    store.begin_round("r", 2, 1, [9], Taken(50.0, 0.0, 20))
    assert store.taken("r", 2) == Taken(50.0, 0.0, 20)


def test_when_a_run_ends_the_round_begun_is_discarded_and_can_be_begun_again(store: Store) -> None:
    store.begin_round("r", 1, 1, [0], FRESH)
    store.accept_update("r", accepted(1, 0))
    store.discard_open_round("r")
    assert store.open_round("r") is None
    assert store.updates("r", 1, 1) == {}
    assert (store.trials("r", 1), store.trials("r", 2)) == (1, 0)
    store.begin_round("r", 1, 1, [0], Taken(3.0, 0.0, 0))
    assert store.open_round("r") is not None
    assert store.taken("r", 1) == Taken(3.0, 0.0, 0)


def test_attempts_keep_the_worker_that_has_the_order(store: Store) -> None:
    key = Key(1, "train", 1, 4)
    store.issue("r", [(key, 1, "w1"), (key, 2, "w2"), (Key(0, "initialize"), 1, "w1")])
    store.issue("r", [(key, 2, "w2")])  # said again after a restart
    found = [(row.kind, row.client, row.attempt, row.worker) for row in store.attempts("r")]
    assert found == [("initialize", -1, 1, "w1"), ("train", 4, 1, "w1"), ("train", 4, 2, "w2")]


def test_the_first_evaluation_of_a_shard_counts(store: Store) -> None:
    for loss in (1.0, 2.0):
        evaluated = Evaluated(num_examples=2, sums={"loss": loss})
        store.accept_evaluation("r", EvaluationRow(1, -1, 0, "w1", 1, evaluated))
    assert [row.evaluated.sums for row in store.evaluations("r", 1)] == [{"loss": 1.0}]


def test_evaluations_come_back_in_the_order_they_are_summed_in(store: Store) -> None:
    for client, shard in ((3, -1), (-1, 10), (-1, 9), (0, -1)):
        evaluated = Evaluated(num_examples=1, sums={})
        store.accept_evaluation("r", EvaluationRow(1, client, shard, "w1", 1, evaluated))
    assert [(row.client, row.shard) for row in store.evaluations("r", 1)] == [
        (-1, 9),
        (-1, 10),
        (0, -1),
        (3, -1),
    ]


def test_workers_and_homes_are_remembered(store: Store) -> None:
    join = Join(protocol=1, instance="ab" * 8, host="h", node="n", arch="x", cpus=1, memory_bytes=1)
    store.put_worker(WorkerRow("w1", join, "present"))
    store.put_worker(WorkerRow("w1", join.model_copy(update={"cpus": 2}), "lost"))
    assert [(row.join.cpus, row.state) for row in store.workers()] == [(2, "lost")]
    store.place("r", {0: "w1", 1: "w2"})
    store.place("r", {1: "w1"})
    assert store.homes("r") == {1: "w1"}


# --- commits ----------------------------------------------------------------------------------------------


def test_rounds_are_committed_in_order_and_once(store: Store) -> None:
    with pytest.raises(NotPossible, match="round 1 of r cannot be committed after round -1"):
        store.commit_round("r", committed(1))
    store.commit_round("r", committed(0))
    store.commit_round("r", committed(0))
    assert [row.round for row in store.commits("r")] == [0]
    another = Commit(0, 1, digest(7), digest(7), None, "{}", digest(7), RoundRecord(round=0))
    with pytest.raises(NotPossible, match="committed already, with another result"):
        store.commit_round("r", another)


def test_scores_find_the_best_round_the_earliest_of_equals(store: Store) -> None:
    assert store.best_commit("r") is None
    for number, accuracy in enumerate([0.1, 0.9, 0.9, None]):
        store.commit_round("r", committed(number))
        store.score_round("r", RoundRecord(round=number, accuracy=accuracy, entry_hash=digest(number)))
    best = store.best_commit("r")
    assert best is not None and best.round == 1 and best.scored
    assert [row.accuracy for row in store.commits("r")] == [0.1, 0.9, 0.9, None]
    with pytest.raises(Unknown, match="round 4"):
        store.commit_of("r", 4)


class _Killed(BaseException):
    pass


class _KillsAt(sqlite3.Connection):
    """Raises in place of the n-th statement, as a process dies between two of them."""

    countdown = -1

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        if self.countdown == 0:
            self.countdown = -1
            raise _Killed
        self.countdown -= 1
        return super().execute(sql, *values)  # type: ignore[arg-type]

    def executemany(self, sql: str, *values: object) -> sqlite3.Cursor:
        if self.countdown == 0:
            self.countdown = -1
            raise _Killed
        self.countdown -= 1
        return super().executemany(sql, *values)  # type: ignore[arg-type]


@pytest.mark.parametrize("statement", range(9))
def test_a_commit_broken_off_at_any_statement_never_happened_or_happened_whole(
    tmp_path: Path, statement: int
) -> None:
    path = tmp_path / FILE
    store = open_store(path)
    store.create_run("r", EXPERIMENT, 1.0)
    store.commit_round("r", committed(0))
    store.begin_round("r", 1, 1, [0], FRESH)
    store.accept_update("r", accepted(1, 0))
    store.close()

    db = sqlite3.connect(path, isolation_level=None, factory=_KillsAt)
    db.row_factory = sqlite3.Row
    db.countdown = statement
    died = False
    try:
        Store(Database(db, path)).commit_round("r", committed(1, states={0: digest(5)}))
    except _Killed:
        died = True
    db.close()

    again = open_store(path)
    assert list(again.updates("r", 1, 1)) == [0]
    if again.last_commit("r").round == 0:  # type: ignore[union-attr]
        assert died
        assert again.client_states("r") == {}
        assert again.open_round("r") is not None
        again.commit_round("r", committed(1, states={0: digest(5)}))
    assert again.client_states("r") == {0: digest(5)}
    assert again.open_round("r") is None
    assert again.last_commit("r").round == 1  # type: ignore[union-attr]


def _accept_until_killed(path: Path, told: object) -> None:
    store = open_store(path)
    for client in range(10_000):
        store.accept_update("r", accepted(1, client))
        os.write(told, b"%d\n" % client)  # type: ignore[arg-type]


def test_what_was_accepted_before_sigkill_is_there_after_it(store: Store, tmp_path: Path) -> None:
    store.close()
    reading, writing = os.pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_accept_until_killed, args=(tmp_path / FILE, writing)
    )
    process.start()
    os.close(writing)
    with os.fdopen(reading, "rb") as lines:
        for _ in range(50):
            last = int(lines.readline())
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        for line in lines:
            last = int(line) if line.endswith(b"\n") else last
    process.join(10)
    assert process.exitcode == -signal.SIGKILL
    found = list(open_store(tmp_path / FILE).updates("r", 1, 1))
    assert found == list(range(len(found)))
    assert len(found) >= last + 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.sampled_from(["begin", "retry", "accept", "commit", "end", "reopen"]), min_size=4, max_size=25
    )
)
def test_whatever_happens_the_store_holds_one_open_round_after_the_last_commit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    path = tmp_path_factory.mktemp("store") / FILE
    store = open_store(path)
    store.create_run("r", EXPERIMENT, 1.0)
    store.commit_round("r", committed(0))
    done, trial, held = 0, 0, set[int]()
    for step in steps:
        if step == "begin" and not trial:
            trial = 1
            store.begin_round("r", done + 1, trial, range(20), FRESH)
        elif step == "retry" and trial:
            trial, held = trial + 1, set()
            store.begin_round("r", done + 1, trial, range(20), FRESH)
        elif step == "accept" and trial and len(held) < 20:
            store.accept_update("r", accepted(done + 1, len(held), trial))
            held.add(len(held))
        elif step == "commit" and held:
            store.commit_round("r", committed(done + 1, trial))
            done, trial, held = done + 1, 0, set()
        elif step == "end":
            store.discard_open_round("r")
            trial, held = 0, set()
        elif step == "reopen":
            store.close()
            store = open_store(path)
        begun = store.open_round("r")
        assert (begun.round, begun.trial) == (done + 1, trial) if begun else trial == 0
        assert store.last_commit("r").round == done  # type: ignore[union-attr]
        if trial:
            assert set(store.updates("r", done + 1, trial)) == held
            assert {client for client, _ in store.wanted("r", Keep()).accepted} == held
    store.close()


# --- durability and threads -------------------------------------------------------------------------------


def test_power_durability_means_synchronous_full(store: Store) -> None:
    def level() -> int:
        return int(store._db.one("PRAGMA synchronous")[0])  # type: ignore[index]

    assert level() == 1
    store.set_durability("power")
    assert level() == 2
    store.set_durability("process")
    assert level() == 1


# --- databases that cannot be used ------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 1000)
    with pytest.raises(
        CorruptStore, match=r"lab.sqlite cannot be used.*put it back from a copy.*runs/RUN/weights"
    ):
        open_store(tmp_path / FILE)


@pytest.mark.parametrize("left", [b"", None])
def test_a_lost_database_is_not_taken_for_a_new_lab_s_where_runs_are(
    tmp_path: Path, left: bytes | None
) -> None:
    RunFiles(tmp_path, "r").prepare()
    if left is not None:
        (tmp_path / FILE).write_bytes(left)
    log = tmp_path / f"{FILE}-wal"
    log.write_bytes(b"what was committed last")
    with pytest.raises(CorruptStore, match=r"lab.sqlite is .*put it back from a copy.*runs/RUN/weights"):
        open_store(tmp_path / FILE)
    assert log.read_bytes() == b"what was committed last"
    assert left is not None or not (tmp_path / FILE).exists()
    log.unlink()
    (tmp_path / "runs").rename(tmp_path / "runs-before")
    assert open_store(tmp_path / FILE).runs() == []


def test_a_database_of_another_version_is_refused_and_left_alone(store: Store, tmp_path: Path) -> None:
    store.close()
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("PRAGMA user_version = 77")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(CorruptStore, match=r"version 77, this aggregator writes version 2.*STATE_DIR"):
        open_store(tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == before


def test_an_experiment_that_is_not_taken_any_more_is_named_with_its_run(store: Store) -> None:
    store._db.write(
        "UPDATE runs SET experiment = replace(experiment, '\"holdout\":0.0', '\"holdout\":0.9')", ()
    )
    for read in (store.runs, lambda: store.run("r")):
        with pytest.raises(CorruptStore, match=r"run r has .*clients\.holdout.*0\.9.*another STATE_DIR"):
            read()


def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("CREATE TABLE theirs (x)")
    with pytest.raises(CorruptStore, match="version 0"):
        open_store(tmp_path / FILE)


def test_a_damaged_page_is_found_when_the_store_is_opened(store: Store, tmp_path: Path) -> None:
    for client in range(2000):
        store.accept_update("r", accepted(1, client))
    store.close()
    path = tmp_path / FILE
    size = path.stat().st_size
    with path.open("r+b") as file:
        for page in range(5, size // 4096, 3):
            file.seek(page * 4096)
            file.write(os.urandom(64))
    with pytest.raises(CorruptStore, match=r"lab\.sqlite"):
        open_store(path)


def test_a_full_disk_changes_nothing_and_the_same_call_succeeds_afterwards(store: Store) -> None:
    """SQLite's own page limit stands in for the disk's end."""
    pages = store._db.one("PRAGMA page_count")[0]  # type: ignore[index]
    store._db.one(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(StorageFull, match=r"no space left for .*lab.sqlite"):
        for client in range(10_000):
            store.accept_update("r", accepted(1, client))
    held = set(store.updates("r", 1, 1))
    store._db.one("PRAGMA max_page_count = 1000000")
    store.accept_update("r", accepted(1, len(held)))
    assert set(store.updates("r", 1, 1)) == held | {len(held)}


def _accept_within_limit(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = open_store(path)
    size = Path(f"{path}-wal").stat().st_size if Path(f"{path}-wal").exists() else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, resource.RLIM_INFINITY))
    try:
        for client in range(10_000):
            store.accept_update("r", accepted(1, client))
    except StorageFull:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        held = set(store.updates("r", 1, 1))
        store.accept_update("r", accepted(1, len(held)))
        os._exit(0 if set(store.updates("r", 1, 1)) == held | {len(held)} else 2)
    os._exit(3)


def test_a_real_write_error_is_storage_full_and_passes(store: Store, tmp_path: Path) -> None:
    """In a process of its own whose files may not grow: the system's error, not ours."""
    store.close()
    process = multiprocessing.get_context("fork").Process(
        target=_accept_within_limit, args=(tmp_path / FILE,)
    )
    process.start()
    process.join(30)
    assert process.exitcode == 0


def test_a_reader_sees_what_a_writer_has_committed_and_cannot_write(store: Store, tmp_path: Path) -> None:
    reader = read_store(tmp_path / FILE)
    store.commit_round("r", committed(0))
    assert reader.last_commit("r").round == 0  # type: ignore[union-attr]
    with pytest.raises(StorageFull, match="readonly"):
        reader.commit_round("r", committed(1))
    store.close()
    assert read_store(tmp_path / FILE).last_commit("r").round == 0  # type: ignore[union-attr]
    with pytest.raises(Unknown, match="STATE_DIR"):
        read_store(tmp_path / "elsewhere" / FILE)
