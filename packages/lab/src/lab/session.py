"""One run from the command to its results: find or start a lab, submit, follow, write down the outcome."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from roundtable.errors import InvalidSetting, NotPossible
from roundtable.experiment import Experiment
from roundtable.messages import ENDED, CreateRun, RunDetail, WorkerView
from roundtable.types import ClientId, RunId, Seconds
from roundtable.weights import Weights

from lab import data, machine, results
from lab import report as page
from lab.api import Api
from lab.called import FROM_THE_ROOT
from lab.children import Child
from lab.follow import follow
from lab.live import Show
from lab.native import Native, Node, attached, native, plain_nodes
from lab.place import Place, named, reach
from lab.progress import Progress, counted
from lab.results import Result, Spread, Startup


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `folder` and `result` where there is something to tell, `verdict` of a replay."""

    detail: RunDetail
    folder: Path | None = None
    result: Result | None = None
    differs: bool = False
    verdict: str = ""


@dataclass
class Session:
    """What a command that follows a run to its end has at hand, and what it has found out."""

    place: Place
    show: Show
    began: float  # Unix seconds: when the `lab` process started
    nodes: tuple[Node, ...] = ()  # workers to start; none where the lab is elsewhere
    run: RunId | None = None  # known once submitted
    startup: dict[str, Seconds] = field(default_factory=dict)
    children: tuple[Child, ...] = ()  # the processes that carried the run out
    present: tuple[WorkerView, ...] = ()
    ended: bool = False
    spread: Spread | None = None  # where it is known here
    weights: Weights | None = None  # of the run that ended, where its report draws predictions

    @property
    def options(self) -> str:
        """What to add to a suggested `lab resume` or `lab replay` that is to have what this command had."""
        return nodes_option(self.nodes) + self.place.working

    def submit(self, request: CreateRun, original: RunDetail | None = None) -> Outcome:
        """Run an experiment to its end. An existing run of it is gone on with, or shown when it has finished.

        `original`: the run that this one replays.
        Raises NotPossible where an existing one was stopped or failed, or the original has nothing to replay.
        """
        if original is not None and not request.participants:
            raise NotPossible(
                f"run {original.id} ({original.state}) has no committed round: nothing to replay"
            )
        self._check(request.experiment)
        progress = self._begin(request.experiment)
        with self._lab() as (api, lab):
            # Our own workers come about at the same time: none of them is to train everybody's share first.
            view, new = api.create(request.model_copy(update={"start_workers": len(self.nodes) or None}))
            self.run = view.id
            if not new and view.state in ENDED:
                if view.state != "finished":
                    raise NotPossible(
                        f"run {view.id} of this experiment {view.state} after round {view.round}: "
                        f"`lab resume {view.id}{self.options}` goes on, --again starts anew"
                    )
                self.show.say(f"this experiment has been run before, as {view.id} (--again starts anew)")
                detail = api.run(view.id)
                folder = self.place.folders.runs / detail.id
                if (known := results.current(folder, detail)) is not None:
                    self.show.end()
                    return Outcome(detail, folder, known)
                self.present = tuple(api.workers())
                self.spread, self.weights = _from_here(self.place, api, detail)
            else:
                if not new:
                    self.show.say(
                        f"going on with run {view.id} after round {view.round} (--again starts anew)"
                    )
                detail = self._follow(api, lab, view.id, progress)
        self.show.end()
        return self._outcome(detail, original)

    def resume(self, run: str) -> Outcome:
        """Go on with a run that was stopped, interrupted or failed. Raises NotPossible for a finished one."""
        with reach(self.place) as (api, _):
            detail = api.run(named(self.place, api, run).id)
        if detail.state == "finished":
            written = results.current(self.place.folders.runs / detail.id, detail) is not None
            mend = (
                "`lab run … --again` starts anew"
                if written
                else f"`lab report {detail.id}{self.place.working}` writes its results"
            )
            raise NotPossible(f"run {detail.id} has finished: {mend}")
        self._check(detail.experiment)
        progress = self._begin(detail.experiment)
        with self._lab() as (api, lab):
            self.run = detail.id
            if lab is not None or detail.state in ENDED or detail.state == "paused":
                api.resume(detail.id, start_workers=len(self.nodes) or None)
            progress.shown = detail.round
            detail = self._follow(api, lab, detail.id, progress)
        self.show.end()
        return self._outcome(detail, None)

    def _begin(self, experiment: Experiment) -> Progress:
        launched = tuple(node.name for node in self.nodes)
        progress = Progress(experiment, launched, self.options)
        self.show.begin(experiment)
        self.show.update(progress)
        return progress

    @contextmanager
    def _lab(self) -> Iterator[tuple[Api, Native | None]]:
        if self.place.url is not None:
            with self.place.remote() as api:
                yield api, None
            return
        with native(self.place.folders, port=self.place.port) as lab, lab.api() as api:
            self.startup["aggregator"] = time.time() - self.began
            self.show.say(f"watch it at {lab.url}/")
            yield api, lab

    def _follow(self, api: Api, lab: Native | None, run: RunId, progress: Progress) -> RunDetail:
        if lab is not None:
            self._set_aside_others(api, run)
            lab.start_workers(self.nodes)
            self.children = (lab.aggregator, *lab.workers)
        else:
            self.show.say(f"watch it at {api.url}/")
        detail = follow(api, run, progress, self.show, lab)
        self.ended = True
        self.present = tuple(api.workers())
        if lab is not None:
            self.weights = _to_draw(self.place, api, detail)
        else:
            self.spread, self.weights = _from_here(self.place, api, detail)
        if progress.first_worker is not None:
            self.startup["first_worker"] = progress.first_worker - self.began
        if detail.first_order is not None and detail.first_order >= self.began:
            self.startup["first_order"] = detail.first_order - self.began
        return detail

    def _set_aside_others(self, api: Api, run: RunId) -> None:
        """Runs that an earlier lab left unfinished are not under way, and are not to look so."""
        for view in api.runs():
            if view.id != run and view.state not in ENDED:
                api.stop(view.id)
                self.show.say(
                    f"run {view.id} was left after round {view.round}: "
                    f"`lab resume {view.id}{self.place.working}` goes on with it"
                )

    def _check(self, experiment: Experiment) -> None:
        """In native mode the data must be here, and a fault in it is known before anything is started."""
        if not self.nodes:
            return
        pinned = experiment.partition.kind == "pinned"
        if pinned and self.nodes[0].data is None:
            raise InvalidSetting(
                "partition.kind = pinned: the nodes bring the data: give --nodes-dir, one folder a node"
            )
        if not pinned and self.nodes[0].data is not None:
            raise InvalidSetting(
                f"partition.kind = {experiment.partition.kind}: --nodes-dir is for pinned data: "
                'leave it out, or set kind = "pinned"'
            )
        if pinned and len(self.nodes) != experiment.clients.count:
            raise InvalidSetting(
                f"clients.count = {experiment.clients.count}, but --nodes-dir has {len(self.nodes)} nodes: "
                "make them the same"
            )
        self.spread = data.spread(experiment, self.place.folders)

    def _outcome(self, detail: RunDetail, original: RunDetail | None) -> Outcome:
        """Write down the results of a run that has something to tell."""
        if not any(record.round > 0 for record in detail.history):
            return Outcome(detail)
        startup = Startup(**{name: self.startup.get(name) for name in Startup.model_fields})
        replay_of = original.id if original else None
        result = _result(self.place, detail, self.present, self.spread, startup, self.nodes, replay_of)
        # Their logs go on from run to run: of this one is what they said while they were carrying it out.
        logs = {child.log.name: child.logged() for child in self.children} if self.children else None
        folder = _write(self.place, result, self.weights, self.show.say, logs)
        differs, verdict = compare(original, detail) if original else (False, "")
        return Outcome(detail, folder, result, differs, verdict)


