"""`lab study check | run | report`: studies from the command line."""

from __future__ import annotations

import math
import shlex
import time
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import psutil
import typer
from roundtable.errors import InvalidSetting, RoundtableError

from lab import data, machine
from lab.api import checked_url
from lab.called import FROM_THE_ROOT
from lab.exits import Exit
from lab.live import clock, percent
from lab.native import Folders
from lab.options import DATASETS, TASKS, Ca, Datasets, NoLive, Port, Tasks, TokenFile, Url, animated, out
from lab.place import Place
from lab.progress import counted
from lab.study import pace, ready
from lab.study.conduct import MINUTE, Conduct
from lab.study.files import load
from lab.study.measures import last
from lab.study.records import Store, why_other
from lab.study.show import Live, Plain, Show, Standing
from lab.study.sitting import Sitting, drop

OUT = Path("runs/studies")

StudyFile = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A TOML file, such as studies/quick.toml.", show_default=False)
]
Out = Annotated[Path, typer.Option("--out", help="Where results go: a folder for each study in here.")]

app = typer.Typer(
    name="study",
    help="Vary an experiment, repeat it, and report with intervals (docs/studies.md).",
    no_args_is_help=True,
)


@app.command()
def check(study: StudyFile, tasks_dir: Tasks = TASKS, datasets_dir: Datasets = DATASETS) -> int:
    """Check a study, its tasks and its data, and list its cells, without running anything."""
    file, sections = load(study)
    folders = Folders(OUT, tasks_dir, datasets_dir)
    runs = 0
    for found in ready.check(sections, folders, elsewhere=False):
        own = found.section.study
        baselines = sum(cell.kind == "centralized" for cell in found.cells)
        also = f", {baselines} of them training in one place" if baselines else ""
        out.print(
            f"{found.section.key}: {counted(len(found.cells), 'cell')}{also}, "
            f"{counted(own.repeats, 'repeat')} each"
        )
        for cell in found.cells:
            about = f"{pace.kind(cell.experiment)}, {cell.experiment.rounds.count} rounds"
            out.print(f"  {cell.id:<40} {about}", soft_wrap=True)
        runs += len(found.cells) * own.repeats
    budget = file.budget_minutes
    fewer = f", or fewer repeats to end in {budget:g} minutes" if budget else ""
    out.print(f"{study}: fine: {counted(runs, 'run')} in all{fewer}", soft_wrap=True)
    return Exit.DONE


@app.command()
def run(
    study: StudyFile,
    out_dir: Out = OUT,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", min=1, help="Worker processes; the study's number where left out."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="A budget of time: repeats are trimmed to fit into it.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set aside what is there and start anew.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed repeats again.")] = False,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep every run's weights and states in OUT/.lab.")
    ] = False,
    url: Url = None,
    admin_token_file: TokenFile = None,
    ca: Ca = None,
    grafana: Annotated[
        str | None,
        typer.Option(
            "--grafana", envvar="GRAFANA_URL", help="With --url: link each repeat to its window there."
        ),
    ] = None,
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
    port: Port = 0,
    no_live: NoLive = False,
) -> int:
    """Run what is missing of a study, one experiment after another, and write its report.

    Ctrl-C and crashes lose the repeat under way at most: the same command goes on.
    """
    began = psutil.Process().create_time()
    if minutes is not None and not 0 < minutes < math.inf:
        raise InvalidSetting(f"--minutes {minutes:g}: some time above 0 is needed")
    file, sections = load(study)
    if url is not None:
        checked_url(url)
    found = ready.check(sections, Folders(out_dir, tasks_dir, datasets_dir), elsewhere=url is not None)
    show: Show = Live(out) if animated() and not no_live else Plain(out)
    budget = minutes if minutes is not None else file.budget_minutes
    place = Place(Folders(out_dir / ".lab", tasks_dir, datasets_dir), url, admin_token_file, port, ca=ca)
    number = workers or max(section.study.workers for section in sections)
    with Sitting(place, number, show, grafana, keep_weights) as sitting:
        conduct = Conduct(
            found,
            out_dir,
            sitting,
            show,
            began,
            url or f"native, {counted(number, 'worker')}",
            None if budget is None else budget * MINUTE,
            fresh,
            retry_failed,
            pictured=frozenset(
                (part.section.key, cell.id)
                for part in found
                for cell in part.cells
                if data.draws(cell.experiment, tasks_dir)
            ),
        )
        conduct.open()
        try:
            conduct.run()
            conduct.settle("")
        except RoundtableError as error:
            conduct.settle(str(error))
            raise
        except KeyboardInterrupt:
            show.end()
            conduct.settle("interrupted")
            left = len(conduct.jobs())
            out.print(
                f"interrupted: {conduct.done} runs more are kept, {left} are left: the same command goes on"
            )
            return Exit.INTERRUPTED
        finally:
            show.end()
    report(study, out_dir, tasks_dir=tasks_dir, datasets_dir=datasets_dir)
    if not keep_weights:
        for repeat in (r for record in conduct.records.values() for r in record.repeats if r.run):
            drop(place.folders, str(repeat.run))
    took = time.time() - began
    over = "" if budget is None or took <= budget * MINUTE else f", over its {clock(budget * MINUTE)}"
    failed = f"{conduct.failed} of them failed" if conduct.failed else "none failed"
    out.print(f"{counted(conduct.done, 'run')}, {failed}; {clock(took)} in all{over}")
    return Exit.FAILED if conduct.failed else Exit.DONE


