"""What a run leaves behind in `runs/RUN/`; docs/results.md documents every field for its readers.

    experiment.toml   the experiment as it was run, every default written out
    result.json       `Result`, below
    rounds.csv        the same rounds, one a line, for a spreadsheet
    report.html       one self-contained page (report.py)
    predictions.png   what the model makes of test examples, for tasks with pictures to show (predictions.py)
    logs/             what the processes said (native mode)

Everything is written into a folder beside it first and then renamed: a folder with a run's name is complete.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError
from roundtable.errors import InvalidInput, InvalidSetting
from roundtable.experiment import Experiment
from roundtable.messages import ENDED, RoundRecord, RunDetail, RunView, WorkerView
from roundtable.types import Digest, RunId, Seconds, WorkerId

from lab.machine import Environment

PREDICTIONS = "predictions.png"


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Final(Value):
    """The run in a few figures."""

    rounds: int  # committed
    accuracy: float | None  # on the test set, of the final weights
    loss: float | None
    metrics: dict[str, float]
    best_accuracy: float | None
    best_round: int | None
    seconds: Seconds  # from the first train order to the last commit, by the wall clock
    round_seconds: Seconds  # the rounds' own, summed: without the pause where a run was interrupted
    virtual_seconds: Seconds | None = None  # virtual clock: what the rounds would have taken, summed
    late: int = 0  # updates that deadline or over-sampling cut, all rounds
    dropped: int = 0  # updates that got lost, all rounds
    bytes_up: int  # updates, all workers
    bytes_down: int  # weights and states, all workers
    weights_hash: Digest


class Startup(Value):
    """Seconds since `lab` itself was started; `first_order` is empty when the run had begun before."""

    aggregator: Seconds | None = None  # answers
    first_worker: Seconds | None = None  # has joined
    first_order: Seconds | None = None  # of training


class Worker(Value):
    """One that took part, or was there at the end."""

    id: WorkerId
    node: str
    host: str
    arch: str
    cpus: int
    accelerator: str | None


class Spread(Value):
    """How the training examples lie over clients and labels: `counts[client][label]`."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Result(Value):
    schema_version: Literal[1] = 1
    run: RunId
    name: str
    state: str  # finished, stopped or failed; another one where it had not ended when this was written
    reason: str | None
    experiment: Experiment
    experiment_hash: Digest
    final: Final
    rounds: tuple[RoundRecord, ...]
    startup: Startup
    environment: Environment
    aggregator_environment: dict[str, str]
    workers: tuple[Worker, ...]
    partition: Spread | None  # nothing where the data is not on this machine, or the table would be too large
    ledger_head: Digest | None
    command: str  # repeats the run
    replay_of: RunId | None = None
    clock: Literal["real", "virtual"] = "real"  # which seconds decided who was late
    data: str = ""  # what the task says of its data set; synthetic ones say so here


def result_of(
    detail: RunDetail,
    *,
    environment: Environment,
    startup: Startup,
    workers: tuple[WorkerView, ...],
    partition: Spread | None,
    command: str,
    replay_of: RunId | None = None,
    data: str = "",
) -> Result:
    """Raises InvalidInput for a run without a committed round: there is nothing to tell yet."""
    rounds = tuple(record for record in detail.history if record.round > 0)
    if not rounds:
        why = f": {detail.reason}" if detail.reason else ""
        raise InvalidInput(f"run {detail.id} is {detail.state} and has no committed round{why}")
    last, first_order = rounds[-1], detail.first_order or rounds[0].started
    round_seconds = sum(record.seconds for record in rounds)
    virtual = [record.virtual_seconds for record in rounds if record.virtual_seconds is not None]
    scored = [record for record in rounds if record.accuracy is not None]
    best = max(scored, key=lambda record: record.accuracy or 0.0, default=None)
    final = Final(
        rounds=last.round,
        accuracy=last.accuracy,
        loss=last.loss,
        metrics=last.metrics,
        best_accuracy=best.accuracy if best else None,
        best_round=best.round if best else None,
        seconds=max(last.committed - first_order, round_seconds),  # that clock may have been set back
        round_seconds=round_seconds,
        virtual_seconds=sum(virtual) if virtual else None,
        late=sum(record.late for record in rounds),
        dropped=sum(record.dropped for record in rounds),
        bytes_up=sum(record.bytes_up for record in rounds),
        bytes_down=sum(record.bytes_down for record in rounds),
        weights_hash=last.weights_hash,
    )
    return Result(
        run=detail.id,
        name=detail.name,
        state=detail.state,
        reason=detail.reason,
        experiment=detail.experiment,
        experiment_hash=detail.experiment_hash,
        final=final,
        rounds=rounds,
        startup=startup,
        environment=environment,
        aggregator_environment=detail.environment,
        workers=_took_part(rounds, workers),
        partition=partition,
        ledger_head=detail.head,
        command=command,
        replay_of=replay_of,
        data=data,
        clock="virtual" if virtual else "real",
    )


