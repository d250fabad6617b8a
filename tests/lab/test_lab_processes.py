"""`lab` as its users run it: real processes from the command to the results, and what if one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
from lab import data, results
from lab.commands import run_app
from lab.export import read_weights
from lab.native import Folders, native
from roundtable import experiment as experiments
from roundtable.codec import content_hash
from roundtable.tasks import find

pytestmark = pytest.mark.timeout(600)  # each starts TensorFlow more than once

SMALL = """
name = "small"
task = "digits"
seed = 3
[clients]
count = 4
[training]
learning_rate = 0.3
[rounds]
count = 30
[keep]
updates = "last:2"
"""
PATIENCE = 240.0  # seconds that anything may take: workers importing TensorFlow on a busy machine
LAB = [sys.executable, "-c", "from lab.cli import main; main()"]
NOWHERE = "http://127.0.0.1:9"  # a proxy, as companies export one: nothing of the lab's goes by it
ENVIRONMENT = os.environ | {
    **{"LOST_AFTER": "3", "COLUMNS": "100"},
    **{"http_proxy": NOWHERE, "HTTP_PROXY": NOWHERE, "ALL_PROXY": NOWHERE, "NO_PROXY": "", "no_proxy": ""},
}


@dataclass
class Running:
    """A `lab` command under way, whose lines can be waited for."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line.rstrip("\n"))
                self.news.notify_all()

    def wait_for(self, words: str, seconds: float = PATIENCE) -> None:
        with self.news:
            seen = self.news.wait_for(lambda: any(words in line for line in self.lines), seconds)
        assert seen, f"no {words!r} within {seconds} s in {self.lines}"

    def end(self, seconds: float = PATIENCE) -> str:
        """Wait for its end; all it has written, stderr included."""
        self.process.wait(seconds)
        self.reader.join(10)
        return "\n".join(self.lines)

    reader: threading.Thread = field(default_factory=threading.Thread)


def begin(*arguments: str | Path) -> Running:
    command = [*LAB, *map(str, arguments)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=ENVIRONMENT,
    )
    running = Running(process)
    running.reader = threading.Thread(target=running.read, daemon=True)
    running.reader.start()
    return running


def lab(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [*LAB, *map(str, arguments)]
    env = ENVIRONMENT | environment
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=PATIENCE, check=False)


def children_of(runs: Path) -> list[psutil.Process]:
    """Aggregators and workers that belong to this folder, found by what they were started with."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(runs) in " ".join([*process.cmdline(), process.environ().get("JOIN_TOKEN_FILE", "")]):
                found.append(process)
        except psutil.Error:
            continue
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


@dataclass
class Finished:
    runs: Path
    experiment: Path
    run: str
    body: dict[str, object]

    @property
    def folder(self) -> Path:
        return self.runs / self.run

    @property
    def weights_hash(self) -> str:
        return results.read(self.folder).final.weights_hash


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An undisturbed run."""
    home = tmp_path_factory.mktemp("lab")
    file = home / "small.toml"
    file.write_text(SMALL)
    done = lab("run", file, "--workers", "2", "--runs-dir", home / "runs", "--json")
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    return Finished(home / "runs", file, body["run"], body)


def test_a_picture_is_drawn_without_a_word_where_the_home_folder_cannot_be_written_to(tmp_path: Path) -> None:
    file, home, temporary = tmp_path / "small.toml", tmp_path / "home", tmp_path / "tmp"
    file.write_text(SMALL)
    home.touch()  # no folder: even root cannot write into it
    temporary.mkdir()
    picture = tmp_path / "plot.png"
    done = lab("partition", file, "--plot", picture, "--json", HOME=str(home), TMPDIR=str(temporary))
    assert (done.returncode, done.stderr) == (0, "")
    assert picture.exists()
    assert [path.name for path in temporary.iterdir()] == [f"matplotlib-{os.getuid()}"]


