"""What a study leaves behind: one JSON a cell with every repeat's raw figures, and nothing else.

    OUT/KEY/cells/CELL.json     `CellRecord`, below; written beside its place, then renamed
    OUT/KEY/cells.1/ …          what `--fresh` set aside
    OUT/KEY/unfinished.json     `Unfinished`: why the last go at it left something out, where it did

Reports are made of these files alone. A failure is a repeat like any other, with its reason.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from roundtable.errors import InvalidInput, InvalidSetting, NotPossible, StorageFull
from roundtable.experiment import Experiment
from roundtable.messages import RoundRecord
from roundtable.types import Digest, RunId

from lab.machine import Environment
from lab.study.schema import Section
from lab.study.versions import Versions

_UNFINISHED = "unfinished.json"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RoundFigures(BaseModel):
    """One committed round: the aggregator's record, its lists of clients and workers summed up."""

    model_config = ConfigDict(frozen=True, extra="allow")  # what records come to tell later

    round: int
    attempt: int = 1
    accuracy: float | None = None
    loss: float | None = None
    metrics: dict[str, float] = {}
    federated: dict[str, float] = {}
    train_loss: float | None = None
    num_examples: int = 0
    started: float = 0.0
    committed: float = 0.0
    seconds: float = 0.0
    phases: dict[str, float] = {}
    bytes_up: int = 0
    bytes_down: int = 0
    clients: int = 0
    late: int = 0
    dropped: int = 0
    lost: int = 0
    cpu_seconds: float = 0.0  # of the workers
    training_seconds: float = 0.0
    worker_peak_bytes: int = 0

    @property
    def cut(self) -> int:
        """Clients whose updates did not go in: late, or dropped on the way. The `lost` were asked again."""
        return self.late + self.dropped


class Repeat(Value):
    """A cell run once. Where it failed, `reason` says why and the rounds are those it got to."""

    seed: int
    state: Literal["finished", "failed"]
    reason: str | None = None
    run: RunId | None = None
    began: float  # Unix seconds
    ended: float
    rounds: tuple[RoundFigures, ...] = ()
    data_hash: Digest | None = None
    weights_hash: Digest | None = None
    ledger_head: Digest | None = None
    code: dict[str, tuple[Digest, ...]] = {}  # aggregator, worker → what it told of its code
    workers: int = 0
    aggregator_peak_bytes: int | None = None  # anonymous, resident; nothing where it is elsewhere
    joules: float | None = None  # of the machine's processors, or of a board; nothing where neither is told
    grafana: str | None = None  # the window of this repeat

    @model_validator(mode="after")
    def _fits(self) -> Repeat:
        if self.state == "finished" and not self.rounds:
            raise ValueError("rounds: found none of a repeat that finished")
        return self


class CellRecord(Value):
    schema_version: Literal[1] = 1
    section: Section  # the whole study, so that a report needs nothing but these files
    cell: str
    kind: Literal["federated", "centralized"]
    levels: dict[str, str]
    beside: tuple[str, ...]
    experiment: Experiment  # with the first seed
    versions: Versions
    environment: Environment
    aggregator_environment: dict[str, str] = {}
    where: str  # native, or the lab's address
    repeats: tuple[Repeat, ...] = ()

    @property
    def made_of(self) -> Versions:
        """What it depends on, as it is told now: what counts as words only may have become more."""
        return self.versions.model_copy(update={"study": self.section.digest})

    def seeds(self) -> frozenset[int]:
        return frozenset(repeat.seed for repeat in self.repeats)


class Unfinished(Value):
    """Why repeats that the study asks for have not been run."""

    why: str
    at: float  # Unix seconds


def figures(record: RoundRecord) -> RoundFigures:
    accounts = record.workers.values()
    body = record.model_dump(exclude={"participants", "workers", "weights_hash", "entry_hash"})
    return RoundFigures(
        **body,
        clients=len(record.participants),
        cpu_seconds=sum(account.cpu_seconds for account in accounts),
        training_seconds=sum(account.training_seconds for account in accounts),
        worker_peak_bytes=max((account.peak_memory_bytes for account in accounts), default=0),
    )


@dataclass(frozen=True)
class Store:
    """The records of one section."""

    folder: Path  # OUT/KEY

    @property
    def _cells(self) -> Path:
        return self.folder / "cells"

    def all(self) -> dict[str, CellRecord]:
        """By cell. Raises InvalidInput for a file that is not one."""
        return {path.stem: _read(path) for path in sorted(self._cells.glob("*.json"))}

    def write(self, record: CellRecord) -> None:
        """Whole or not at all. Raises StorageFull, InvalidSetting."""
        _write(self._cells / f"{record.cell}.json", record.model_dump_json(indent=1))

    @property
    def unfinished(self) -> Unfinished | None:
        """Nothing where nothing was left out, or nobody was there to say why."""
        try:
            return Unfinished.model_validate_json((self.folder / _UNFINISHED).read_bytes())
        except (OSError, ValidationError):
            return None

    def leave(self, unfinished: Unfinished | None) -> None:
        """Say why something is left out, or that nothing is. Raises StorageFull, InvalidSetting."""
        if unfinished is not None:
            _write(self.folder / _UNFINISHED, unfinished.model_dump_json())
            return
        (self.folder / _UNFINISHED).unlink(missing_ok=True)

    def set_aside(self) -> Path | None:
        """Make room for a fresh start; what was there stays under another name."""
        if not self._cells.exists():
            return None
        number = next(n for n in itertools.count(1) if not (self.folder / f"cells.{n}").exists())
        return self._cells.rename(self.folder / f"cells.{number}")


