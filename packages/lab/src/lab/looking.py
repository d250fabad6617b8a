"""The commands that look and fetch: check, partition, status, runs, stop, export, verify, report."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from operator import sub
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel
from rich.live import Live as RichLive
from rich.text import Text
from roundtable import experiment as experiments
from roundtable.errors import InvalidExperiment, InvalidInput, Unknown
from roundtable.messages import ENDED

from lab import data, export, forecast, results, tables, verification
from lab.api import Api
from lab.called import command
from lab.exits import Exit
from lab.live import title
from lab.native import Folders
from lab.options import (
    DATASETS,
    RUNS,
    TASKS,
    Ca,
    Datasets,
    ExperimentFile,
    Json,
    Run,
    Runs,
    Tasks,
    TokenFile,
    Url,
    animated,
    out,
    print_json,
)
from lab.place import Place, named, present, reach
from lab.session import record


def check(
    experiment: ExperimentFile,
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
    as_json: Json = False,
) -> int:
    """Check an experiment, its task and its data, without running anything."""
    loaded = experiments.load(experiment)
    folders = Folders(RUNS, tasks_dir, datasets_dir)
    with _in(experiment):
        found = data.spread(loaded, folders)
        expected = forecast.forecast(loaded, found, folders) if found else None
    sizes = [sum(row) for row in found.counts] if found else []
    if as_json:
        print_json(
            {
                "experiment": loaded.model_dump(mode="json"),
                "digest": loaded.digest,
                "cohort": loaded.cohort_size,
                "sizes": sizes,
                "machines": asdict(expected) if expected else None,
            }
        )
        return Exit.DONE
    out.print(Text(f"{experiment}: fine", style="bold"), soft_wrap=True)
    out.print(f"  {title(loaded)}")
    if about := data.described(loaded, tasks_dir):
        out.print(f"  {about}", soft_wrap=True)
    asked, count = loaded.cohort_size, loaded.clients.count
    cohort = f"{asked} of {count}" if asked < count else f"all {count}" if count > 1 else "one"
    trained = [forecast.trained_on(loaded, size) for size in sizes]
    examples = "example" if trained and max(trained) == 1 else "examples"
    own = f"{tables.span(trained)} training {examples} each" if sizes else "each with the data of its node"
    if sizes and loaded.clients.holdout:
        own += f", besides {tables.span(map(sub, sizes, trained))} held out"
    clients = "client takes" if count == 1 else "clients take"
    out.print(f"  {cohort} {clients} part in a round, {own}", soft_wrap=True)
    if expected is not None:
        out.print(tables.forecast(expected, loaded.machines.clock))
    return Exit.DONE


def partition(
    experiment: ExperimentFile,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw it: a .png, .svg or .pdf.", show_default=False)
    ] = None,
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
    as_json: Json = False,
) -> int:
    """Show how an experiment spreads its data: examples by client and label, held-out ones among them."""
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise InvalidInput(f"--plot {plot}: its name must end in .png, .svg or .pdf, for what is drawn")
    loaded = experiments.load(experiment)
    with _in(experiment):
        found = data.spread(loaded, Folders(RUNS, tasks_dir, datasets_dir))
    if found is None:
        raise InvalidInput(f"{experiment}: partition.kind = pinned: the data is on the nodes, not here")
    about = data.described(loaded, tasks_dir)
    if plot is not None:
        from lab import charts

        charts.save_partition(found, plot, "\n".join(filter(None, (title(loaded), about))))
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        if about:
            out.print(about, soft_wrap=True)
        out.print(tables.partition(found), crop=False)  # a line that a terminal wraps can still be read
        if plot is not None:
            out.print(f"drawn: {plot}", soft_wrap=True)
    return Exit.DONE


def status(
    url: Url = None,
    admin_token_file: TokenFile = None,
    ca: Ca = None,
    runs_dir: Runs = RUNS,
    as_json: Json = False,
) -> int:
    """Show what a lab is doing and who is in it, until Ctrl-C; once, where the output is not a terminal."""
    place = Place(Folders(runs_dir), url, admin_token_file, ca=ca)
    with present(place) as api:
        if as_json:
            print_json({"runs": _plain(api.runs()), "workers": _plain(api.workers())})
        elif not animated():
            out.print(tables.status(api.runs(), api.workers()))
        else:
            _watch_status(api)
    return Exit.DONE


def runs(
    url: Url = None,
    admin_token_file: TokenFile = None,
    ca: Ca = None,
    runs_dir: Runs = RUNS,
    as_json: Json = False,
) -> int:
    """List the runs, oldest first."""
    place = Place(Folders(runs_dir), url, admin_token_file, ca=ca)
    with reach(place) as (api, live):
        views = api.runs()
    if as_json:
        print_json(_plain(views))
    else:
        out.print(
            tables.runs(views, live)
            if views
            else f"no runs yet: start one with `{command()} run experiments/demo.toml{place.options}`"
        )
    return Exit.DONE


def stop(
    run: Run, url: Url = None, admin_token_file: TokenFile = None, ca: Ca = None, runs_dir: Runs = RUNS
) -> int:
    """Stop a run after its last committed round; `lab resume` goes on with it."""
    place = Place(Folders(runs_dir), url, admin_token_file, ca=ca)
    with reach(place) as (api, _):
        view = named(place, api, run)
        api.stop(view.id)
    out.print(
        f"stopped {view.id} after round {view.round}; "
        f"`{command()} resume {view.id}{place.options}` goes on with it",
        soft_wrap=True,
    )
    return Exit.DONE


def export_model(
    run: Run,
    target: Annotated[
        Path, typer.Argument(metavar="FILE", help="model.keras or model.safetensors.", show_default=False)
    ],
    which: Annotated[
        str, typer.Option("--which", help="latest, best, or round:N where that checkpoint was kept.")
    ] = "latest",
    url: Url = None,
    admin_token_file: TokenFile = None,
    ca: Ca = None,
    runs_dir: Runs = RUNS,
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
) -> int:
    """Write a run's model to a file: for Keras, or as safetensors for anything else."""
    export.check_target(target)
    folders = Folders(runs_dir, tasks_dir, datasets_dir)
    place = Place(folders, url, admin_token_file, ca=ca)
    with reach(place) as (api, _):
        detail = api.run(named(place, api, run).id)
        export.export(api, detail.id, detail.experiment, which, target, folders)
    out.print(f"wrote {target}: {which} of {detail.id}", soft_wrap=True)
    return Exit.DONE


