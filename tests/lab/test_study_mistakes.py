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
from lab.study import gaps, page, pictures
from lab.study.cells import cells
from lab.study.records import Store
from lab.study.schema import InvalidStudy
from lab.study.summary import summary
from roundtable.errors import InvalidInput

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


# --- records


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


def _with(folder: Path, old: str, new: str) -> Path:
    path = folder / "tiny.toml"
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
    monkeypatch.setattr(page, "gather", lambda *arguments: given.append(arguments[3]))
    monkeypatch.setattr(page, "write", lambda *_: "report.html")
    monkeypatch.setattr(page, "write_tables", lambda *_: None)
    to = ["--to", str(tmp_path)] if elsewhere else []
    places = ["--out", str(results), "--tasks-dir", "my tasks"]
    assert run_app(["study", "report", str(path), *places, *to]) == Exit.DONE
    words = shlex.split(given[0].format(cell="tiny/clients-2", seed=1))
    assert words[1:7] == ["study", "repeat", str(path), "tiny/clients-2", "--seed", "1"]
    assert sorted(words[7:]) == ([] if elsewhere else sorted(places))  # another's machine has other folders