def wake(place: Place, run: str) -> RunId | None:
    """A run that is paused in a lab that is up here, with its workers, goes on there. None where none is up;
    raises NotPossible for other runs of it, and where a lab is up to be asked alone."""
    found = attached(place.folders) if place.url is None else None
    if found is None:
        return None
    with found as api:
        view = named(place, api, run)
        if view.state != "paused" or all(worker.state != "present" for worker in api.workers()):
            raise NotPossible(
                f"a lab is using {place.folders.runs}/: wait for it (`lab status{place.options}` shows it)"
            )
        api.resume(view.id)
    return view.id


def record(place: Place, detail: RunDetail, workers: tuple[WorkerView, ...], api: Api) -> Path:
    """The results folder of a run that `lab` did not watch to its end."""
    spread, weights = _from_here(place, api, detail)
    result = _result(place, detail, workers, spread, Startup(), plain_nodes(max(len(workers), 1)), None)
    return _write(place, result, weights)


def _from_here(place: Place, api: Api, detail: RunDetail) -> tuple[Spread | None, Weights | None]:
    """What is told with the task and the data of this machine, where they are the run's: how they are spread,
    and the weights where predictions are drawn."""
    if detail.round < 1 or not data.are_of(detail.experiment, place.folders, api.ledger(detail.id)[0]):
        return None, None
    return data.spread(detail.experiment, place.folders), _to_draw(place, api, detail)


