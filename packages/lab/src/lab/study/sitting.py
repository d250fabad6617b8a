"""One lab for a whole study: its processes are started once, and experiment after experiment is given to it.

`Sitting.carry_out` gives a repeat for whatever becomes of a run: finished, failed, too slow, impossible;
only what is no fault of the run's (no room on the disk, Ctrl-C) ends the sitting. Where every worker or the
aggregator has died, the run is a failure with that reason, and the next one finds a lab started anew.
"""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import psutil
from roundtable.errors import (
    InvalidInput,
    InvalidSetting,
    NotPossible,
    Refused,
    RoundtableError,
    RunFailed,
    StorageFull,
    Unreachable,
)
from roundtable.experiment import Experiment
from roundtable.messages import ENDED, CreateRun, RunDetail
from roundtable.types import Digest, RunId, Seconds

from lab.api import Api
from lab.follow import follow
from lab.native import Folders, Native, native, plain_nodes
from lab.place import Place
from lab.progress import Progress
from lab.study import power
from lab.study.records import Repeat, figures
from lab.study.show import Show

DEATHS = 3  # labs in a row that died: it is not the run then


class TooSlow(RunFailed): ...


def weights_of(folders: Folders, repeat: Repeat) -> Path:
    """Where the weights that a repeat ended with are, while they are kept."""
    return folders.state / "runs" / f"{repeat.run}" / "weights" / f"{repeat.weights_hash}.safetensors"


def drop(folders: Folders, run: RunId) -> None:
    """What a run of ours that has ended left on the disk; its records stay."""
    shutil.rmtree(folders.state / "runs" / run, ignore_errors=True)


@dataclass
class Sitting:
    """Use it with `with`. `place.folders.runs` is the lab's own folder for native processes, OUT/.lab."""

    place: Place
    workers: int
    show: Show
    grafana: str | None = None
    keep_weights: bool = False  # of every run
    environment: dict[str, str] = field(default_factory=dict)  # the aggregator's
    _stack: ExitStack = field(default_factory=ExitStack)
    _api: Api | None = None
    _lab: Native | None = None
    _deaths: int = 0
    _used: bool = False  # the aggregator's process has carried out a run

    def __enter__(self) -> Sitting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def carry_out(
        self, experiment: Experiment, limit: Seconds, keep: bool = False, fresh: bool = False
    ) -> Repeat:
        """Run it anew to its end, whatever that is. `keep`: its last weights will be wanted (`weights_of`);
        `fresh`: by an aggregator that has not run anything, since memory that a process had once it keeps.

        Raises StorageFull; where no lab can be had NotPossible (another one has the folder), InvalidSetting,
        Unreachable.
        """
        began = time.time()
        watch = _Watch(self.show, began + limit, limit)
        api: Api | None = None
        run: RunId | None = None
        detail: RunDetail | None = None
        reason: str | None = None
        try:
            if fresh and self._used and self._lab is not None:
                self._renew(self._lab)
            api = self._up()
            view, _ = api.create(
                CreateRun(experiment=experiment, again=True, start_workers=self._missing_workers(api))
            )
            run, self._used = view.id, True
            watch.aggregator = self._lab.aggregator.process.pid if self._lab else None
            detail = self._followed(api, run, Progress(experiment), watch)
            self.environment = detail.environment or self.environment
            self._deaths = 0
        except TooSlow as error:
            reason = str(error)
            detail = self._stopped(run)
        except (InvalidInput, Refused) as error:
            if api is None or (run is None and not isinstance(error, NotPossible | InvalidInput)):
                raise  # a folder in use, a token, a version: no run will fare better
            reason = str(error)
        except (RunFailed, Unreachable) as error:
            reason = self._died(error)
        ended = time.time()
        if detail is not None and detail.state != "finished":
            reason = reason or f"{detail.state}: {detail.reason or 'no reason was given'}"
        repeat = self._repeat(experiment, detail, run, reason, began, ended, watch)
        self._put_away(repeat, detail, keep)
        return repeat

    def _followed(self, api: Api, run: RunId, progress: Progress, watch: _Watch) -> RunDetail:
        """To its end. Whatever else ends it, a lab elsewhere is not left at work on what nobody waits for."""
        try:
            return follow(api, run, progress, watch, self._lab)
        except BaseException:
            if self.place.url is not None:
                with suppress(RoundtableError):
                    api.stop(run)
            raise

    def _put_away(self, repeat: Repeat, detail: RunDetail | None, keep: bool) -> None:
        """A study of hundreds of runs must not fill a disk with the weights of each."""
        if repeat.run is None:
            return
        if self.place.url is None:
            if detail is not None and detail.state in ENDED and not (keep or self.keep_weights):
                drop(self.place.folders, repeat.run)
        elif keep and self._api is not None and repeat.weights_hash is not None:
            path = weights_of(self.place.folders, repeat)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._api.download(repeat.run, "latest", path)

    # --- the lab

    def start(self) -> None:
        """Now and not with the first run: from here on nobody else has it. Raises as `carry_out` does."""
        self._up()

    def _up(self) -> Api:
        if self._api is not None:
            return self._api
        if self.place.url is not None:
            self._api = self._stack.enter_context(self.place.remote())
            self._leave_alone(self._api)
            return self._api
        try:
            self._lab = self._stack.enter_context(native(self.place.folders, port=self.place.port))
        except (NotPossible, InvalidSetting) as error:
            raise type(error)(str(error).replace("--runs-dir", "--out")) from None
        self._api = self._stack.enter_context(self._lab.api())
        for view in self._api.runs():  # of a sitting that was cut short
            if view.state not in ENDED:
                self._api.stop(view.id)
                if not self.keep_weights:
                    drop(self.place.folders, view.id)
        self._lab.start_workers(plain_nodes(self.workers))
        return self._api

    def _renew(self, lab: Native) -> None:
        lab.renew_aggregator()
        self._api, self._used = self._stack.enter_context(lab.api()), False

    def _leave_alone(self, api: Api) -> None:
        """Raises NotPossible where a lab elsewhere is busy with somebody's run: it would be measured too."""
        busy = [view.id for view in api.runs() if view.state not in ENDED]
        if busy:
            raise NotPossible(
                f"{self.place.url} is busy with run {busy[0]}: wait for it, or "
                f"`lab stop {busy[0]}{self.place.options}`"
            )

    def _missing_workers(self, api: Api) -> int | None:
        """The first run waits for all of ours; those after it find them there."""
        if self._lab is None:
            return None
        here = sum(worker.state == "present" for worker in api.workers())
        return None if here >= self.workers else self.workers

    def _died(self, error: RoundtableError) -> str:
        """The reason; the lab is started anew for the next run. Raises what keeps happening."""
        self._deaths += 1
        if self.place.url is not None or self._lab is None or self._deaths >= DEATHS:
            raise error
        self._close()
        return str(error).partition("; `lab resume")[0]

    def _stopped(self, run: RunId | None) -> RunDetail | None:
        assert self._api is not None and run is not None
        with suppress(NotPossible):
            self._api.stop(run)
        return self._api.run(run)

    def _close(self) -> None:
        self._stack.close()
        self._stack, self._api, self._lab, self._used = ExitStack(), None, None, False

    # --- what came of it

    def _repeat(
        self,
        experiment: Experiment,
        detail: RunDetail | None,
        run: RunId | None,
        reason: str | None,
        began: float,
        ended: float,
        watch: _Watch,
    ) -> Repeat:
        history = [record for record in detail.history if record.round > 0] if detail else []
        entry = self._ledger_entry(run) if history else {}
        return Repeat(
            seed=experiment.seed,
            state="failed" if reason else "finished",
            reason=reason,
            run=run,
            began=began,
            ended=ended,
            rounds=tuple(figures(record) for record in history),
            data_hash=entry.get("data_hash"),
            weights_hash=history[-1].weights_hash if history else None,
            ledger_head=detail.head if detail else None,
            code=_told(detail, watch),
            workers=watch.workers,
            aggregator_peak_bytes=watch.peak or None,
            joules=watch.energy.joules() if self.place.url is None else None,
            grafana=self._window(run, began, ended),
        )

    def _ledger_entry(self, run: RunId | None) -> dict[str, str]:
        assert self._api is not None
        entries = self._api.ledger(str(run))
        return dict(entries[0]) if entries else {}

    def _window(self, run: RunId | None, began: float, ended: float) -> str | None:
        if self.grafana is None or run is None or self.place.url is None:  # a native lab tells it nothing
            return None
        times = f"from={int(began * 1000)}&to={int(ended * 1000) + 5000}"
        return f"{self.grafana.rstrip('/')}/d/lab-federation?{times}&var-run={run}"


