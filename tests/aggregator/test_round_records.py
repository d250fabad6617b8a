"""What a committed round is remembered by: accounts, losses, times, evaluations."""

from __future__ import annotations

from pathlib import Path

import pytest
from aggregator import commit
from aggregator.events import Close
from aggregator.rows import EvaluationRow
from roundtable.errors import CorruptStore
from roundtable.ledger import check_chain, read_entry
from roundtable.messages import Evaluated

from tests.aggregator.on_disk import RUN, DiskRun


@pytest.fixture
def run(tmp_path: Path) -> DiskRun:
    run = DiskRun(tmp_path)
    run.initialize()
    return run


def evaluated(run: DiskRun, client: int, shard: int, examples: int, loss: float, right: float) -> None:
    content = Evaluated(num_examples=examples, sums={"loss": loss, "accuracy": right})
    run.store.accept_evaluation(RUN, EvaluationRow(1, client, shard, "w0", 1, content))


def test_a_record_sums_up_its_participants_by_worker(run: DiskRun) -> None:
    run.begin(1, range(4))
    updates = [run.accept(1, client) for client in (3, 0, 2)]
    closing = commit.plan_round(run.store, run.files, run.store.run(RUN), Close(1, 1, (0, 2, 3), (1,), 2))
    outcome = commit.carry_out(run.files, closing)
    times = commit.Times(started=10.0, committed=9.0, clients=2.5, seconds=3.0)  # the clock was set back
    record = commit.commit_round(run.store, closing, outcome, times, bytes_down=77)
    assert (record.participants, record.late, record.lost) == ((0, 2, 3), 1, 2)
    assert record.num_examples == 10 + 30 + 40
    assert record.train_loss == pytest.approx((0.0 * 10 + 1.0 * 30 + 1.5 * 40) / 80)
    assert (record.started, record.committed, record.seconds) == (10.0, 9.0, 3.0)
    assert record.phases == {"clients": 2.5, "aggregate": 0.5}
    assert (record.bytes_up, record.bytes_down) == (sum(update.nbytes for update in updates), 77)
    assert {worker: account.clients for worker, account in record.workers.items()} == {
        "w0": (0, 2),
        "w1": (3,),
    }
    assert run.store.commit_of(RUN, 1).record == record


def test_the_ledger_names_each_participant_and_the_round_before(run: DiskRun) -> None:
    first = run.run_round(1, (2, 0))
    run.run_round(2, (1,))
    entries = [read_entry(row.entry.encode()) for row in run.store.commits(RUN)]
    assert check_chain(entries) == run.store.commits(RUN)[2].entry_hash
    assert entries[2].previous == first.entry_hash
    accepted = run.store.updates(RUN, 1, 1)
    assert [
        (part.client, part.update, part.num_examples, part.num_steps) for part in entries[1].participants
    ] == [(client, accepted[client].digest, 10 * client + 10, client + 1) for client in (0, 2)]
    assert entries[1].weights_hash == first.weights_hash
    assert entries[1].experiment == run.experiment.digest


def test_a_score_adds_shards_and_clients_apart(run: DiskRun) -> None:
    run.run_round(1)
    evaluated(run, -1, 1, 30, 15.0, 27.0)
    evaluated(run, -1, 0, 10, 5.0, 5.0)
    evaluated(run, 2, -1, 4, 8.0, 1.0)
    evaluated(run, 0, -1, 0, 0.0, 0.0)
    record = commit.score(run.store, RUN, 1)
    assert (record.accuracy, record.loss, record.metrics) == (32 / 40, 20 / 40, {})
    assert record.federated == {"loss": 2.0, "accuracy": 0.25}
    assert run.store.commit_of(RUN, 1).record == record


def test_a_task_without_test_examples_has_no_accuracy(run: DiskRun) -> None:
    run.run_round(1)
    evaluated(run, -1, 0, 0, 0.0, 0.0)
    record = commit.score(run.store, RUN, 1)
    assert (record.accuracy, record.loss) == (None, None)
    assert run.store.commit_of(RUN, 1).scored


def test_other_metrics_stand_beside_accuracy_and_loss(run: DiskRun) -> None:
    run.run_round(1)
    content = Evaluated(num_examples=4, sums={"loss": 2.0, "confusion": [2.0, 1.0, 0.0, 1.0]})
    run.store.accept_evaluation(RUN, EvaluationRow(1, -1, 0, "w0", 1, content))
    record = commit.score(run.store, RUN, 1)
    assert record.accuracy == 0.75
    assert record.metrics == pytest.approx({"iou_0": 2 / 3, "iou_1": 0.5, "mean_iou": (2 / 3 + 0.5) / 2})


def test_a_round_is_not_closed_without_all_it_names(run: DiskRun) -> None:
    run.begin(1, [0, 1])
    run.accept(1, 0)
    with pytest.raises(CorruptStore, match="lacks the update of client 1"):
        run.close(1, [0, 1])
    with pytest.raises(CorruptStore, match="the round before is not committed"):
        run.close(2, [0])
