"""The commands that carry a run to its end: run, resume, replay."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.text import Text
from roundtable import experiment as experiments
from roundtable.errors import InvalidSetting
from roundtable.messages import CreateRun, RunDetail

from lab import stdout
from lab.api import checked_url
from lab.called import as_called, command
from lab.exits import Exit
from lab.live import Live, Plain, Show, Silent, percent
from lab.native import Folders, Node, pinned_nodes, plain_nodes
from lab.options import (
    DATASETS,
    RUNS,
    TASKS,
    Ca,
    Datasets,
    ExperimentFile,
    Json,
    NodesDir,
    NoLive,
    Port,
    Run,
    Runs,
    Tasks,
    TokenFile,
    Url,
    Workers,
    animated,
    out,
    print_json,
)
from lab.place import Place, named, reach
from lab.progress import counted
from lab.report import seconds
from lab.results import Result
from lab.session import Outcome, Session, ledger_cohorts, wake


def run(
    experiment: ExperimentFile,
    workers: Workers = None,
    nodes_dir: NodesDir = None,
    url: Url = None,
    admin_token_file: TokenFile = None,
    ca: Ca = None,
    again: Annotated[
        bool, typer.Option("--again", help="Start anew even when this experiment has been run.")
    ] = False,
    runs_dir: Runs = RUNS,
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
    port: Port = 0,
    as_json: Json = False,
    no_live: NoLive = False,
) -> int:
    """Run an experiment to its end and write its results to runs/RUN/.

    The same experiment has one run: given again, that run is shown, or gone on with where it was interrupted.
    """
    loaded = experiments.load(experiment)
    place = Place(Folders(runs_dir, tasks_dir, datasets_dir), url, admin_token_file, port, ca=ca)
    session = _session(place, workers, nodes_dir, as_json, no_live)
    return _conduct(session, lambda: session.submit(CreateRun(experiment=loaded, again=again)), as_json)


def resume(
    run: Run,
    workers: Workers = None,
    nodes_dir: NodesDir = None,
    url: Url = None,
    admin_token_file: TokenFile = None,
    ca: Ca = None,
    runs_dir: Runs = RUNS,
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
    port: Port = 0,
    as_json: Json = False,
    no_live: NoLive = False,
) -> int:
    """Go on with a run that was interrupted or stopped, or has failed; or is paused, where it is watched."""
    place = Place(Folders(runs_dir, tasks_dir, datasets_dir), url, admin_token_file, port, ca=ca)
    if (woken := wake(place, run)) is not None:
        if as_json:
            print_json({"run": woken, "state": "running"})
        else:
            out.print(f"run {woken} goes on in the terminal where it was paused", soft_wrap=True)
        return Exit.DONE
    session = _session(place, workers, nodes_dir, as_json, no_live)
    return _conduct(session, lambda: session.resume(run), as_json)


def replay(
    run: Run,
    workers: Workers = None,
    nodes_dir: NodesDir = None,
    url: Url = None,
    admin_token_file: TokenFile = None,
    ca: Ca = None,
    runs_dir: Runs = RUNS,
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
    port: Port = 0,
    as_json: Json = False,
    no_live: NoLive = False,
) -> int:
    """Run an experiment again with the clients that took part, and compare the weights round by round."""
    place = Place(Folders(runs_dir, tasks_dir, datasets_dir), url, admin_token_file, port, ca=ca)
    session = _session(place, workers, nodes_dir, as_json, no_live)
    with reach(place) as (api, _):
        original = api.run(named(place, api, run).id)
        participants = ledger_cohorts(api.ledger(original.id))
    request = CreateRun(experiment=original.experiment, again=True, participants=participants)
    return _conduct(session, lambda: session.submit(request, original), as_json)


def _session(
    place: Place, workers: int | None, nodes_dir: Path | None, as_json: bool, no_live: bool
) -> Session:
    if place.url is not None:
        checked_url(place.url)
        ours = {"--workers": workers, "--nodes-dir": nodes_dir, "--port": place.port or None}
        if told := [name for name, given in ours.items() if given is not None]:
            raise InvalidSetting(
                f"{told[0]}: is for processes of this machine, and --url (or LAB_URL) names a lab with its "
                "own: leave one of them out"
            )
        nodes: tuple[Node, ...] = ()
    elif nodes_dir is not None:
        nodes = pinned_nodes(nodes_dir)
    else:
        nodes = plain_nodes(2 if workers is None else workers)
    show: Show = Silent() if as_json else Plain(out) if no_live or not animated() else Live(out)
    return Session(place, show, psutil.Process().create_time(), nodes)


def _conduct(session: Session, action: Callable[[], Outcome], as_json: bool) -> Exit:
    """Carry it out, and say how it ended."""
    try:
        outcome = action()
    except KeyboardInterrupt:
        session.show.end()
        for line in _interrupted(session):
            if stdout.lost():
                print(line, file=sys.stderr)
            else:
                out.print(line, soft_wrap=True)
        return Exit.INTERRUPTED
    finally:
        session.show.end()
    if as_json:
        print_json(_summary(outcome))
    else:
        _tell(session, outcome)
    return Exit.DONE if outcome.detail.state == "finished" and not outcome.differs else Exit.FAILED


def _interrupted(session: Session) -> list[str]:
    if session.run is None:
        return ["interrupted: nothing was started"]
    if session.ended:
        return [
            "interrupted: the run has ended, its results have not been written; to write them:",
            f"  {command()} report {session.run}{session.place.working}",
        ]
    if session.place.url is not None:
        return [
            f"no longer watching: run {session.run} goes on there",
            f"  stop it:     {command()} stop {session.run}{session.place.options}",
            f"  look at it:  {command()} status{session.place.options}",
        ]
    return [
        "interrupted: everything has been stopped, nothing accepted is lost; to go on:",
        f"  {command()} resume {session.run}{session.options}",
    ]


def _summary(outcome: Outcome) -> dict[str, object]:
    result = outcome.result
    return {
        "run": outcome.detail.id,
        "state": outcome.detail.state,
        "reason": outcome.detail.reason,
        "folder": str(outcome.folder) if outcome.folder else None,
        "final": result.final.model_dump(mode="json") if result else None,
        "replay_of": result.replay_of if result else None,
        "differs": outcome.differs,
    }


def _tell(session: Session, outcome: Outcome) -> None:
    """The end of a run, and what to do next."""
    detail, result = outcome.detail, outcome.result
    out.print()
    if detail.state != "finished":
        out.print(
            Text(
                f" {detail.name} {detail.state}: {as_called(detail.reason or 'no reason was given')}",
                style="bold",
            ),
            soft_wrap=True,
        )
    if result is not None:
        final = result.final
        words = f" {percent(final.accuracy)} test accuracy" if final.accuracy is not None else " done"
        out.print(
            Text.assemble(
                (f"{words} after {counted(final.rounds, 'round')} in {seconds(final.seconds)}", "bold"),
                (
                    ""
                    if final.virtual_seconds is None
                    else f", {seconds(final.virtual_seconds)} by the virtual clock"
                ),
                (_about(result), "dim"),
            )
        )
    if outcome.verdict:
        out.print(f" {outcome.verdict}", soft_wrap=True)
    if outcome.folder is not None:
        out.print(f" report  {outcome.folder / 'report.html'}", soft_wrap=True)
    if detail.state == "finished":
        _suggest(detail, session)
    else:
        out.print(f" go on   {command()} resume {detail.id}{session.options}", soft_wrap=True)
    out.print()


def _about(result: Result) -> str:
    started = result.startup.first_order
    return "" if started is None else f"  (start-up {seconds(started)})"


def _suggest(detail: RunDetail, session: Session) -> None:
    """By its id: a run that is shown again, or of a lab that others use, need not be the latest."""
    out.print(f" next    {command()} verify {detail.id}{session.place.options}", soft_wrap=True)
    out.print(f"         {command()} export {detail.id} model.keras{session.place.working}", soft_wrap=True)
    if detail.name == "demo" and detail.experiment.partition.kind == "iid":
        line = ' or      kind = "dirichlet", alpha = 0.1 in experiments/demo.toml; then make demo again'
    else:
        line = f"         {command()} replay {detail.id}{session.options}"
    out.print(line, soft_wrap=True)