def verify(
    run: Run,
    url: Url = None,
    admin_token_file: TokenFile = None,
    ca: Ca = None,
    runs_dir: Runs = RUNS,
    as_json: Json = False,
) -> int:
    """Check a run's ledger, every kept file against it, and recompute the rounds whose updates were kept.

    With --url only the chain can be checked: the files are on the aggregator's machine.
    """
    place = Place(Folders(runs_dir), url, admin_token_file, ca=ca)
    with reach(place) as (api, _):
        view = named(place, api, run)
        entries = api.ledger(view.id) if url else None
    found = verification.of_ledger(view, entries) if url else verification.of_files(view.id, place.folders)
    if as_json:
        print_json(found.body)
    else:
        for line in found.lines:
            out.print(line, soft_wrap=True)  # a path in two pieces is no path
    return Exit.DONE if found.holds else Exit.FAILED


def report(
    run: Run,
    url: Url = None,
    admin_token_file: TokenFile = None,
    ca: Ca = None,
    runs_dir: Runs = RUNS,
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
) -> int:
    """Write runs/RUN/report.html again; from the lab where a run ended without `lab` watching, or goes on."""
    folders = Folders(runs_dir, tasks_dir, datasets_dir)
    place = Place(folders, url, admin_token_file, ca=ca)
    here = runs_dir / run
    listed = folders.state.is_dir() or url is not None  # else there are only results, of labs elsewhere
    if _has_results(here) and not (listed and (run == "latest" or results.read(here).state != "finished")):
        folder = _again(runs_dir, run)
    else:
        with reach(place) as (api, _):
            folder = _of_the_lab(place, api, run)
    out.print(f"wrote {folder / 'report.html'}", soft_wrap=True)
    return Exit.DONE


@contextmanager
def _in(file: Path) -> Iterator[None]:
    """What is at fault in an experiment, with the name of its file."""
    try:
        yield
    except InvalidExperiment as error:
        raise InvalidExperiment(f"{file}: {error}") from None


def _has_results(folder: Path) -> bool:
    return (folder / "result.json").exists()


def _again(runs_dir: Path, run: str) -> Path:
    """The report of results that are here."""
    from lab import report as page

    result = results.read(runs_dir / run)
    drawn = results.predictions_of(runs_dir / run)
    return results.write(runs_dir, result, partial(page.html, predictions=drawn), predictions=drawn)


def _of_the_lab(place: Place, api: Api, run: str) -> Path:
    """The report of the run as it is there now."""
    runs_dir = place.folders.runs
    try:
        detail = api.run(named(place, api, run).id)
    except Unknown:
        if not _has_results(runs_dir / run):
            raise
        return _again(runs_dir, run)  # of another lab
    if results.current(runs_dir / detail.id, detail) is not None:
        return _again(runs_dir, detail.id)
    if detail.state not in ENDED:
        out.print(f"{detail.id} has not ended: this is it up to round {detail.round}", soft_wrap=True)
    return record(place, detail, tuple(api.workers()), api)


def _plain(models: Sequence[BaseModel]) -> list[Any]:
    return [model.model_dump(mode="json") for model in models]


def _watch_status(api: Api) -> None:
    """Once a second until Ctrl-C, or until the lab is gone."""
    never = threading.Event()
    with suppress(KeyboardInterrupt), RichLive(console=out, transient=True, auto_refresh=False) as live:
        while True:
            live.update(tables.status(api.runs(), api.workers()), refresh=True)
            never.wait(1.0)