def check_same(
    key: str, kept: Mapping[str, CellRecord], versions: Mapping[str, Versions], where: str
) -> None:
    """Raises NotPossible, one line, where what is kept was made of another study, code or data, or elsewhere.

    `versions`: of each of the study's cells, now.
    """
    records = [record for record in kept.values() if record.repeats]
    repeats = sum(len(record.repeats) for record in records)
    for record in records:
        found = ("the study file was changed", "restore it")
        if record.cell in versions:
            differs = versions[record.cell].differs(record.made_of)
            if differs is None and record.where == where:
                continue
            found = differs or _moved(record.where, where)
        raise NotPossible(
            f"{key}: {found[0]} since its {repeats} kept repeats were run: {found[1]} to go on with them, or "
            "give --fresh to set them aside and start anew"
        )


def _moved(kept: str, now: str) -> tuple[str, str]:
    """(what was changed, how to undo it). Native labs are told by their workers: "native, 2 workers"."""
    number = re.fullmatch(r"native, (\d+ workers?)", kept)
    if number is None:
        return f"they were run elsewhere ({kept})", "run it there"
    without = "" if now.startswith("native") else " and no --url"
    return f"they were run by {number[1]} on this machine", f"give --workers {number[1].split()[0]}{without}"


def check_same_data(job: str, records: Iterable[CellRecord], experiment: Experiment, repeat: Repeat) -> None:
    """Raises NotPossible, one line, where `repeat` saw other data than those kept of the same task.

    `records`: of its section. In a mixture nobody could tell what the data did from what a level does.
    """
    records = tuple(records)
    others = data_hashes(records).get(of_task(experiment), set()) - {repeat.data_hash}
    if repeat.data_hash is not None and others:
        kept = sum(len(r.repeats) for r in records if of_task(r.experiment) == of_task(experiment))
        raise NotPossible(
            f"{job}: the data of task {experiment.task} are no longer those of the repeats before it "
            f"(content {repeat.data_hash[:9]}, was {others.pop()[:9]}): it is not kept, the "
            f"{kept} before it are; restore the data and give the same command, or "
            "--fresh to set them aside and start anew"
        )


def of_task(experiment: Experiment) -> str:
    """What has data of its own: a task with its options."""
    return f"{experiment.task} {sorted(experiment.task_options.items())}"


def data_hashes(records: Iterable[CellRecord]) -> dict[str, set[Digest]]:
    """`of_task` → those that its repeats saw; more than one do not belong together."""
    found: dict[str, set[Digest]] = {}
    for record in records:
        hashes = {repeat.data_hash for repeat in record.repeats if repeat.data_hash}
        found.setdefault(of_task(record.experiment), set()).update(hashes)
    return found


def check_same_code(job: str, records: Iterable[CellRecord], repeat: Repeat) -> None:
    """Raises NotPossible, one line, where a lab elsewhere has been given other code since, or is of several.

    `records`: of its section.
    """
    if other := other_code((*(kept for record in records for kept in record.repeats), repeat)):
        raise NotPossible(
            f"{job}: {other}: it is not kept, those before it are; install one code everywhere and give the "
            "same command, or --fresh to set them aside and start anew"
        )


def other_code(repeats: Iterable[Repeat]) -> str:
    """Of which process the repeats had more than one code between them, by what each told; "" where none."""
    found: dict[str, set[Digest]] = {}
    for repeat in repeats:
        for who, codes in repeat.code.items():
            found.setdefault(who, set()).update(codes)
    several = {who: sorted(code[:9] for code in codes) for who, codes in found.items() if len(codes) > 1}
    return "; ".join(f"the {who}'s code is not one ({', '.join(codes)})" for who, codes in several.items())


def why_other(record: CellRecord, kept: Repeat, now: Versions, again: Repeat, processor: str) -> str:
    """What is known to differ between a recorded repeat and the same one run again here, which ended with
    other weights. `record`: the one of `kept`."""
    reasons = [what for what, _ in now.differences(record.made_of)]
    if kept.data_hash and again.data_hash and kept.data_hash != again.data_hash:
        reasons.append(f"the data are others (content {again.data_hash[:9]}, was {kept.data_hash[:9]})")
    if record.environment.cpu != processor:
        reasons.append(f"the processor is {processor} and was {record.environment.cpu}")
    cut = any(done.cut for repeat in (kept, again) for done in repeat.rounds)
    if cut and record.experiment.machines.clock == "real":
        reasons.append("clients were cut off by the real clock, which never cuts twice alike")
    if not reasons:
        return "although code, packages, task, data and processor are the same"
    return "; ".join(dict.fromkeys(reasons))


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StorageFull(f"{path}: no room to write it ({error.strerror})") from None
        raise InvalidSetting(f"{path}: cannot be written ({error.strerror}): choose another --out") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _read(path: Path) -> CellRecord:
    try:
        return CellRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "whole file"
        raise InvalidInput(
            f"{path}: is not a cell of this version ({where}: {first['msg']}): move it away and run its "
            "study again, or give --fresh to set all cells aside"
        ) from None
