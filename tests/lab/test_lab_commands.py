"""Whatever a user gets wrong ends in one line and an exit code; what needs no lab works without one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from lab import stdout, verification
from lab.api import Api
from lab.commands import run_app
from lab.exits import Exit, exit_of
from lab.live import Plain
from lab.native import Folders, native
from lab.place import Place
from lab.running import _conduct
from lab.session import Outcome, Session
from lab.stdout import Stdout
from rich.console import Console
from roundtable import experiment as experiments
from roundtable.errors import (
    CorruptStore,
    InvalidExperiment,
    NotPossible,
    RoundtableError,
    RunFailed,
    Unauthorized,
    Unknown,
    Unreachable,
)
from roundtable.messages import CreateRun, RunDetail

from tests.lab.studies import tiny

ROOT = Path(__file__).parents[2]
GOOD = 'name = "good"\ntask = "digits"\n[clients]\ncount = 4\n'


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """The exit code and the line; it must be one, and nothing on stdout."""
    code = run_app([str(argument) for argument in arguments])
    told = capsys.readouterr()
    assert told.err.startswith("lab: ")
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err
    assert told.out == ""
    return code, told.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "x"\ntask = ', "is not TOML"),
        ('task = "mnist"\n', "name: found nothing"),
        (GOOD + "colour = 3\n", "clients.colour: found an unknown field"),
        (GOOD + "fraction = 1.5\n", "clients.fraction: found 1.5"),
        (GOOD + "[rounds]\nquorum = 0.5\n", "rounds.quorum: found 0.5"),
        (GOOD.replace("digits", "nonesuch"), "no such task"),
        (GOOD.replace("digits", "mine:Task"), "cannot read"),
        (GOOD.replace("count = 4", "count = 100000"), "100000"),
    ],
)
def test_a_faulty_experiment_is_one_line_and_starts_nothing(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "faulty.toml"
    file.write_text(text)
    for command in (["check", file], ["run", file, "--json", "--runs-dir", tmp_path / "runs"]):
        code, line = refused(capsys, *command)
        assert code == Exit.BAD_INPUT
        assert words in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "Missing argument 'EXPERIMENT'"),
        (["run", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["check", "."], "cannot be read"),
        (["study", "run", "nowhere.toml"], "lab: nowhere.toml: cannot be read"),
        (["partition", "{good}", "--plot", "{home}/no/x.png"], "/no/x.png: No such file or directory"),
        (["study", "run", "nowhere.toml", "--minutes", "-3"], "--minutes -3: some time above 0 is needed"),
        (["study", "run", "nowhere.toml", "--minutes", "nan"], "--minutes nan: some time above 0 is needed"),
        (
            ["study", "check", "{good}"],
            "good.toml: is an experiment, not a study: `.venv/bin/lab run` takes it",
        ),
        (
            ["check", "studies/quick.toml"],
            "quick.toml: is a study, not an experiment: `.venv/bin/lab study run`",
        ),
        (
            ["run", "studies/nodes.toml"],
            "nodes.toml: is a study, not an experiment: `.venv/bin/lab study run`",
        ),
        (["node", "add", "pi-1", "--board", "pc"], "Invalid value for '--board': 'pc' is not one of"),
        (["fly"], "No such command 'fly'"),
        (["run", "x.toml", "--wrokers", "3"], "--wrokers"),
        (["run", "{good}", "--workers", "0"], "--workers 0: at least one is needed"),
        (["run", "{good}", "--port", "70000"], "--port"),
        (["run", "{good}", "--url", "nonsense"], "is not an address"),
        (["run", "{good}", "--url", "http://h:1", "--workers", "2"], "--workers: is for processes of this"),
        (["resume", "r", "--url", "http://h:1", "--nodes-dir", "n"], "--nodes-dir: is for processes of this"),
        (["replay", "r", "--url", "http://h:1", "--port", "80"], "--port: is for processes of this machine"),
        (["runs", "--runs-dir", "{home}/none"], "there are no runs"),
        (["status", "--url", "ftp://x"], "is not an address"),
        (["export", "latest", "model.h5"], "must end in .safetensors or .keras"),
        (["export", "latest", "{home}/no/model.keras"], "there is no folder"),
        (["partition", "{good}", "--plot", "{home}/plot.xyz"], "must end in .png, .svg or .pdf"),
        (["partition", "{good}", "--plot", "{home}/plot"], "must end in .png, .svg or .pdf"),
        (["partition", "{good}", "--plot", "."], "must end in .png, .svg or .pdf"),
        (["report", "nothing", "--runs-dir", "{home}/none"], "there are no runs"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_line(
    arguments: list[str], words: str, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.format(good=good, home=good.parent) for argument in arguments]
    code, line = refused(capsys, *filled)
    assert code == Exit.BAD_INPUT
    assert words in line


def test_missing_and_corrupt_data_are_found_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.toml"
    file.write_text('name = "m"\ntask = "mnist"\n')
    arguments = ["run", file, "--json", "--datasets-dir", tmp_path, "--runs-dir", tmp_path / "runs"]
    code, line = refused(capsys, *arguments)
    assert (code, "mnist.npz: there is no such file" in line) == (Exit.BAD_INPUT, True)
    (tmp_path / "mnist.npz").write_bytes((ROOT / "datasets" / "mnist.npz").read_bytes()[:50_000])
    code, line = refused(capsys, *arguments)
    assert (code, "corrupt or truncated" in line) == (Exit.BAD_INPUT, True)
    assert not (tmp_path / "runs").exists()


def test_a_port_in_use_is_one_line(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        arguments = ["run", good, "--json", "--port", str(port), "--runs-dir", tmp_path / "runs"]
        code, line = refused(capsys, *arguments)
    assert code == Exit.BAD_INPUT
    assert f"--port {port}: address already in use" in line


def test_an_address_where_nobody_answers_is_one_line(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    for arguments in (
        ["run", good, "--json", "--url", url, "--runs-dir", tmp_path / "runs"],
        ["status", "--url", url],
        ["runs", "--url", url],
        ["verify", "x", "--url", url],
    ):
        code, line = refused(capsys, *arguments)
        assert code == Exit.UNREACHABLE
        assert f"no aggregator answers at {url}" in line
    assert run_app(["run", str(good), "--url", url, "--runs-dir", str(tmp_path / "runs")]) == Exit.UNREACHABLE
    assert "watch it" not in capsys.readouterr().out


def test_status_without_a_lab_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = refused(capsys, "status", "--runs-dir", tmp_path)
    assert code == Exit.UNREACHABLE
    assert "no lab is up" in line


def test_a_runs_folder_that_cannot_be_made_is_one_line(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code, line = refused(capsys, "run", good, "--json", "--runs-dir", tmp_path / "file" / "runs")
    assert code == Exit.BAD_INPUT
    assert "choose another folder with --runs-dir" in line


def test_check_tells_sizes_as_json(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["check", str(good), "--json"]) == Exit.DONE
    body = json.loads(capsys.readouterr().out)
    assert (body["cohort"], len(body["sizes"])) == (4, 4)
    assert max(body["sizes"]) - min(body["sizes"]) <= 1


@pytest.mark.parametrize(
    ("folded", "words"),
    [
        ([], "  no round folded again: that takes updates that are kept (keep.updates)"),
        ([3], "  1 round folded again from kept updates, to the same bits"),
    ],
)
def test_verify_does_not_call_a_round_folded_again_that_was_not(
    monkeypatch: pytest.MonkeyPatch, folded: list[int], words: str
) -> None:
    found = {"run": "r", "rounds": 3, "head": None, "files": 2, "folded": folded, "problems": []}
    done = subprocess.CompletedProcess([], 0, json.dumps(found | {"holds": True}), "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert words in verification.of_files("r", Folders()).lines


def test_a_check_that_takes_too_long_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("verify", 1)

    monkeypatch.setattr(subprocess, "run", slow)
    with pytest.raises(RoundtableError, match="r cannot be verified within 3600 s"):
        verification.of_files("r", Folders())


def test_a_study_trusts_the_authority_of_a_lab_elsewhere_that_it_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = tmp_path / "ca.pem"
    command = ["study", "run", tiny(tmp_path), "--out", tmp_path, "--url", "https://127.0.0.1:1", "--ca", ca]
    assert run_app([str(argument) for argument in command]) == Exit.BAD_INPUT
    assert f"lab: --ca {ca}: No such file or directory" in capsys.readouterr().err


def test_check_says_no_span_where_all_clients_have_as_much(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["check", str(good)]) == Exit.DONE
    told = capsys.readouterr().out
    assert "  all 4 clients take part in a round, 359 to 360 training examples each\n" in told
    alike = tmp_path / "alike.toml"
    alike.write_text(GOOD.replace("count = 4", "count = 2\nfraction = 0.5"))
    assert run_app(["check", str(alike)]) == Exit.DONE
    assert "  1 of 2 clients take part in a round, 719 training examples each\n" in capsys.readouterr().out
    assert run_app(["partition", str(alike)]) == Exit.DONE
    assert "2 clients of 719 examples" in capsys.readouterr().out


def test_examples_that_are_held_out_are_not_called_training_examples(
    good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good.write_text(GOOD.replace("count = 4", "count = 2\nholdout = 0.5"))
    assert run_app(["check", str(good)]) == Exit.DONE
    told = capsys.readouterr().out
    assert "  all 2 clients take part in a round, 360 training examples each, besides 359 held out\n" in told


@pytest.mark.parametrize("command", ["check", "partition"])
def test_data_that_do_not_suffice_are_told_with_the_files_name(
    command: str, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good.write_text(GOOD + '[partition]\nkind = "shards"\nshards_per_client = 2000\n')
    code, line = refused(capsys, command, good)
    assert (code, line.startswith(f"lab: {good}: partition.shards_per_client: found 2000 for 4")) == (2, True)


def test_what_the_terminal_has_no_letters_for_is_no_traceback(good: Path) -> None:
    script = "import sys; from lab.cli import main; sys.argv = ['lab', 'check', sys.argv[1]]; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, str(good)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b" ? 4 clients" in done.stdout


@pytest.mark.parametrize(
    ("where", "code", "told"),
    [(">/dev/full", 1, "lab: output cannot be written: No space left on device\n"), (">&-", 0, "")],
)
def test_output_that_cannot_be_written_is_no_traceback(where: str, code: int, told: str) -> None:
    script = "from lab.cli import main; main()"
    command = ["sh", "-c", f'exec "$@" {where}', "sh", sys.executable, "-c", script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, told)


def test_a_reader_that_leaves_changes_nothing_but_for_what_only_works_to_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    pipe = Stdout(os.fdopen(writer, "wb"), "utf-8", line_buffering=True)
    monkeypatch.setattr(sys, "stdout", pipe)
    print("a line")
    assert isinstance(pipe.fault, BrokenPipeError) and stdout.fault() is None
    plain = Plain(Console())
    with pytest.raises(KeyboardInterrupt):
        plain.say("round 1")
    session = Session(Place(Folders()), plain, 0.0, run="r1")

    def followed() -> Outcome:
        plain.say("round 2")
        raise AssertionError("nobody reads it")

    assert _conduct(session, followed, False) == Exit.INTERRUPTED
    assert "lab resume r1" in capsys.readouterr().err


def test_what_is_printed_is_what_a_user_gave_and_no_markup_and_no_figure_is_cut_short(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    plot = good.parent / "a [bold]plot[x].svg"
    assert run_app(["partition", str(good), "--plot", str(plot)]) == Exit.DONE
    told = capsys.readouterr().out
    assert f"drawn: {plot}\n" in told
    assert "…" not in told and " 1438" in told


def test_partition_counts_every_example_once_and_draws(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "plot.png"
    assert run_app(["partition", str(good), "--plot", str(plot), "--json"]) == Exit.DONE
    body = json.loads(capsys.readouterr().out)
    assert [len(row) for row in body["counts"]] == [10] * 4
    run_app(["check", str(good), "--json"])
    sizes = json.loads(capsys.readouterr().out)["sizes"]
    assert [sum(row) for row in body["counts"]] == sizes
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_many_clients_are_drawn_as_a_heat_map(tmp_path: Path) -> None:
    file = tmp_path / "many.toml"
    file.write_text(GOOD.replace("count = 4", "count = 60"))
    plot = tmp_path / "plot.svg"
    assert run_app(["partition", str(file), "--plot", str(plot), "--json"]) == Exit.DONE
    assert "<svg" in plot.read_text()


def test_report_refuses_a_result_of_another_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r1"
    folder.mkdir()
    (folder / "result.json").write_text('{"schema_version": 7}')
    code, line = refused(capsys, "report", "r1", "--runs-dir", tmp_path)
    assert (code, "is not a result of this version" in line) == (Exit.BAD_INPUT, True)
    assert not (folder / "report.html").exists()


def test_a_replay_of_a_run_without_a_round_is_one_line_and_starts_nothing(
    detail: RunDetail, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = detail.model_copy(update={"state": "failed", "round": 0, "history": ()})
    body = failed.model_dump(mode="json")
    ledger = [{"round": 0, "participants": []}]
    bodies = {"/v1/runs": [body], f"/v1/runs/{failed.id}": body, f"/v1/runs/{failed.id}/ledger": ledger}
    answers = httpx.MockTransport(lambda request: httpx.Response(200, json=bodies[request.url.path]))
    monkeypatch.setattr(Place, "remote", lambda _: Api("http://elsewhere", transport=answers))
    code, line = refused(capsys, "replay", failed.id, "--url", "http://elsewhere")
    assert (code, line) == (
        Exit.BAD_INPUT,
        f"lab: run {failed.id} (failed) has no committed round: nothing to replay\n",
    )


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_run_stopped_before_its_first_weights_is_not_said_to_fail_its_check(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    with native(Folders(tmp_path)) as lab, lab.api() as api:
        run = api.create(CreateRun(experiment=experiments.load(good)))[0].id
        api.stop(run)
        for where in (["--runs-dir", tmp_path], ["--url", lab.url]):
            assert refused(capsys, "verify", run, *where, *options) == (
                Exit.BAD_INPUT,
                f"lab: run {run} (stopped) has no committed round: nothing to verify\n",
            )


def test_an_interrupt_amid_the_imports_is_quiet() -> None:
    """Pydantic tells a KeyboardInterrupt while it builds a schema as a SchemaError."""
    script = """if True:
        import signal, sys, time
        class Pydantic:
            def find_spec(self, name, path=None, target=None):
                if name == "lab.commands":
                    try:
                        signal.raise_signal(signal.SIGINT)
                        time.sleep(10)
                    except KeyboardInterrupt:
                        raise RuntimeError("schema")
        sys.meta_path.insert(0, Pydantic())
        from lab.cli import main
        main()
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.INTERRUPTED, "", "")


def test_help_names_the_exit_codes_and_every_command_has_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["--help"]) == Exit.DONE
    page = " ".join(capsys.readouterr().out.split())
    for words in ("0 done", "1 run or verification failed", "2 bad input", "3 unreachable"):
        assert words in page
    commands = "run resume replay check partition status runs stop verify export report"
    for command in commands.split(" "):
        assert command in page
        assert run_app([command, "--help"]) == Exit.DONE
        assert len(capsys.readouterr().out) > 200


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidExperiment("x"), 2),
        (Unauthorized("x"), 2),
        (Unknown("x"), 2),
        (NotPossible("x"), 2),
        (Unreachable("x"), 3),
        (RunFailed("x"), 1),
        (CorruptStore("x"), 1),
    ],
)
def test_exit_codes(error: Exception, code: int) -> None:
    assert exit_of(error) == code  # type: ignore[arg-type]


def test_what_needs_no_training_does_not_import_tensorflow(good: Path) -> None:
    script = (
        "import sys; from lab.commands import run_app; code = run_app(['check', sys.argv[1]]);"
        "assert code == 0; assert not {'tensorflow', 'keras', 'matplotlib'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", script, str(good)], check=True, timeout=60, capture_output=True)