def test_a_run_leaves_a_complete_folder_and_no_process(finished: Finished) -> None:
    assert children_of(finished.runs) == []
    names = {path.name for path in finished.folder.iterdir()}
    assert names == {"experiment.toml", "result.json", "rounds.csv", "report.html", "logs"}
    result = results.read(finished.folder)
    assert finished.body["final"] == json.loads(result.final.model_dump_json())
    assert (finished.runs / "latest").resolve() == finished.folder.resolve()
    assert result.final.rounds == 30
    assert result.final.accuracy is not None
    assert result.final.accuracy > 0.8
    startup = [result.startup.aggregator, result.startup.first_worker, result.startup.first_order]
    assert None not in startup and 0 < startup[0] < startup[1] <= startup[2] < PATIENCE
    assert {worker.node for worker in result.workers} == {"worker-1", "worker-2"}
    assert all(set(record.participants) == {0, 1, 2, 3} for record in result.rounds)
    assert result.environment.packages["tensorflow"]
    assert experiments.load(finished.folder / "experiment.toml") == experiments.load(finished.experiment)
    with closing(sqlite3.connect(finished.runs / ".aggregator" / "lab.sqlite")) as store:
        (entry,) = store.execute("SELECT entry FROM commits WHERE round = 0").fetchone()
    assert data.are_of(result.experiment, Folders(), json.loads(entry))


def test_the_same_experiment_shows_the_run_that_it_has(finished: Finished) -> None:
    done = lab("run", finished.experiment, "--runs-dir", finished.runs)
    assert done.returncode == 0, done.stderr
    assert finished.run in done.stdout
    assert "--again starts anew" in done.stdout
    assert "watch it at http://127.0.0.1:" in done.stdout
    listed = json.loads(lab("runs", "--runs-dir", finished.runs, "--json").stdout)
    assert [view["id"] for view in listed] == [finished.run]


