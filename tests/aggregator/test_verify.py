"""`python -m aggregator.verify`: what holds is said to hold, what was changed is found and named."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from aggregator.store import FILE, open_store
from aggregator.verify import main, verify

from tests.aggregator.on_disk import RUN, DiskRun

STRATEGY = {"objective": {"name": "control-variates"}, "server": {"momentum": 0.9}}


def finished(folder: Path, **experiment: Any) -> DiskRun:
    run = DiskRun(folder, **{"keep": {"updates": "all"}, "strategy": STRATEGY, **experiment})
    run.initialize()
    for number in (1, 2, 3):
        run.run_round(number, (0, 2, 3))
        run.evaluate(number, 0.5)
    return run


@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_a_run_that_kept_everything_is_recomputed_to_the_bit(tmp_path: Path, wire: str) -> None:
    run = finished(tmp_path, wire=wire)
    before = run.everything()
    report = verify(tmp_path, RUN)
    assert report.problems == []
    assert report.folded == [1, 2, 3]
    assert report.head == run.store.last_commit(RUN).entry_hash  # type: ignore[union-attr]
    assert [one.round for one in report.usable] == [0, 1, 2, 3]
    assert report.files == 4 + 2 + 3 + 3 + 9  # weights, messages, server, states, updates
    assert run.everything() == before


@pytest.mark.parametrize(("updates", "folded", "usable"), [("none", [], [2, 3]), ("last:1", [3], [2, 3])])
def test_what_was_not_kept_is_not_missed(
    tmp_path: Path, updates: str, folded: list[int], usable: list[int]
) -> None:
    finished(tmp_path, keep={"updates": updates})
    report = verify(tmp_path, RUN)
    assert report.holds
    assert report.folded == folded
    assert [one.round for one in report.usable][-2:] == usable


def test_the_round_under_way_is_checked_too(tmp_path: Path) -> None:
    run = finished(tmp_path, keep={"updates": "none"})
    run.begin(4, range(4))
    accepted = run.accept(4, 1)
    assert verify(tmp_path, RUN).holds
    run.files.spool.path((4, 1), 1, accepted.digest).unlink()
    assert any(accepted.digest in line and "missing" in line for line in verify(tmp_path, RUN).problems)


def every_file(run: DiskRun) -> list[str]:
    return sorted(name for name in run.everything() if name.endswith(".safetensors"))


def test_one_flipped_bit_in_any_kept_file_is_found_and_the_file_named(tmp_path: Path) -> None:
    run = finished(tmp_path)
    for name in every_file(run):
        path = run.files.folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        report = verify(tmp_path, RUN)
        assert [path.name in line for line in report.problems] == [True], name
        assert "put it back from a copy" in report.problems[0]
        path.write_bytes(whole)
    assert verify(tmp_path, RUN).holds


def test_files_cut_short_are_found_and_older_checkpoints_stay_usable(tmp_path: Path) -> None:
    run = finished(tmp_path)
    last = run.store.last_commit(RUN)
    assert last is not None
    path = run.files.weights(last.weights)
    path.write_bytes(path.read_bytes()[:50])
    report = verify(tmp_path, RUN)
    assert len(report.problems) == 1 and path.name in report.problems[0]
    assert [one.round for one in report.usable] == [0, 1, 2]
    path.unlink()
    report = verify(tmp_path, RUN)
    assert len(report.problems) == 1 and "missing" in report.problems[0]


def tamper(folder: Path, statement: str) -> None:
    with sqlite3.connect(folder / FILE) as db:
        assert db.execute(statement).rowcount == 1


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        (
            """UPDATE commits SET entry = replace(entry, '"round":2', '"round":9') WHERE round = 2""",
            "round 9",
        ),
        (
            """UPDATE commits SET entry = replace(entry, '_examples":10', '_examples":11') WHERE round = 1""",
            "round 2 names",
        ),
        ("UPDATE commits SET entry = '{}' WHERE round = 1", "cannot be read"),
        ("UPDATE commits SET entry = ' ' || entry WHERE round = 3", "canonical"),
        ("UPDATE commits SET trial = 2 WHERE round = 3", "round 3: the store names other"),
        ("UPDATE commits SET entry_hash = 'x' WHERE round = 3", "round 3: its record contradicts"),
        ("DELETE FROM commits WHERE round = 1", "missing or doubled"),
        (
            """UPDATE updates SET account = replace(account, '"num_steps":1', '"num_steps":2')
               WHERE round = 2 AND client = 0""",
            "round 2: the updates kept are not those in the ledger",
        ),
        (
            """UPDATE commits SET entry = replace(entry, '_examples":10', '_examples":11') WHERE round = 3""",
            "round 3: its ledger entry has another hash",
        ),
        (
            """UPDATE commits SET record = json_set(record, '$.participants', json('[0]')) WHERE round = 2""",
            "round 2: its record contradicts",
        ),
        (
            "UPDATE runs SET experiment = json_set(experiment, '$.training.learning_rate', 0.2)",
            "the run's experiment is",
        ),
        (f"UPDATE runs SET initialized = replace(initialized, '{'a' * 64}', '{'c' * 64}')", "task source is"),
        (f"UPDATE runs SET initialized = replace(initialized, '{'b' * 64}', '{'c' * 64}')", "data set is"),
        (
            "UPDATE commits SET accuracy = 0.9, record = json_set(record, '$.accuracy', 0.9) WHERE round = 2",
            "round 2: its evaluations add up to other scores (accuracy 0.5)",
        ),
        (
            "UPDATE commits SET accuracy = 0.9 WHERE round = 0",  # which was not evaluated
            "round 0: its evaluations add up to other scores (accuracy None)",
        ),
    ],
)
def test_a_rewritten_past_shows(tmp_path: Path, statement: str, found: str) -> None:
    finished(tmp_path).store.close()
    tamper(tmp_path, statement)
    problems = verify(tmp_path, RUN).problems
    assert any(found in line for line in problems), problems


def test_a_rewritten_last_entry_shows_against_the_head_that_was_given_out(tmp_path: Path) -> None:
    run = finished(tmp_path)
    head = run.store.last_commit(RUN).entry_hash  # type: ignore[union-attr]
    assert verify(tmp_path, RUN, head=head).holds
    assert any("rewritten" in line for line in verify(tmp_path, RUN, head="f" * 64).problems)


def test_a_run_or_a_folder_that_is_not_there_and_a_database_that_is_none(tmp_path: Path) -> None:
    assert "STATE_DIR" in verify(tmp_path, RUN).problems[0]
    run = DiskRun(tmp_path)
    assert "run other is not known" in verify(tmp_path, "other").problems[0]
    run.store.close()
    (tmp_path / FILE).write_bytes(b"\0" * 5000)
    assert "lab.sqlite" in verify(tmp_path, RUN).problems[0]


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_run_without_a_committed_round_has_nothing_to_verify_and_no_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    DiskRun(tmp_path)
    assert main([RUN, "--state-dir", str(tmp_path), *options]) == 3
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "has no committed round: nothing to verify" in said.err


@pytest.mark.parametrize("known", ["the head", "the first order"])
def test_a_run_whose_commits_were_removed_does_not_hold(tmp_path: Path, known: str) -> None:
    run = finished(tmp_path)
    head = run.store.last_commit(RUN).entry_hash  # type: ignore[union-attr]
    run.store.close()
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("DELETE FROM commits")
        if known == "the first order":
            head = None
            db.execute("UPDATE runs SET first_order = 1.0, state = 'stopped'")
    assert "its weights are not in the store" in verify(tmp_path, RUN, head=head).problems[0]


def test_as_a_command_it_prints_and_exits_as_scripts_expect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path)
    assert main([RUN, "--state-dir", str(tmp_path)]) == 0
    assert "rounds folded again: 1-3" in capsys.readouterr().out
    path = run.files.folder / every_file(run)[0]
    path.write_bytes(b"")
    assert main([RUN, "--state-dir", str(tmp_path), "--json"]) == 1
    body = json.loads(capsys.readouterr().out)
    assert body["holds"] is False
    assert path.name in body["problems"][0]
    assert {"run", "rounds", "head", "files", "folded", "usable", "problems", "holds"} == set(body)


def test_it_runs_as_a_module_beside_an_open_store(tmp_path: Path) -> None:
    run = finished(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "aggregator.verify", RUN, "--state-dir", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folded"] == [1, 2, 3]
    run.run_round(4)  # the store was left usable


def test_an_aggregator_that_goes_on_committing_is_no_problem(tmp_path: Path) -> None:
    finished(tmp_path, keep={"updates": "last:1"}).store.close()
    failed: list[BaseException] = []

    def go_on() -> None:
        try:
            run = DiskRun.__new__(DiskRun)
            run.__dict__.update(other.__dict__)
            run.store = open_store(tmp_path / FILE)
            for number in range(4, 24):
                run.run_round(number, (0, 2, 3))
            run.store.close()
        except BaseException as error:  # noqa: BLE001 -- shown by the test
            failed.append(error)

    other = DiskRun(tmp_path / "template", keep={"updates": "last:1"}, strategy=STRATEGY)
    other.files = type(other.files)(tmp_path, RUN)
    thread = threading.Thread(target=go_on)
    thread.start()
    reports = []
    while thread.is_alive():
        reports.append(verify(tmp_path, RUN))
    thread.join()
    reports.append(verify(tmp_path, RUN))
    assert not failed
    assert [report.problems for report in reports if not report.holds] == []
    assert reports[-1].rounds == 23 and reports[-1].folded == [23]