@app.command()
def repeat(
    study: StudyFile,
    cell: Annotated[str, typer.Argument(metavar="STUDY/CELL", help="As `lab study check` lists it.")],
    seed: Annotated[int, typer.Option("--seed", help="Which of its repeats.")] = 1,
    out_dir: Out = OUT,
    workers: Annotated[int | None, typer.Option("--workers", "-w", min=1)] = None,
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
    port: Port = 0,
    no_live: NoLive = False,
) -> int:
    """Run one repeat of one cell again, beside the results, and say whether it gives the same bits.

    It tells the hash of its weights, which a report's repeats.csv has for each repeat.
    """
    _, sections = load(study)
    found = ready.check(sections, Folders(out_dir, tasks_dir, datasets_dir), elsewhere=False)
    known = {f"{part.section.key}/{own.id}": (part, own) for part in found for own in part.cells}
    if cell not in known:
        near = get_close_matches(cell, known, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InvalidSetting(
            f"{cell}: {study} has no such cell{hint}; `lab study check {shlex.quote(str(study))}` lists them"
        )
    part, own = known[cell]
    show: Show = Live(out) if animated() and not no_live else Plain(out)
    place = Place(Folders(out_dir / ".lab", tasks_dir, datasets_dir), port=port)
    show.stand(Standing(0, 1, None, f"{cell} seed {seed}"))
    with Sitting(place, workers or part.section.study.workers, show) as sitting:
        try:
            result = sitting.carry_out(own.with_seed(seed), part.section.study.time_limit)
        except KeyboardInterrupt:
            out.print("interrupted")
            return Exit.INTERRUPTED
        finally:
            show.end()
    if result.state == "failed":
        out.print(f"{cell} seed {seed} failed: {result.reason}", soft_wrap=True)
        return Exit.FAILED
    accuracy = percent(last(result, "accuracy"))
    out.print(f"{cell} seed {seed}: {accuracy} after {len(result.rounds)} rounds", soft_wrap=True)
    out.print(f"weights {result.weights_hash}", soft_wrap=True)
    kept = Store(out_dir / part.section.key).all().get(own.id)
    before = next((r for r in kept.repeats if r.seed == seed), None) if kept else None
    if kept is None or before is None or before.weights_hash is None:
        out.print(
            f"no such repeat is recorded in {out_dir}: compare with weights_hash in a report's repeats.csv",
            soft_wrap=True,
        )
        return Exit.DONE
    if before.weights_hash == result.weights_hash:
        out.print("the same weights as recorded, bit for bit")
        return Exit.DONE
    why = why_other(kept, before, part.versions[own.id], result, machine.here().cpu)
    out.print(f"its weights DIFFER from those recorded, {before.weights_hash}: {why}", soft_wrap=True)
    return Exit.FAILED


@app.command()
def report(
    study: StudyFile,
    out_dir: Out = OUT,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="Where to write it; OUT/STUDY where left out.", show_default=False),
    ] = None,
    note: Annotated[
        str,
        typer.Option(help="What its readers must know of how it was run, at its top.", show_default=False),
    ] = "",
    tasks_dir: Tasks = TASKS,
    datasets_dir: Datasets = DATASETS,
) -> int:
    """Write the report of what has been run so far: report.html, report.md, CSV and figures."""
    from lab.study import page, pictures  # matplotlib and scipy: a second, for those alone who need it

    file, sections = load(study)
    places = Place(Folders(tasks=tasks_dir, datasets=datasets_dir)).working if to is None else ""
    if to is None and out_dir != OUT:
        places = f" --out {shlex.quote(str(out_dir))}{places}"  # beside the results: who reads it has them
    quoted = _literal(f"{FROM_THE_ROOT} study repeat {shlex.quote(str(_named(study, to is not None)))}")
    command = f"{quoted} {{cell}} --seed {{seed}}{_literal(places)}"
    for problem in pictures.make(out_dir, sections, Folders(out_dir / ".lab", tasks_dir, datasets_dir)):
        out.print(f"predictions are not drawn: {problem}", soft_wrap=True)
    made = page.gather(file, sections, out_dir, command, tasks_dir, note)
    folder = to or out_dir / file.name
    written = page.write(made, folder)
    page.write_tables(sections, out_dir, folder, tasks_dir)
    out.print(f"report  {written}", soft_wrap=True)
    return Exit.DONE


def _named(study: Path, published: bool) -> Path:
    """The file as a report's commands name it: none of this machine's folders in what is published."""
    with suppress(ValueError):
        return study.absolute().relative_to(Path.cwd())
    return Path("studies", study.name) if published else study


def _literal(text: str) -> str:
    """As it stands in a template of `str.format`."""
    return text.replace("{", "{{").replace("}", "}}")
