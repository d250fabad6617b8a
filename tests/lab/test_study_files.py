"""Studies as files: what they come to, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.native import Folders
from lab.study import ready
from lab.study.cells import LONGEST, cells, centralized, slug
from lab.study.evaluated import metric_names
from lab.study.files import load, merged
from lab.study.schema import InvalidStudy, Study
from roundtable.errors import InvalidData
from roundtable.experiment import Experiment, parse

from tests.lab.studies import section, tiny

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "studies").glob("*.toml"))
SMALL_SCENES = {"tile": 32, "train_tiles": 2, "test_tiles": 2, "filters": 4, "depth": 1}
FOLDERS = Folders(Path("runs"), ROOT / "tasks", ROOT / "datasets")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_study_of_the_lab_comes_to_cells(path: Path) -> None:
    study, sections = load(path)
    assert study.name == path.stem
    for part in sections:
        found = cells(part)
        assert len({cell.id for cell in found}) == len(found)
        ready._check_outcomes(part.study)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name = ", "study.toml: is not TOML"),
        (b'name = "\xff"', "study.toml: is not UTF-8 text: save it as UTF-8"),
        (b"repeats = " + b"9" * 5000, "study.toml: has a number of more than 4,300 digits"),
        (None, "study.toml: cannot be read (No such file or directory); studies/ has examples"),
    ],
)
def test_a_file_that_is_no_toml_is_refused_as_an_experiment_is(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "study.toml").write_bytes(content)
    with pytest.raises(InvalidStudy) as refused:
        load(tmp_path / "study.toml")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_full_names_every_study_but_those_made_of_others() -> None:
    own = {path.stem for path in FILES if not load(path)[0].parts}
    assert {part.study for part in load(ROOT / "studies/full.toml")[0].parts} == own


def test_quick_cuts_down_and_keeps_what_it_does_not_name() -> None:
    _, sections = load(ROOT / "studies/quick.toml")
    nodes = next(part for part in sections if part.key == "quick-nodes")
    assert [cell.levels for cell in cells(nodes) if cell.levels] == [
        {"nodes": "10"},
        {"nodes": "30"},
        {"nodes": "50"},
    ]
    assert nodes.study.experiment["training"]["momentum"] == 0.9
    assert nodes.study.experiment["rounds"]["count"] == 6


def test_a_grid_has_every_combination_and_one_at_a_time_only_one_change(tmp_path: Path) -> None:
    more = '\n[[factors]]\nname = "rate"\nfield = "training.learning_rate"\nlevels = [0.1, 0.2, 0.4]\n'
    path = tiny(tmp_path)
    path.write_text(path.read_text() + more)
    assert len(cells(section(path))) == 6
    path.write_text(path.read_text().replace("repeats = 3", 'repeats = 3\ndesign = "one-at-a-time"', 1))
    changed = [cell.levels for cell in cells(section(path))]
    assert changed[0] == {"clients": "2", "rate": "0.1"}
    assert all(
        sum(a != b for a, b in zip(one.values(), changed[0].values(), strict=True)) <= 1 for one in changed
    )
    assert len(changed) == 4


def test_levels_may_set_several_fields_and_whole_tables(tmp_path: Path) -> None:
    path = tiny(
        tmp_path,
        '[{ name = "skew", set = { partition = { kind = "dirichlet", alpha = 0.1 }, '
        '"training.epochs" = 2 } }, 3]',
    )
    skew, three = cells(section(path))
    assert skew.experiment.partition.model_dump()["alpha"] == 0.1 and skew.experiment.training.epochs == 2
    assert three.experiment.clients.count == 3 and three.experiment.training.epochs == 1


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.integers() | st.dictionaries(st.sampled_from("xy"), st.integers()),
    )
)
def test_merging_leaves_both_tables_as_they_were(changes: dict[str, object]) -> None:
    base = {"a": {"x": 1}, "b": 2}
    result = merged(base, changes)
    assert base == {"a": {"x": 1}, "b": 2}
    assert all(result[key] == base[key] for key in base if key not in changes)


def test_a_choice_takes_the_place_of_another_and_its_fields() -> None:
    base = {"partition": {"kind": "dirichlet", "alpha": 0.1}, "training": {"epochs": 2}}
    result = merged(base, {"partition": {"kind": "iid"}, "training.batch_size": 8})
    assert result == {"partition": {"kind": "iid"}, "training": {"epochs": 2, "batch_size": 8}}


# --- training in one place


def test_the_baseline_holds_exactly_the_examples_of_the_clients_between_them() -> None:
    import numpy as np

    body = {
        "name": "a",
        "task": "digits",
        "clients": {"count": 5},
        "partition": {"kind": "fixed", "size": 20},
    }
    experiment, labels = parse(body), np.arange(1000) % 10
    baseline = centralized(experiment)
    theirs = np.sort(np.concatenate(experiment.partition.split(labels, 5, 3)))
    assert np.array_equal(baseline.partition.split(labels, 1, 3)[0], theirs)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 50), st.sampled_from([0.1, 0.25, 0.5, 1.0]), st.integers(1, 5), st.integers(1, 400))
def test_the_baseline_sees_as_many_samples_within_half_an_epoch(
    clients: int, fraction: float, epochs: int, rounds: int
) -> None:
    experiment = parse(
        {
            "name": "a",
            "task": "digits",
            "clients": {"count": clients, "fraction": fraction},
            "training": {"epochs": epochs},
            "rounds": {"count": rounds},
        }
    )
    baseline = centralized(experiment)
    assert baseline.clients.count == 1 and baseline.training.epochs == 1
    seen = rounds * epochs * experiment.cohort_size / clients  # epochs over all the data
    assert abs(baseline.rounds.count - seen) <= 0.5 or baseline.rounds.count == 1


def test_cells_that_differ_in_spread_alone_share_a_baseline(tmp_path: Path) -> None:
    levels = '[{ name = "even", set = {} }, { name = "skew", set = { partition = { kind = "shards" } } }]'
    found = cells(section(tiny(tmp_path, levels, "centralized = true")))
    assert [cell.kind for cell in found] == ["federated", "federated", "centralized"]
    assert found[2].beside == (found[0].id, found[1].id)
    assert Experiment.model_validate(found[2].experiment.model_dump()).clients.count == 1


# --- what is refused


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            ("clients.count", "clients.cuont"),
            ["factor clients = 2", "clients.cuont", "did you mean clients.count"],
        ),
        (("[2, 8]", "[2, 0]"), ["factor clients = 0", "clients.count: found 0", "at least 1"]),
        (('name = "clients"', 'nmae = "clients"'), ["factors", "nmae", "did you mean"]),
        (("[2, 8]", "[2, 2]"), ["found 2 twice"]),
        (('task = "digits"', 'task = "diggits"'), ["diggits", "no such task", "built in are"]),
        (('"accuracy", "rounds_to_target"', '"acuracy"'), ["outcomes", "acuracy", "allowed: accuracy"]),
        (("target = 0.8\n", ""), ["rounds_to_target", "need `target`"]),
        (("[2, 8]", "[2, 5000]"), ["5000", "clients.count"]),
        (("clients.count", ""), ["factors.0.field", 'found ""', "a dotted path into the experiment"]),
        (("[2, 8]", "[]"), ["factors.0.levels", "found []", "at least 1"]),
        (("target = 0.8", "target = 80.0"), ["target", "found 80", "at most 1", "70 % is 0.7"]),
        (("target = 0.8", "seeds = [1, 2, 1]"), ["seeds", "found 1 twice", "each seed once"]),
        (("target = 0.8", "least_repeats = 4"), ["least_repeats", "found 4", "at most repeats, 3"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path: Path, text: tuple[str, str], words: list[str]) -> None:
    path = tiny(tmp_path)
    path.write_text(path.read_text().replace(*text))
    with pytest.raises((InvalidStudy, InvalidData, Exception)) as caught:
        ready.check(load(path)[1], FOLDERS, elsewhere=False)
    assert type(caught.value).__module__.startswith(("roundtable", "lab"))
    lines = str(caught.value).splitlines()
    assert any(all(word in line for word in words) for line in lines), lines


@pytest.mark.parametrize(
    ("levels", "both"),
    [
        ('[{ name = "A b", set = { clients = { count = 2 } } }, { name = "a-b", set = {} }]', ["A b", "a-b"]),
        ('[{ name = "1", set = {} }, { name = "-1", set = { clients = { count = 2 } } }]', ["1", "-1"]),
    ],
)
def test_levels_that_would_be_one_cell_are_refused_and_both_named(
    tmp_path: Path, levels: str, both: list[str]
) -> None:
    with pytest.raises(InvalidStudy) as caught:
        cells(section(tiny(tmp_path, levels)))
    (line,) = str(caught.value).splitlines()
    assert line.startswith("tiny: factor clients: levels: found") and all(f'"{one}"' in line for one in both)


@pytest.mark.parametrize(("field", "levels"), [("seed", "[1, 2]"), ("name", '["a", "b"]')])
def test_a_factor_that_its_cells_overwrite_is_refused(tmp_path: Path, field: str, levels: str) -> None:
    path = tiny(tmp_path, levels)
    path.write_text(path.read_text().replace('"clients.count"', f'"{field}"'))
    with pytest.raises(
        InvalidStudy, match=f"^tiny: factor clients = .: {field}: found.*each cell has of its"
    ):
        cells(section(path))


@pytest.mark.parametrize(
    "levels",
    [
        '[{ name = "few", set = { clients = { count = 3 } } }]',
        '[{ name = "few", set = { "clients.count" = 3 } }, { name = "as it is", set = {} }]',
        '[{ name = "few", set = { "clients.count" = 3, "training.epochs" = 2 } }]',
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_two_factors_that_set_one_field_are_refused(tmp_path: Path, levels: str, first: bool) -> None:
    path = tiny(tmp_path)
    other = f'[[factors]]\nname = "other"\nlevels = {levels}\n'
    text = path.read_text()
    path.write_text(text.replace("[[factors]]", f"{other}\n[[factors]]") if first else f"{text}\n{other}")
    with pytest.raises(InvalidStudy) as caught:
        cells(section(path))
    (line,) = str(caught.value).splitlines()
    early, late = ("other = few", "clients") if first else ("clients = 2", "other")
    assert f"factor {early}: clients.count: found a field that factor {late} sets as well" in line


def test_named_levels_may_set_one_field_both_while_each_does_something(tmp_path: Path) -> None:
    path = tiny(tmp_path, '[{ name = "few", set = { "clients.count" = 3, "rounds.count" = 9 } }]')
    more = '[{ name = "long", set = { "rounds.count" = 20, "training.epochs" = 2 } }]'
    path.write_text(f'{path.read_text()}\n[[factors]]\nname = "work"\nlevels = {more}\n')
    (cell,) = cells(section(path))
    assert (cell.experiment.rounds.count, cell.experiment.clients.count) == (20, 3)
    path.write_text(path.read_text().replace('"clients.count" = 3, ', ""))
    with pytest.raises(InvalidStudy, match=r"clients = few: rounds\.count: found.*factor work sets as well"):
        cells(section(path))


def test_a_choice_that_takes_the_place_of_what_another_factor_set_is_refused_and_not_the_reverse(
    tmp_path: Path,
) -> None:
    kind = '{ name = "skew", set = { partition = { kind = "dirichlet" } } }'
    alpha = '[[factors]]\nname = "alpha"\nfield = "partition.alpha"\nlevels = [0.1, 1.0]\n'
    path = tiny(tmp_path, f"[{kind}]")
    text = path.read_text()
    path.write_text(f"{text}\n{alpha}")
    assert [cell.experiment.partition.model_dump()["alpha"] for cell in cells(section(path))] == [0.1, 1.0]
    path.write_text(text.replace("[[factors]]", f"{alpha}\n[[factors]]"))
    with pytest.raises(InvalidStudy, match=r"alpha = 0\.1: partition\.alpha: found.*factor clients sets as"):
        cells(section(path))


def test_factors_may_share_a_table_and_leave_one_as_it_is(tmp_path: Path) -> None:
    path = tiny(tmp_path, '[{ name = "all", set = { clients = {} } }]')
    half = '[{ name = "half", set = { clients = { fraction = 0.5 } } }]'
    path.write_text(f'{path.read_text()}\n[[factors]]\nname = "asked"\nlevels = {half}\n')
    (cell,) = cells(section(path))
    assert cell.experiment.clients.fraction == 0.5 and cell.experiment.clients.count == 4


def test_a_file_that_begins_with_a_mark_is_read_and_one_of_endless_digits_is_refused(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert section(path).study.name == "tiny"
    path.write_text(f"repeats = {'9' * 5000}\n")
    with pytest.raises(InvalidStudy, match="has a number of more than 4,300 digits"):
        section(path)


def test_a_cell_whose_name_no_file_could_have_is_refused_with_the_limit(tmp_path: Path) -> None:
    def level(letters: int) -> str:
        return f'[{{ name = "{"n" * letters}", set = {{}} }}]'

    (cell,) = cells(section(tiny(tmp_path, level(LONGEST - len("clients-")))))
    (tmp_path / f".{cell.id}.json.4194304").write_text("a draft of its record")
    with pytest.raises(InvalidStudy, match=rf"a name of {LONGEST + 1} letters.*at most {LONGEST}"):
        cells(section(tiny(tmp_path, level(LONGEST + 1 - len("clients-")))))


def test_a_profile_that_makes_every_round_impossible_is_refused_before_anything_starts(
    tmp_path: Path,
) -> None:
    profiles = "{ profiles = { dead = { drop = 1.0 } } }"
    level = f'{{ name = "gone", set = {{ rounds = {{ deadline = 1 }}, machines = {profiles} }} }}'
    with pytest.raises(InvalidStudy, match=r"clients = gone.*machines"):
        cells(section(tiny(tmp_path, f"[{level}]")))


def test_data_that_is_not_there_is_said_once_with_how_to_get_it(tmp_path: Path) -> None:
    path = tiny(tmp_path)
    path.write_text(path.read_text().replace('task = "digits"', 'task = "mnist"'))
    nowhere = Folders(tmp_path, ROOT / "tasks", tmp_path)
    with pytest.raises(InvalidData) as caught:
        ready.check(load(path)[1], nowhere, elsewhere=False)
    assert len(str(caught.value).splitlines()) == 1
    assert (
        "tiny: " in str(caught.value)
        and "mnist.npz" in str(caught.value)
        and "restore it" in str(caught.value)
    )
    assert ready.check(load(path)[1], nowhere, elsewhere=True)[0].examples["clients-2"] == 0


def test_parts_name_studies_and_levels_that_are_there(tmp_path: Path) -> None:
    tiny(tmp_path)
    whole = tmp_path / "all.toml"
    whole.write_text('name = "all"\n[[parts]]\nstudy = "tinny"\n')
    with pytest.raises(InvalidStudy, match=r"tinny.*allowed: all, tiny"):
        load(whole)
    whole.write_text('name = "all"\n[[parts]]\nstudy = "tiny"\nlevels = { clients = [3] }\n')
    with pytest.raises(InvalidStudy, match="found level 3 of clients; allowed: 2, 8"):
        load(whole)


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ("value = 87.0", 'published "me": value: found 87 for accuracy; allowed: 0 to 1; 87 % is 0.87'),
        ("value = 0.8\nhigh = 8.1", 'published "me": value: found 8.1 for accuracy'),
        ("curve = [0.5, 60.0]", 'published "me": curve: found 60 for accuracy; allowed: 0 to 1; 60 % is 0.6'),
        ('measure = "metrics.mean_iou"\nvalue = 62.0', "found 62 for metrics.mean_iou; allowed: 0 to 1"),
        (
            'measure = "acuracy"\nvalue = 0.8',
            "published \"me\": measure: found 'acuracy'; allowed: accuracy,",
        ),
        ('measure = "rounds"\nvalue = -1.0', "found -1 for rounds; allowed: 0 to inf"),
    ],
)
def test_a_published_figure_that_cannot_be_is_refused_with_how_it_is_written(
    tmp_path: Path, figure: str, words: str
) -> None:
    path = tiny(tmp_path)
    path.write_text(f'{path.read_text()}\n[[published]]\nsource = "me"\n{figure}\n')
    with pytest.raises(InvalidStudy) as caught:
        ready.check(load(path)[1], FOLDERS, elsewhere=False)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("tiny: ") and words in line


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '"accuracy", "metrics.nosuch"',
            'outcomes: found "metrics.nosuch", which task digits does not measure; allowed: accuracy, loss',
        ),
        ('"accuracy", "federated.acuracy"', '"federated.acuracy" (did you mean federated.accuracy?)'),
        ('"accuracy", "metrics.accuracy", "federated.loss"', ""),
    ],
)
def test_a_metric_that_the_task_does_not_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.setattr(ready, "apart", lambda function, *arguments: function(*arguments))
    path = tiny(tmp_path)
    asked = "count = 4\nholdout = 0.2\n[experiment.evaluation]\nfederated = true"
    given = path.read_text().replace("count = 4", asked)
    path.write_text(given.replace('"accuracy", "rounds_to_target"', text))
    _refused_with(path, words)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("metric", ["acuracy", "mean_iou", "metrics.loss"])
def test_a_target_that_the_task_does_not_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str
) -> None:
    monkeypatch.setattr(ready, "apart", lambda function, *arguments: function(*arguments))
    known = metric == "metrics.loss"
    words = f'target_metric: found "{metric}"'
    _refused_with(tiny(tmp_path, more=f'target_metric = "{metric}"'), "" if known else words)


def _refused_with(path: Path, words: str) -> None:
    """Not refused where there are none."""
    if not words:
        ready.check(load(path)[1], FOLDERS, elsewhere=False)
        return
    with pytest.raises(InvalidStudy) as caught:
        ready.check(load(path)[1], FOLDERS, elsewhere=False)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("tiny: ") and words in line


@pytest.mark.usefixtures("one_thread")
def test_all_that_a_confusion_matrix_gives_is_known_whatever_the_example_shows(tmp_path: Path) -> None:
    body = {"name": "a", "task": "clouds", "task_options": SMALL_SCENES, "clients": {"count": 2}}
    names = metric_names(parse(body), Folders(tmp_path, ROOT / "tasks", ROOT / "datasets"))
    assert names == {"loss", "accuracy", "mean_iou", "iou_0", "iou_1", "iou_2", "iou_3"}


def test_a_part_has_no_more_repeats_than_seeds_and_sets_nothing_that_cells_have_of_their_own(
    tmp_path: Path,
) -> None:
    tiny(tmp_path, more="seeds = [7, 8, 9]")
    whole = tmp_path / "all.toml"
    whole.write_text('name = "all"\n[[parts]]\nstudy = "tiny"\nrepeats = 4\n')
    with pytest.raises(InvalidStudy, match=r"parts.tiny: repeats: found 4; allowed: at most 3"):
        load(whole)
    whole.write_text('name = "all"\n[[parts]]\nstudy = "tiny"\nset = { seed = 9 }\n')
    with pytest.raises(InvalidStudy, match=r"parts.tiny: set: found seed, which each cell has of its own"):
        load(whole)


def test_a_target_of_the_loss_may_be_above_one_and_a_parts_own_is_held_to_the_metric_too(
    tmp_path: Path,
) -> None:
    path = tiny(tmp_path)
    whole = tmp_path / "all.toml"
    whole.write_text('name = "all"\n[[parts]]\nstudy = "tiny"\ntarget = 1.5\n')
    with pytest.raises(InvalidStudy, match=r"parts.tiny: target: found 1.5; allowed: at most 1, as accuracy"):
        load(whole)
    path.write_text(path.read_text().replace("target = 0.8", 'target = 2.1\ntarget_metric = "loss"'))
    assert section(path).study.target == 2.1 and section(whole).study.target == 1.5


@pytest.mark.parametrize(
    ("cut", "left"),
    [
        ("repeats = 2", ["accuracy", "rounds_to_target"]),
        ("target = 0.8", ["accuracy", "rounds_to_target"]),
        ("target = 0.5", ["accuracy"]),
        ('set = { "rounds.count" = 2 }', []),
    ],
)
def test_a_part_keeps_no_published_figure_of_what_it_does_not_run(
    tmp_path: Path, cut: str, left: list[str]
) -> None:
    path = tiny(tmp_path)
    figures = '[[published]]\nsource = "A paper"\nmeasure = "{}"\nvalue = 0.9\n'
    path.write_text(path.read_text() + figures.format("accuracy") + figures.format("rounds_to_target"))
    whole = tmp_path / "all.toml"
    whole.write_text(f'name = "all"\n[[parts]]\nstudy = "tiny"\n{cut}\n')
    assert [figure.measure for figure in section(whole).study.published] == left


def test_a_level_without_a_place_on_its_axis_is_refused(tmp_path: Path) -> None:
    path = tiny(tmp_path, "[4, 0, 8]")
    path.write_text(path.read_text().replace('name = "clients"', 'name = "clients"\nscale = "log"'))
    with pytest.raises(
        InvalidStudy, match=r'factors.clients: scale: found "log" with level 0; allowed: even'
    ):
        load(path)


def test_words_may_change_and_what_is_run_may_not(tmp_path: Path) -> None:
    before = section(tiny(tmp_path)).digest
    assert section(tiny(tmp_path, more='title = "Better"\nbudget_minutes = 3.0')).digest == before
    assert section(tiny(tmp_path, "[2, 9]")).digest != before


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=30))
def test_a_slug_is_a_file_name(text: str) -> None:
    assert set(slug(text)) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_a_study_without_anything_to_run_is_refused() -> None:
    with pytest.raises(ValueError, match="experiment: found nothing"):
        Study(name="empty")