def _told(detail: RunDetail | None, watch: _Watch) -> dict[str, tuple[Digest, ...]]:
    """What aggregator and workers said of their code; nothing of one that is older, or somebody else's."""
    own = detail.environment.get("code") if detail else None
    return ({"aggregator": (own,)} if own else {}) | (
        {"worker": tuple(sorted(watch.code))} if watch.code else {}
    )


@dataclass
class _Watch:
    """What `follow` shows its progress to: looks at memory, disk and the time as it goes."""

    show: Show
    until: float  # Unix seconds
    limit: Seconds
    aggregator: int | None = None  # its process
    peak: int = 0
    workers: int = 0
    code: set[Digest] = field(default_factory=set)  # of the workers, where they tell
    energy: power.Meter = field(default_factory=power.Meter)

    def begin(self, experiment: Experiment) -> None: ...

    def update(self, progress: Progress) -> None:
        """Raises StorageFull where the run paused for want of room, TooSlow when its time is over."""
        progress.take_notes()
        self.energy.sample(time.monotonic())
        present = [worker for worker in progress.workers if worker.state == "present"]
        self.workers = max(self.workers, len(present))
        self.code |= {worker.code for worker in present if worker.code is not None}
        if self.aggregator is not None:
            with suppress(psutil.Error):
                memory = psutil.Process(self.aggregator).memory_info()
                own = memory.rss - getattr(memory, "shared", 0)  # files in the page cache are nobody's
                self.peak = max(self.peak, own)
        if progress.run is not None and progress.run.state == "paused":
            why = (progress.run.reason or "it paused").partition(" (`lab resume")[0]
            raise StorageFull(
                f"run {progress.run.id} cannot go on: {why}; the repeats before it are kept: make room, and "
                "give the same command"
            )
        if time.time() > self.until and progress.run is not None and progress.run.state not in ENDED:
            raise TooSlow(
                f"took longer than time_limit = {self.limit:g} s, in round {progress.committed + 1}"
            )
        self.show.progress(progress)

    def say(self, line: str, *, warn: bool = False) -> None:
        self.show.say(line, warn=warn)

    def end(self) -> None: ...
