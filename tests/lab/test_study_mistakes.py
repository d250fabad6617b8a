"""Studies and records that mean nothing, or something else than was meant: said, with the remedy."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from lab import machine
from lab.commands import run_app
from lab.exits import Exit
from lab.study import gaps, page, pictures, ready
from lab.study.cells import cells
from lab.study.files import load
from lab.study.records import Store, check_same
from lab.study.schema import InvalidStudy
from lab.study.summary import summary
from roundtable.errors import InvalidInput, NotPossible

from tests.lab.studies import a_record, a_repeat, records, section, tiny

ROOT = Path(__file__).parents[2]


# --- files


def test_clients_whose_data_overlap_have_no_training_in_one_place(tmp_path: Path) -> None:
    levels = '[{ name = "o", set = { partition = { kind = "fixed", size = 200, overlap = true } } }]'
    assert cells(section(tiny(tmp_path, levels)))
    with pytest.raises(
        InvalidStudy, match=r"tiny: centralized: found true, but .* overlap .* allowed: false"
    ):
        cells(section(tiny(tmp_path, levels, "centralized = true")))


def test_more_seeds_and_better_estimates_are_no_other_study(tmp_path: Path) -> None:
    level = '[{{ name = "few", set = {{ "clients.count" = 2 }}{more} }}]'
    before = section(tiny(tmp_path, level.format(more=""), "seeds = [7, 8, 9]"))
    path = tiny(tmp_path, level.format(more=", typical_rounds = 9"), "seeds = [7, 8, 9, 10]")
    path.write_text(path.read_text().replace("repeats = 3", "repeats = 4", 1))
    assert section(path).digest == before.digest
    assert section(tiny(tmp_path, level.format(more="").replace("2", "3"))).digest != before.digest


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            'centralized = true\n[[published]]\nsource = "me"\n'
            "centralized = true\nvalue = 0.9\ncells = { clients = 2 }",
            'published "me": cells: found some with centralized = true',
        ),
        (
            '[[published]]\nsource = "me"\ncentralized = true\nvalue = 0.9',
            'published "me": centralized: found true; allowed: false, for the study has no',
        ),
        (
            '[[published]]\nsource = "me"\nvalue = 0.9\nhigh = 0.2',
            'published "me": high: found 0.2; allowed: the',
        ),
        (
            '[[published]]\nsource = "me"\ncurve = [0.9]\nhigh = 0.2',
            'published "me": high: found 0.2; allowed: the',
        ),
        ('outcomes = ["loss", "accuracy", "loss"]', 'outcomes: found "loss" twice; allowed: each once'),
    ],
)
def test_what_no_report_could_show_is_refused(tmp_path: Path, more: str, words: str) -> None:
    path = tiny(tmp_path)
    text = path.read_text()
    if "outcomes" in more:
        text = text.replace('outcomes = ["accuracy", "rounds_to_target"]\n', "")
    head, tables = (
        more.split("\n[[", 1) if "\n[[" in more else ("", more[2:]) if more[0] == "[" else (more, "")
    )
    path.write_text(
        text.replace("repeats = 3", f"repeats = 3\n{head}", 1) + (f"\n[[{tables}\n" if tables else "")
    )
    with pytest.raises(InvalidStudy) as caught:
        load(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: {words}")


def test_a_part_keeps_some_levels_and_may_have_outcomes_of_its_own(tmp_path: Path) -> None:
    tiny(tmp_path)
    whole = tmp_path / "all.toml"
    part = 'name = "all"\n[[parts]]\nstudy = "tiny"\n'
    whole.write_text(f"{part}levels = {{ clients = [] }}\n")
    with pytest.raises(
        InvalidStudy, match=r"parts\.tiny: levels: found none of clients; allowed: those to keep"
    ):
        load(whole)
    whole.write_text(f'{part}outcomes = ["loss"]\n')
    (found,) = load(whole)[1]
    assert (found.key, found.study.outcomes) == ("all-tiny", ["loss"])


@pytest.mark.parametrize(
    ("outcome", "field"), [("personal_gain", "personalized"), ("federated.accuracy", "federated")]
)
def test_an_outcome_of_an_evaluation_that_is_not_asked_for_is_refused(
    tmp_path: Path, outcome: str, field: str
) -> None:
    part = section(_with(tmp_path, '"accuracy", "rounds_to_target"', f'"{outcome}"', tiny(tmp_path)))
    with pytest.raises(
        InvalidStudy, match=rf'outcomes: found "{outcome}", .*with evaluation\.{field} = true'
    ):
        ready._check_evaluated(part.study, cells(part))
    asked = f"count = 4\nholdout = 0.2\n[experiment.evaluation]\n{field} = true"
    part = section(_with(tmp_path, "count = 4", asked))
    ready._check_evaluated(part.study, cells(part))


@pytest.mark.parametrize(
    ("field", "levels"),
    [
        ("clients.count", '[{ name = "a", set = {} }, { name = "b", set = {} }]'),
        ("description", '["a", "b"]'),
    ],
)
def test_a_factor_that_changes_nothing_is_refused(tmp_path: Path, field: str, levels: str) -> None:
    path = _with(tmp_path, '"clients.count"', f'"{field}"', tiny(tmp_path, levels))
    with pytest.raises(
        InvalidStudy, match="tiny: factor clients: levels: found 2 that change nothing of what"
    ):
        cells(section(path))


# --- records


@pytest.mark.parametrize(
    ("kept", "now", "words"),
    [
        (
            "native, 2 workers",
            "native, 1 workers",
            "by 2 workers on this machine since its 1 kept repeats were run: give --workers 2 to",
        ),
        ("native, 2 workers", "http://elsewhere:8080", "give --workers 2 and no --url to go on"),
        (
            "http://elsewhere:8080",
            "native, 2 workers",
            "elsewhere (http://elsewhere:8080) since its 1 kept repeats were run: run it there",
        ),
    ],
)
def test_results_of_another_lab_are_refused_with_how_to_have_it_again(
    tmp_path: Path, kept: str, now: str, words: str
) -> None:
    part = section(tiny(tmp_path, "[2]"))
    (cell,) = cells(part)
    record = a_record(part, cell, (a_repeat(1, (0.9,)),)).model_copy(update={"where": kept})
    with pytest.raises(NotPossible) as caught:
        check_same("tiny", {cell.id: record}, {cell.id: record.versions}, now)
    assert words in str(caught.value)


def test_records_of_a_time_when_more_counted_as_the_study_are_still_of_it(tmp_path: Path) -> None:
    part = section(tiny(tmp_path))
    (cell, _) = cells(part)
    record = a_record(part, cell, (a_repeat(1, (0.9,)),))
    older = record.versions.model_copy(update={"study": "0" * 64})
    record = record.model_copy(update={"versions": older})
    assert record.made_of.study == part.digest and record.made_of.code == older.code
    page._check_together(part, {cell.id: record})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"ended": 1012.0', '"ended": NaN', "repeats.0.ended"),
        ("{", "", "whole file"),
        ("ROUNDS", "", "repeats.0: Value error, rounds: found none of a repeat that finished"),
    ],
)
def test_a_damaged_cell_is_one_line_with_what_to_do(tmp_path: Path, old: str, new: str, words: str) -> None:
    part = section(tiny(tmp_path, "[2]"))
    (cell,) = cells(part)
    store = Store(tmp_path)
    store.write(a_record(part, cell, (a_repeat(1, (0.9,)),)))
    path = tmp_path / "cells/clients-2.json"
    text = path.read_text()
    old = re.search(r'"rounds": (\[.*?\n   \]),', text, re.DOTALL)[1] if old == "ROUNDS" else old  # type: ignore[index]
    assert old in text
    path.write_text(text.replace(old, new or ("[]" if old[0] == "[" else ""), 1))
    with pytest.raises(InvalidInput) as caught:
        store.all()
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: is not a cell") and words in line and "--fresh" in line


def test_fewer_repeats_than_were_run_are_no_gap(tmp_path: Path) -> None:
    found = records(section(tiny(tmp_path)), lambda _cell, _seed: 0.9)
    fewer = section(_with(tmp_path, "repeats = 3", "repeats = 2\nleast_repeats = 1"))
    assert gaps.of(summary(fewer, found), "why") == ""
    more = section(_with(tmp_path, "repeats = 2", "repeats = 4"))
    assert gaps.of(summary(more, found), "why") == "Cells have 3 of 4 repeats. Why: why."


def _with(folder: Path, old: str, new: str, path: Path | None = None) -> Path:
    path = path or folder / "tiny.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    return path


def test_the_commit_is_of_this_source_wherever_lab_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = machine.here()
    git = ["git", "-c", "user.name=s", "-c", "user.email=s@example.org"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "a student's own"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    after = machine.here()
    assert (after.git_commit, after.git_dirty) == (before.git_commit, before.git_dirty)


# --- commands


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_command_that_a_report_gives_is_what_has_to_be_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    folder = tmp_path / "my {own} studies"
    folder.mkdir()
    path, results = tiny(folder, "[2]"), tmp_path / "the results"
    given: list[str] = []
    monkeypatch.setattr(pictures, "make", lambda *_: ())
    monkeypatch.setattr(page, "gather", lambda *arguments: given.extend((arguments[3], arguments[5])))
    monkeypatch.setattr(page, "write", lambda *_: "report.html")
    monkeypatch.setattr(page, "write_tables", lambda *_: None)
    to = ["--to", str(tmp_path)] if elsewhere else []
    places = ["--out", str(results), "--tasks-dir", "my tasks"]
    assert run_app(["study", "report", str(path), *places, *to, "--note", "slow"]) == Exit.DONE
    assert given[1] == "slow"
    words = shlex.split(given[0].format(cell="tiny/clients-2", seed=1))
    named = "studies/tiny.toml" if elsewhere else str(path)
    assert words[1:7] == ["study", "repeat", named, "tiny/clients-2", "--seed", "1"]
    assert sorted(words[7:]) == ([] if elsewhere else sorted(places))  # another's machine has other folders