def _to_draw(place: Place, api: Api, detail: RunDetail) -> Weights | None:
    if detail.round < 1 or not data.draws(detail.experiment, place.folders.tasks):
        return None
    from lab import predictions

    return predictions.fetch(api, detail.id)


def _write(
    place: Place,
    result: Result,
    weights: Weights | None,
    say: Callable[[str], None] = lambda _line: None,
    logs: Mapping[str, bytes] | None = None,
) -> Path:
    """The results folder; with `weights`, what they make of test examples is drawn, or it is said why not."""
    drawn = None
    if weights is not None:
        from lab import predictions

        say("drawing predictions")
        title = f"{result.name}, after {counted(result.final.rounds, 'round')}" + (
            f"\n{result.data}" if result.data else ""
        )
        drawn, problem = predictions.if_possible(result.experiment, place.folders, weights, title)
        if problem:
            say(problem)
    html = partial(page.html, predictions=drawn)
    return results.write(place.folders.runs, result, html, logs, drawn, place.working)


def _result(
    place: Place,
    detail: RunDetail,
    workers: tuple[WorkerView, ...],
    spread: Spread | None,
    startup: Startup,
    nodes: tuple[Node, ...],
    replay_of: RunId | None,
) -> Result:
    return results.result_of(
        detail,
        environment=machine.here(),
        startup=startup,
        workers=workers,
        partition=data.if_small(spread),
        command=repeats(detail.id, place, nodes),
        replay_of=replay_of,
        data=data.described(detail.experiment, place.folders.tasks),
    )


def repeats(run: RunId, place: Place, nodes: tuple[Node, ...]) -> str:
    """The command that runs the same again."""
    ours = () if place.url is not None else nodes  # a lab elsewhere has its own
    workers = nodes_option(ours) or (f" --workers {len(ours)}" if ours else "")
    experiment = shlex.quote(str(place.folders.runs / run / "experiment.toml"))
    return f"{FROM_THE_ROOT} run {experiment}{workers} --again{place.working}"


def nodes_option(nodes: tuple[Node, ...]) -> str:
    """Where they bring their own data."""
    pinned = nodes and nodes[0].data
    return f" --nodes-dir {shlex.quote(str(pinned.parent))}" if pinned else ""


def ledger_cohorts(entries: Any) -> tuple[tuple[ClientId, ...], ...]:
    """Who took part, round by round, from the ledger's entries (round 0 has nobody)."""
    return tuple(
        tuple(part["client"] for part in entry["participants"]) for entry in entries if entry["round"] > 0
    )


def compare(original: RunDetail, copy: RunDetail) -> tuple[bool, str]:
    """Whether the replay's weights differ, and in words since when."""
    again = {record.round: record.weights_hash for record in copy.history}
    rounds = [record for record in original.history if record.round > 0]
    for known in rounds:
        if again.get(known.round) != known.weights_hash:
            found = again.get(known.round) or "nothing"
            words = f"{found} instead of {known.weights_hash}"
            return True, f"DIFFERS from {original.id} since round {known.round}: {words}"
    return False, f"the same weights as {original.id}, bit for bit, in all of its {len(rounds)} rounds"