def test_verify_holds_and_notices_a_changed_byte(finished: Finished, tmp_path: Path) -> None:
    done = lab("verify", "latest", "--runs-dir", finished.runs)
    assert done.returncode == 0, done.stdout + done.stderr
    copy = tmp_path / "runs"
    shutil.copytree(finished.runs, copy, symlinks=True)
    spoiled = next((copy / ".aggregator" / "runs" / finished.run / "weights").iterdir())
    body = bytearray(spoiled.read_bytes())
    body[-3] ^= 1
    spoiled.chmod(0o644)
    spoiled.write_bytes(body)
    done = lab("verify", finished.run, "--runs-dir", copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert str(spoiled) in done.stdout  # in one piece
    assert "weights that are whole: " in done.stdout


def test_export_gives_the_weights_of_the_final_hash(finished: Finished, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    done = lab("export", finished.run, target, "--runs-dir", finished.runs)
    assert done.returncode == 0, done.stderr
    weights = read_weights(target.read_bytes())
    assert content_hash({"weights": weights}) == finished.weights_hash


def test_the_exported_keras_model_has_the_run_s_accuracy(finished: Finished, tmp_path: Path) -> None:
    target = tmp_path / "model.keras"
    script = (  # one process does both: TensorFlow takes seconds to import
        "import sys; from lab.commands import run_app;"
        "assert run_app(['export', 'latest', *sys.argv[1:]]) == 0;"
        "import keras, numpy as np; from pathlib import Path; from roundtable.tasks import find;"
        "data = find('digits', {}, Path('tasks')).task.load(Path('datasets'));"
        "model = keras.models.load_model(sys.argv[1]);"
        "print(float(np.mean(model.predict(data.x_test, verbose=0).argmax(-1) == data.y_test)))"
    )
    command = [sys.executable, "-c", script, str(target), "--runs-dir", str(finished.runs)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert told.returncode == 0, told.stderr
    accuracy = results.read(finished.folder).final.accuracy
    assert float(told.stdout.split()[-1]) == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.slow
def test_a_replay_ends_with_the_same_weights(finished: Finished) -> None:
    done = lab("replay", finished.run, "--workers", "1", "--runs-dir", finished.runs, "--no-live")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the same weights as {finished.run}" in done.stdout


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_even_of_frozen_workers_and_resume_ends_with_the_same_weights(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, experiment = tmp_path / "runs", tmp_path / "impatient.toml"
    experiment.write_text(SMALL.replace("count = 30", "count = 30\nwait_for_workers = 0.5"))
    running = begin("run", experiment, "--workers", "2", "--runs-dir", runs)
    running.wait_for("TensorFlow is being imported")
    workers = [one(runs, "worker-1"), one(runs, "worker-2")]
    running.wait_for("4 in")  # the first round's line
    for worker in workers:
        worker.suspend()  # SIGTERM will not reach it

    assert run_app(["status", "--runs-dir", str(runs)]) == 0
    assert "worker-2" in capsys.readouterr().out
    assert run_app(["run", str(experiment), "--runs-dir", str(runs)]) == 2
    assert capsys.readouterr().err.startswith("lab: another lab is using")

    before = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    said = running.end(10)
    assert time.monotonic() - before < 3
    assert children_of(runs) == []
    assert running.process.returncode == 130
    assert "Traceback" not in said and "stopping" not in said

    listed = json.loads(lab("runs", "--runs-dir", runs, "--json").stdout)
    assert f"lab resume {listed[0]['id']}" in said
    assert 0 < listed[0]["round"] < 30
    done = lab("resume", "latest", "--workers", "1", "--runs-dir", runs, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["final"]["weights_hash"] == finished.weights_hash
    logs = runs / "latest" / "logs"  # of these processes alone, though worker-2 had one, and worker-1 another
    assert {path.name for path in logs.iterdir()} == {"aggregator.log", "worker-1.log"}
    assert (logs / "worker-1.log").read_text().count('"event": "joined"') == 1


@pytest.mark.parametrize("after", ["starting the aggregator", "TensorFlow is being imported"])
def test_ctrl_c_while_starting_leaves_nothing(finished: Finished, tmp_path: Path, after: str) -> None:
    runs = tmp_path / "runs"
    running = begin("run", finished.experiment, "--workers", "2", "--runs-dir", runs)
    running.wait_for(after)
    before = time.monotonic()
    running.process.send_signal(signal.SIGINT)
    said = running.end(10)
    assert time.monotonic() - before < 3
    assert running.process.returncode == 130
    assert "Traceback" not in said
    assert children_of(runs) == []


@pytest.mark.slow
def test_a_run_whose_reader_leaves_stops_and_says_how_to_go_on(finished: Finished, tmp_path: Path) -> None:
    command = [*LAB, "run", finished.experiment, "--runs-dir", tmp_path / "runs"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(list(map(str, command)), stdout=pipe, stderr=pipe, text=True, env=ENVIRONMENT)
    assert process.stdout is not None and process.stderr is not None
    while "watch it at" not in process.stdout.readline():
        pass
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(PATIENCE) == 130
    assert "lab resume" in said and "Traceback" not in said
    assert children_of(tmp_path / "runs") == []


@pytest.mark.slow
def test_children_go_when_lab_is_killed(finished: Finished, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    running = begin("run", finished.experiment, "--workers", "1", "--runs-dir", runs)
    running.wait_for("TensorFlow is being imported")
    left = children_of(runs)
    running.process.kill()
    running.end()
    _, alive = psutil.wait_procs(
        [process for process in left if process.pid != running.process.pid], timeout=10
    )
    assert alive == []


@pytest.mark.slow
def test_a_worker_that_dies_is_shown_and_the_run_goes_on(finished: Finished, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    running = begin("run", finished.experiment, "--workers", "2", "--runs-dir", runs)
    running.wait_for("TensorFlow is being imported")
    worker = one(runs, "worker-2")
    running.wait_for("4 in")
    worker.kill()
    said = running.end()
    assert running.process.returncode == 0, said
    assert "! worker-2 was killed by signal 9 (log: " in said
    assert results.read(runs / "latest").final.weights_hash == finished.weights_hash


@pytest.mark.slow
def test_when_every_worker_has_died_the_command_ends_with_one_line(
    finished: Finished, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    running = begin("run", finished.experiment, "--workers", "1", "--runs-dir", runs)
    running.wait_for("TensorFlow is being imported")
    one(runs, "worker-1").kill()
    said = running.end(20)
    assert running.process.returncode == 1, said
    assert "lab: every worker has died" in said
    assert "lab resume" in said


def test_when_the_aggregator_dies_the_command_ends_with_one_line(finished: Finished, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    running = begin("run", finished.experiment, "--workers", "1", "--runs-dir", runs)
    running.wait_for("TensorFlow is being imported")
    next(child for child in children_of(runs) if "aggregator" in child.cmdline()).kill()
    said = running.end(20)
    assert running.process.returncode == 3, said
    assert "lab: the aggregator was killed by signal 9 (log: " in said
    assert children_of(runs) == []


def one(runs: Path, node: str) -> psutil.Process:
    return next(child for child in children_of(runs) if child.environ().get("NODE_NAME") == node)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An aggregator without workers, as if on another machine: its address and its admin token's file."""
    with native(Folders(runs=tmp_path / "elsewhere")) as up:
        yield up.url, tmp_path / "elsewhere" / ".aggregator" / "tokens" / "admin"


def test_a_wrong_missing_or_malformed_token_is_one_line(
    elsewhere: tuple[str, Path], finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, _ = elsewhere
    wrong, empty = tmp_path / "wrong", tmp_path / "empty"
    wrong.write_text("not-the-token-of-this-aggregator\n")
    empty.write_text("\n")
    for options, words in (
        (["--admin-token-file", str(wrong)], "not the aggregator's admin token"),
        (["--admin-token-file", str(empty)], "holds no token"),
        (["--admin-token-file", str(tmp_path / "nowhere")], "No such file"),
        ([], "--admin-token-file"),
    ):
        arguments = ["run", str(finished.experiment), "--url", url, "--runs-dir", str(tmp_path / "runs")]
        assert run_app([*arguments, *options]) == 2
        err = capsys.readouterr().err
        assert err.startswith("lab: ")
        assert err.count("\n") == 1
        assert words in err


def test_watching_a_lab_elsewhere_can_stop_while_the_run_goes_on(
    elsewhere: tuple[str, Path], finished: Finished, tmp_path: Path
) -> None:
    url, token = elsewhere
    running = begin(
        "run", finished.experiment, "--url", url, "--admin-token-file", token, "--runs-dir", tmp_path / "runs"
    )
    running.wait_for("worker")  # what it waits for
    running.process.send_signal(signal.SIGINT)
    said = running.end(10)
    assert running.process.returncode == 130
    assert "goes on there" in said
    listed = json.loads(lab("runs", "--url", url, "--json").stdout)
    assert [view["state"] for view in listed] == ["waiting"]
    stopped = lab("stop", listed[0]["id"][:12], "--url", url, "--admin-token-file", token)
    assert stopped.returncode == 0, stopped.stderr
    assert json.loads(lab("runs", "--url", url, "--json").stdout)[0]["state"] == "stopped"


def test_nodes_that_bring_their_own_data_train_on_it_and_on_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "pinned.toml"
    text = SMALL.replace("count = 30", "count = 2").replace("count = 4", "count = 2")
    file.write_text(text + '[partition]\nkind = "pinned"\n')
    data = find("digits", {}, Path("tasks")).task.load(Path("datasets"))
    for number, name in enumerate(("north", "south")):
        rows = slice(number * 100, number * 100 + 100 + number)
        (tmp_path / "nodes" / name).mkdir(parents=True)
        np.savez(tmp_path / "nodes" / name / "data.npz", x=data.x_train[rows], y=data.y_train[rows])
    runs = tmp_path / "runs"
    done = lab("run", file, "--nodes-dir", tmp_path / "nodes", "--runs-dir", runs, "--json")
    assert done.returncode == 0, done.stderr
    result = results.read(runs / "latest")
    assert {worker.node for worker in result.workers} == {"north", "south"}
    assert [record.num_examples for record in result.rounds] == [201, 201]
    assert "--nodes-dir" in result.command


def test_pinned_data_without_nodes_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pinned.toml"
    file.write_text('name = "p"\ntask = "digits"\n[clients]\ncount = 3\n[partition]\nkind = "pinned"\n')
    (tmp_path / "nodes" / "one").mkdir(parents=True)
    for options, words in (
        ([], "give --nodes-dir"),
        (["--nodes-dir", str(tmp_path / "nodes")], "clients.count = 3, but --nodes-dir has 1 nodes"),
        (["--nodes-dir", str(tmp_path / "nodes" / "one")], "has no folders"),
    ):
        assert run_app(["run", str(file), "--json", "--runs-dir", str(tmp_path / "runs"), *options]) == 2
        assert words in capsys.readouterr().err
    plain = tmp_path / "plain.toml"
    plain.write_text('name = "p"\ntask = "digits"\n[clients]\ncount = 1\n')
    options = ["--nodes-dir", str(tmp_path / "nodes"), "--runs-dir", str(tmp_path / "runs")]
    assert run_app(["run", str(plain), "--json", *options]) == 2
    assert "partition.kind = iid: --nodes-dir is for pinned data" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
