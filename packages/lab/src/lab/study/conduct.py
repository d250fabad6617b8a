"""A study from its file to its records: check, calibrate, plan, trim, run what is missing, keep each repeat.

Whatever ends it, what has finished stays, and the same command goes on with the rest.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from roundtable.errors import StorageFull
from roundtable.types import Seconds

from lab import machine
from lab.live import clock, percent
from lab.progress import counted
from lab.study import pace
from lab.study.calibrate import LEAST, calibrate
from lab.study.cells import Cell
from lab.study.measures import last
from lab.study.pace import Load, Pace, Rates
from lab.study.ready import Ready
from lab.study.records import (
    CellRecord,
    Repeat,
    Store,
    Unfinished,
    check_same,
    check_same_code,
    check_same_data,
)
from lab.study.show import Show, Standing
from lab.study.sitting import Sitting

MINUTE = 60.0


@dataclass(frozen=True)
class Job:
    """One repeat of one cell."""

    ready: Ready
    cell: Cell
    repeat: int

    @property
    def id(self) -> tuple[str, str]:
        return self.ready.section.key, self.cell.id

    @property
    def seed(self) -> int:
        return self.ready.section.study.seed(self.repeat)

    def __str__(self) -> str:
        return f"{self.ready.section.key}/{self.cell.id} seed {self.seed}"


@dataclass
class Conduct:
    """One go at a study."""

    ready: Sequence[Ready]
    out: Path
    sitting: Sitting
    show: Show
    began: float  # Unix seconds
    where: str
    budget: Seconds | None = None
    fresh: bool = False
    retry_failed: bool = False
    records: dict[tuple[str, str], CellRecord] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)  # section → planned
    done: int = 0
    failed: int = 0
    pictured: frozenset[tuple[str, str]] = frozenset()  # cells whose first weights the report draws

    # --- before anything is started

    def open(self) -> None:
        """Read what is there. Raises NotPossible where it was made by another study, code or data, and what
        `Sitting.start` does."""
        if self.fresh:  # what another command is just writing must not be moved away from under it
            self.sitting.start()
        for ready in self.ready:
            key, store = ready.section.key, self.store(ready)
            if self.fresh and (aside := store.set_aside()) is not None:
                self.show.say(f"{key}: earlier results set aside in {aside}")
            kept = store.all()
            check_same(key, kept, ready.versions, self.where)
            self.records |= {(key, cell): record for cell, record in kept.items()}
            self.repeats[key] = ready.section.study.repeats

    def store(self, ready: Ready) -> Store:
        return Store(self.out / ready.section.key)

    def jobs(self) -> list[Job]:
        """What is still to be run, in order: first every section's least repeats, then the rest of them."""
        return [job for job in self._ordered() if not self._kept(job)]

    # --- while the lab is up

    def run(self) -> None:
        """Calibrate, plan, and run what is missing."""
        jobs = self.jobs()
        if not jobs:
            failed = sum(r.state == "failed" for kept in self.records.values() for r in kept.repeats)
            again = f", --retry-failed runs the {failed} that failed again" if failed else ""
            self.show.say(f"everything has been run before; --fresh starts anew{again}")
            return
        kept = sum(len(record.repeats) for record in self.records.values())
        if kept:
            self.show.say(f"{kept} repeats are kept from before")
        going = Pace(self._estimates(jobs), self._taken())
        self._plan(going)
        while jobs := self._affordable(going):
            self._stand(jobs, going)
            began = time.monotonic()
            job = jobs[0]
            experiment, limit = job.cell.with_seed(job.seed), job.ready.section.study.time_limit
            keep = job.id in self.pictured and job.repeat == 0
            fresh = "aggregator_memory" in job.ready.section.study.outcomes
            repeat = self.sitting.carry_out(experiment, limit, keep, fresh)
            going.took(jobs[0].id, time.monotonic() - began)
            self._keep(jobs[0], repeat)

    def settle(self, why: str) -> None:
        """Note beside each section's records whether anything of it is left out, for its report to say why.

        `why`: this go ended before all was run; where it did not, a budget has trimmed what is missing.
        """
        for ready in self.ready:
            key, study = ready.section.key, ready.section.study
            planned = [Job(ready, cell, repeat) for cell in ready.cells for repeat in range(study.repeats)]
            missing = sum(not self._kept(job) for job in planned)
            left = [job for job in self.jobs() if job.ready is ready]
            trimmed = f"a budget of time trimmed {study.repeats} repeats to {self.repeats[key]}"
            note = Unfinished(why=why if left else trimmed, at=time.time()) if missing else None
            with suppress(StorageFull):  # a report without the reason is still a report
                self.store(ready).leave(note)

    def _keep(self, job: Job, repeat: Repeat) -> None:
        """Raises StorageFull with how to go on, NotPossible where data or code are not the others'."""
        record = self.records.get(job.id) or self._record(job)
        of_section = [kept for (key, _), kept in self.records.items() if key == job.id[0]]
        check_same_data(str(job), of_section, job.cell.experiment, repeat)
        check_same_code(str(job), of_section, repeat)
        others = tuple(kept for kept in record.repeats if kept.seed != repeat.seed)
        ordered = sorted((*others, repeat), key=lambda kept: kept.began)
        record = record.model_copy(
            update={"repeats": tuple(ordered), "aggregator_environment": self.sitting.environment}
        )
        try:
            self.store(job.ready).write(record)
        except StorageFull as error:
            raise StorageFull(
                f"{error}; all repeats before it are kept: make room, and give the same command"
            ) from None
        self.records[job.id] = record
        self.done += 1
        if repeat.state == "failed":
            self.failed += 1
            self.show.say(f"{job}: FAILED: {repeat.reason}", warn=True)
            return
        accuracy = last(repeat, "accuracy")
        reached = f"{percent(accuracy)} after " if accuracy is not None else ""
        self.show.say(f"{job}: {reached}{len(repeat.rounds)} rounds in {repeat.ended - repeat.began:.1f} s")

    def _record(self, job: Job) -> CellRecord:
        cell = job.cell
        return CellRecord(
            section=job.ready.section,
            cell=cell.id,
            kind=cell.kind,
            levels=cell.levels,
            beside=cell.beside,
            experiment=cell.experiment,
            versions=job.ready.versions[cell.id],
            environment=machine.here(),
            where=self.where,
        )

    # --- how long

    def _estimates(self, jobs: Sequence[Job]) -> dict[tuple[str, str], Seconds]:
        """Of each cell. A kind that cannot be calibrated is said, and left to be found out."""
        rates: dict[str, Rates | None] = {}
        found = {}
        for job in jobs:
            if job.id in found:
                continue
            name, examples = pace.kind(job.cell.experiment), job.ready.examples[job.cell.id]
            if name not in rates:
                self.show.stand(Standing(0, len(jobs), None, f"calibrating {name}"))
                rates[name] = self._calibrated(job, name, examples) if examples else None
            known = rates[name]
            if known is not None:
                found[job.id] = pace.estimate(job.cell, known, examples, self.sitting.workers)
        return found

    def _calibrated(self, job: Job, name: str, examples: int) -> Rates | None:
        rates = calibrate(job.cell.experiment, examples, self.sitting.workers, self.sitting.carry_out)
        if isinstance(rates, str):
            self.show.say(f"{name} cannot be calibrated: {rates}", warn=True)
            return None
        speed = (
            f"{1 / rates.example:,.0f} examples a second and worker"
            if rates.example > LEAST
            else "no time an example that could be measured"
        )
        self.show.say(
            f"calibrated {name}: {speed}, "
            f"{1000 * rates.client:.1f} ms a client, {rates.evaluation:.1f} s an evaluation, "
            f"{rates.start:.1f} s to start a run"
        )
        return rates

    def _taken(self) -> dict[tuple[str, str], list[Seconds]]:
        """By the repeats that are kept, failures left out."""
        taken = {
            job: [repeat.ended - repeat.began for repeat in record.repeats if repeat.state == "finished"]
            for job, record in self.records.items()
        }
        return {job: seconds for job, seconds in taken.items() if seconds}  # all may have failed

    def _plan(self, going: Pace) -> None:
        """Say what will be run and how long it takes, trimmed to the budget where there is one."""
        loads = self._loads(going)
        needed = pace.total(loads)
        if self.budget is not None:
            left = self.budget - (time.time() - self.began)
            loads = pace.trimmed(loads, left)
            self._trim(loads)
            if (still := pace.total(loads)) > left:
                self.show.say(
                    f"even with the least repeats this takes about {clock(still)}, more than the "
                    f"{clock(max(left, 0))} that are left: levels are not trimmed",
                    warn=True,
                )
        self.show.say("the plan:")
        cells = {ready.section.key: len(ready.cells) for ready in self.ready}
        for load in loads:
            wanted = next(r.section.study.repeats for r in self.ready if r.section.key == load.key)
            trimmed = f" (trimmed from {wanted} to fit)" if load.repeats < wanted else ""
            self.show.say(
                f"  {load.key:<28} {cells[load.key]:>3} {'cell' if cells[load.key] == 1 else 'cells'} × "
                f"{counted(load.repeats, 'repeat')}{trimmed}, "
                f"about {clock(load.left)}"
            )
        asked = "" if self.budget is None else f" of {clock(self.budget)}"
        before = f" (all repeats would take {clock(needed)})" if pace.total(loads) < needed else ""
        self.show.say(f"  {'in all':<28} about {clock(pace.total(loads))}{asked}{before}")

    def _affordable(self, going: Pace) -> list[Job]:
        """What is left to be run, after trimming what a slow start has made too much."""
        if self.budget is not None:
            before = dict(self.repeats)
            loads = pace.trimmed(self._loads(going), self.budget - (time.time() - self.began))
            self._trim(loads)
            for key, number in self.repeats.items():
                if number < before[key]:
                    self.show.say(
                        f"{key}: {number} repeats instead of {before[key]}, to stay within the time"
                    )
        return self.jobs()

    def _trim(self, loads: Sequence[Load]) -> None:
        self.repeats |= {load.key: load.repeats for load in loads}

    def _loads(self, going: Pace) -> tuple[Load, ...]:
        loads = []
        missing = Counter(job.id for job in self.jobs())
        for ready in self.ready:
            key, study = ready.section.key, ready.section.study
            once = {cell.id: going.of((key, cell.id)) for cell in ready.cells}
            whole = sum(once.values())
            left = sum(missing[key, id] * seconds for id, seconds in once.items())
            repeats = self.repeats[key]
            done = repeats - left / whole if whole else float(repeats)
            loads.append(Load(key, whole, repeats, min(study.least_repeats, study.repeats), done))
        return tuple(loads)

    def _stand(self, jobs: Sequence[Job], going: Pace) -> None:
        left = sum(going.of(job.id) for job in jobs)
        self.show.stand(Standing(self.done, self.done + len(jobs), left or None, str(jobs[0])))

    # --- the order

    def _ordered(self) -> Iterator[Job]:
        def some(ready: Ready, repeats: range) -> Iterator[Job]:
            for repeat in repeats:
                for cell in ready.cells:
                    yield Job(ready, cell, repeat)

        least = {
            ready.section.key: min(ready.section.study.least_repeats, self.repeats[ready.section.key])
            for ready in self.ready
        }
        for ready in self.ready:
            yield from some(ready, range(least[ready.section.key]))
        for repeat in range(max(self.repeats.values(), default=0)):
            for ready in self.ready:
                if least[ready.section.key] <= repeat < self.repeats[ready.section.key]:
                    yield from some(ready, range(repeat, repeat + 1))

    def _kept(self, job: Job) -> bool:
        record = self.records.get(job.id)
        if record is None:
            return False
        return any(
            repeat.seed == job.seed and (repeat.state == "finished" or not self.retry_failed)
            for repeat in record.repeats
        )