def _took_part(rounds: tuple[RoundRecord, ...], workers: tuple[WorkerView, ...]) -> tuple[Worker, ...]:
    active = {worker for record in rounds for worker in record.workers}
    return tuple(
        Worker(
            id=view.id,
            node=view.node,
            host=view.host,
            arch=view.arch,
            cpus=view.cpus,
            accelerator=view.accelerator,
        )
        for view in workers
        if view.id in active or view.state == "present"
    )


def write(
    runs: Path,
    result: Result,
    report: Callable[[Result], str],
    logs: Mapping[str, bytes] | None = None,
    predictions: bytes | None = None,
    options: str = "",
) -> Path:
    """The run's folder, complete or not at all; `runs/latest` points to it when the run has finished.

    `logs`: by file name what processes said; without, those that are there stay.
    `options`: of a suggested `lab report`.
    """
    folder = runs / result.run
    draft = runs / f".{result.run}.{os.getpid()}"
    aside = runs / f".{result.run}.{os.getpid()}.old"
    try:
        draft.mkdir(parents=True)
        (draft / "experiment.toml").write_text(experiment_toml(result.experiment), encoding="utf-8")
        (draft / "result.json").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (draft / "rounds.csv").write_text(rounds_csv(result.rounds), encoding="utf-8")
        (draft / "report.html").write_text(report(result), encoding="utf-8")
        if predictions is not None:
            (draft / PREDICTIONS).write_bytes(predictions)
        if logs is None and (folder / "logs").is_dir():
            shutil.copytree(folder / "logs", draft / "logs")
        elif logs is not None:
            (draft / "logs").mkdir()
            for name, said in logs.items():
                (draft / "logs" / name).write_bytes(said)
        if folder.exists():
            folder.rename(aside)
        draft.rename(folder)
    except OSError as error:
        raise InvalidSetting(
            f"{folder}: cannot be written ({error.strerror}); `lab report {result.run}{options}` tries again"
        ) from None
    finally:
        if aside.exists() and not folder.exists():  # cut off between the two renames
            aside.rename(folder)
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
    if result.state == "finished":
        _point(runs / "latest", result.run)
    return folder


def predictions_of(folder: Path) -> bytes | None:
    """The picture of predictions that was drawn when the run ended."""
    path = folder / PREDICTIONS
    return path.read_bytes() if path.exists() else None


def read(folder: Path) -> Result:
    """Raises InvalidInput, one line."""
    path = folder / "result.json"
    try:
        return Result.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInput(
            f"{path}: is not a result of this version ({where + ': ' if where else ''}{first['msg']}): "
            f"remove it, then `lab report {folder.name}` writes it anew"
        ) from None


def current(folder: Path, view: RunView) -> Result | None:
    """The results that are there, where they are the run's last ones; nothing where it has gone on since, or
    there are none. Raises InvalidInput.

    A finished run never goes on, and its head in result.json shows a ledger that was rewritten: it stays.
    """
    if not (folder / "result.json").exists():
        return None
    result = read(folder)
    told = (result.state, result.ledger_head)
    last = result.state == "finished" or (view.state in ENDED and told == (view.state, view.head))
    return result if last else None


def experiment_toml(experiment: Experiment) -> str:
    return tomli_w.dumps(experiment.model_dump(mode="json", exclude_none=True))


def rounds_csv(rounds: tuple[RoundRecord, ...]) -> str:
    """One line a round; phases and metrics in columns of their own, empty where a round has none."""
    phases = sorted({name for record in rounds for name in record.phases})
    metrics = sorted({name for record in rounds for name in record.metrics} - {"accuracy", "loss"})
    columns = [
        "round",
        "attempt",
        "accuracy",
        "loss",
        "train_loss",
        "seconds",
        "bytes_up",
        "bytes_down",
        "num_examples",
    ]
    columns += ["clients", "late", "dropped", "lost", "committed", "virtual_seconds", "weights_hash"]
    columns += [f"seconds_{name}" for name in phases]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns + [f"metric_{name}" if name in columns else name for name in metrics])
    for record in rounds:
        row = [record.round, record.attempt, record.accuracy, record.loss, record.train_loss, record.seconds]
        row += [
            record.bytes_up,
            record.bytes_down,
            record.num_examples,
            len(record.participants),
            record.late,
            record.dropped,
            record.lost,
        ]
        cells = [*row, record.committed, record.virtual_seconds, record.weights_hash]
        cells += [record.phases.get(name) for name in phases] + [record.metrics.get(name) for name in metrics]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


def _point(link: Path, target: str) -> None:
    """A symbolic link that is replaced in one step; where that cannot be, as where a copy of `runs/` has a
    folder there, it is said: the results are there all the same.
    """
    draft = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        draft.symlink_to(target, target_is_directory=True)
        draft.replace(link)
    except OSError as error:
        draft.unlink(missing_ok=True)
        print(
            f"lab: {link}: cannot be made to point to {target} ({error.strerror}): remove it; "
            f"the results are in {link.with_name(target)}/",
            file=sys.stderr,
        )
