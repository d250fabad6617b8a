"""Reports of segmentation and of personalisation: predictions beside masks, overlap, gains."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab import data, gains, machine, overlap, predictions, report, results
from lab.native import Folders
from lab.results import Result, Spread, Startup
from lab.study import page, pictures
from lab.study.records import CellRecord, Store
from lab.study.schema import Section
from lab.study.sitting import drop, weights_of
from lab.study.summary import summary
from PIL import Image
from roundtable.codec import encode
from roundtable.experiment import Experiment, parse
from roundtable.messages import Gain, RunDetail
from roundtable.tasks import find
from roundtable.weights import ArraySpec, Manifest, Weights

from tests.lab.studies import records, section, tiny

ROOT = Path(__file__).parents[2]
FOLDERS = Folders(Path("runs"), ROOT / "tasks", ROOT / "datasets")
TINY = {"tile": 16, "train_tiles": 16, "test_tiles": 64, "filters": 2, "depth": 1, "dilation": 1}
CLASSES = ("background", "thick cloud", "thin cloud", "cloud shadow")


def clouds(**options: Any) -> Experiment:
    return parse({"name": "sky", "task": "clouds", "task_options": {**TINY, **options}})


@pytest.fixture
def segmented(detail: RunDetail) -> Result:
    """A run whose evaluations have overlaps and whose clients told their gains."""
    history = tuple(
        record.model_copy(
            update={
                "metrics": {"mean_iou": 0.1 * record.round, "iou_0": 0.9, "iou_1": 0.123, "iou_3": 0.05},
                "personalized": Gain(num_examples=50, before={"accuracy": 0.61}, after={"accuracy": 0.87}),
                "gains": {
                    client: Gain(num_examples=10, before={"accuracy": 0.5}, after={"accuracy": 0.9})
                    for client in range(4)
                },
            }
        )
        for record in detail.history
    )
    return results.result_of(
        detail.model_copy(update={"history": history}),
        environment=machine.here(),
        startup=Startup(),
        workers=(),
        partition=Spread(labels=CLASSES, counts=((1, 2, 3, 4),)),
        command="lab run",
        data=data.described(clouds(), ROOT / "tasks"),
    )


def test_synthetic_data_are_called_so_in_the_result_and_in_the_report(
    segmented: Result, tmp_path: Path
) -> None:
    folder = results.write(tmp_path, segmented, report.html)
    assert "SYNTHETIC scenes" in (folder / "result.json").read_text(encoding="utf-8")
    assert "Data: SYNTHETIC scenes" in (folder / "report.html").read_text(encoding="utf-8")
    assert results.read(folder).data.startswith("SYNTHETIC")


def test_tasks_that_say_nothing_of_their_data_leave_no_empty_line(detail: RunDetail) -> None:
    assert data.described(detail.experiment, ROOT / "tasks") == ""
    assert data.described(parse({"name": "x", "task": "gone:Gone"}), ROOT / "tasks") == ""


def test_overlap_is_drawn_and_told_by_the_names_of_the_classes(segmented: Result) -> None:
    page = report.html(segmented)
    assert "mean 30.00 %, background 90.00 %, thick cloud 12.30 %, cloud shadow 5.00 %." in page
    assert "(synthetic)" in page
    curve = overlap.curve(segmented.rounds, CLASSES)
    for name in ("mean", "background", "thick cloud", "cloud shadow"):
        assert f">{name}<" in curve
    assert "thin cloud" not in curve


def test_gains_are_drawn_for_each_client_of_the_last_round_that_told(segmented: Result) -> None:
    page = report.html(segmented)
    assert "61.00 % before, 87.00 % after" in page
    silent = segmented.rounds[2].model_copy(update={"personalized": None, "gains": {}})
    told = gains.last([*segmented.rounds[:2], silent])
    assert told is not None and told.round == 2
    drawn = gains.figure(told)
    assert drawn.count(">0<") + drawn.count(">3<") >= 2
    assert gains.last([silent]) is None


def test_a_report_of_another_task_has_none_of_it(detail: RunDetail) -> None:
    plain = results.result_of(
        detail, environment=machine.here(), startup=Startup(), workers=(), partition=None, command="x"
    )
    page = report.html(plain)
    for heading in ("Overlap with the truth", "What the model sees", "local training is worth", "Data:"):
        assert heading not in page


def test_predictions_stay_with_a_run_whose_report_is_written_again(segmented: Result, tmp_path: Path) -> None:
    image = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(image, "PNG")
    folder = results.write(tmp_path, segmented, report.html, predictions=image.getvalue())
    drawn = results.predictions_of(folder)
    assert drawn == image.getvalue()
    page = report.html(segmented, predictions=drawn)
    assert "What the model sees" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # self-contained
    results.write(tmp_path, segmented, report.html, predictions=drawn)
    assert results.predictions_of(folder) == image.getvalue()
    assert results.predictions_of(tmp_path / "nowhere") is None


class TestFigure:
    def test_shows_a_row_a_name_and_a_column_an_example_with_every_class_in_the_legend(self) -> None:
        shown = {
            "image": np.zeros((3, 8, 8, 3), np.uint8),
            "mask": np.ones((3, 8, 8), np.uint8),
            "prediction": np.full((3, 8, 8), 2, np.uint8),
        }
        drawn = predictions.figure(shown, CLASSES, "after 3 rounds")
        assert len(drawn.axes) == 9
        assert [axes.get_ylabel() for axes in drawn.axes[::3]] == ["image", "mask", "prediction"]
        assert [text.get_text() for text in drawn.legends[0].get_texts()] == list(CLASSES)
        colours = [
            axes.images[0].to_rgba(axes.images[0].get_array())[0, 0]
            for axes in (drawn.axes[3], drawn.axes[6])
        ]
        patches = [patch.get_facecolor() for patch in drawn.legends[0].get_patches()]
        assert tuple(colours[0]) == patches[1] and tuple(colours[1]) == patches[2]

    def test_what_a_task_prints_while_they_are_drawn_is_not_among_the_commands_output(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "loud.py").write_text(
            "from roundtable.tasks import Task\nclass Loud(Task):\n"
            "    def model(self): ...\n    def loss(self): ...\n"
            "    def load(self, folder): print('loading')\n"
        )
        loud = parse({"name": "x", "task": "loud:Loud"})
        _, why = predictions.if_possible(loud, Folders(tasks=tmp_path), Weights(Manifest(()), ()), "x")
        assert why.startswith("predictions are not drawn: task loud:Loud")
        assert capsys.readouterr() == ("", "loading\n")

    def test_takes_examples_of_as_many_labels_as_there_are(self) -> None:
        labels = np.array([1] * 20 + [0, 2, 0] + [1] * 9)
        assert predictions.choice(labels).tolist() == [0, 1, 20, 21, 22]
        assert predictions.choice(np.array([7, 7])).tolist() == [0, 1]


def _studied(folder: Path, cells_: int) -> tuple[Section, dict[str, CellRecord]]:
    """A study of clouds with records whose weights hash is that of `weights_of` below."""
    path = tiny(folder, str(list(range(2, 2 + cells_))))
    options = "\n".join(f"{name} = {value}" for name, value in TINY.items())
    text = path.read_text().replace('task = "digits"', 'task = "clouds"')
    path.write_text(
        text.replace("[experiment.clients]", f"[experiment.task_options]\n{options}\n\n[experiment.clients]")
    )
    part = section(path)
    return part, records(part, lambda _cell, seed: 0.7 + seed / 1000)


def _file(weights: Weights) -> bytes:
    return b"".join(bytes(buffer) for buffer in encode({"weights": weights}).buffers)


@pytest.mark.usefixtures("one_thread")
class TestStudy:
    @pytest.mark.slow  # TensorFlow draws for each cell
    def test_shows_predictions_of_each_cell_beside_the_masks_and_says_synthetic(self, tmp_path: Path) -> None:
        part, found = _studied(tmp_path, 6)
        out, folders = tmp_path / "out", Folders(tmp_path / "out/.lab", ROOT / "tasks", ROOT / "datasets")
        message = _file(TestDrawing().weights(clouds()))
        for record in found.values():
            Store(out / "tiny").write(record)
            path = weights_of(folders, record.repeats[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(message)
        assert list(pictures.make(out, [part], folders)) == []
        drop(folders, "run-1")
        assert not list(folders.runs.rglob("*.safetensors"))
        assert list(pictures.make(out, [part], folders)) == []  # made once
        report_ = page.gather(part.study, [part], out, "{cell}{seed}", ROOT / "tasks")
        drawn = [plot for plot in report_.parts[0].plots if "-predictions-" in plot.name]
        assert [plot.name for plot in drawn] == ["tiny-predictions-1", "tiny-predictions-2"]
        assert "(clients 2; clients 3; clients 4; clients 5; clients 6)" in drawn[0].text
        assert "(clients 7)" in drawn[1].text
        written = page.write(report_, tmp_path / "made").read_text()
        assert "Data: SYNTHETIC scenes" in written and "The clouds are synthetic scenes." in written
        assert "Data: SYNTHETIC" in (tmp_path / "made/report.md").read_text()
        page.write_tables([part], out, tmp_path / "made", ROOT / "tasks")
        _, *lines = (tmp_path / "made/cells.csv").read_text().splitlines()
        assert lines and all("SYNTHETIC" in line for line in lines)

    def test_weights_that_do_not_fit_are_said_and_the_report_goes_without(self, tmp_path: Path) -> None:
        part, found = _studied(tmp_path, 1)
        folders = Folders(tmp_path / "out/.lab", ROOT / "tasks", ROOT / "datasets")
        (record,) = found.values()
        Store(tmp_path / "out/tiny").write(record)
        path = weights_of(folders, record.repeats[0])
        path.parent.mkdir(parents=True)
        path.write_bytes(_file(TestDrawing().weights(clouds(filters=3))))
        (problem,) = pictures.make(tmp_path / "out", [part], folders)
        assert problem.startswith("tiny/clients-2: task clouds now makes another model")
        said = "Predictions are not shown, for the weights were not kept here: clients 2."
        assert pictures.of(summary(part, found), tmp_path / "out", ROOT / "tasks") == ([], said)
        report_ = page.gather(part.study, [part], tmp_path / "out", "{cell}{seed}", ROOT / "tasks")
        assert report_.parts[0].words[-1] == said

    def test_predictions_are_of_the_weights_recorded_and_not_of_a_run_that_was_set_aside(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        part, found = _studied(tmp_path, 1)
        out, folders = tmp_path / "out", Folders(tmp_path / "out/.lab", ROOT / "tasks", ROOT / "datasets")
        (record,) = found.values()
        made = iter(range(9))

        def predicted(*_arguments: object) -> dict[str, Any]:
            return {"image": np.zeros(1), "prediction": np.full(1, next(made))}

        monkeypatch.setattr(pictures, "predicted", predicted)
        monkeypatch.setattr(pictures, "read_weights", bytes)
        monkeypatch.setattr(pictures, "figure", lambda rows, *_: rows["clients 2"].item())
        monkeypatch.setattr(pictures, "plotted", lambda drawn, *_: drawn)
        for weights, drawn in (("e", 0), ("f", 1), ("f", 1), ("e", 0)):
            own = tuple(r.model_copy(update={"weights_hash": weights * 64}) for r in record.repeats)
            again = record.model_copy(update={"repeats": own})
            Store(out / "tiny").write(again)
            path = weights_of(folders, own[0])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            assert list(pictures.make(out, [part], folders)) == []
            seen: object = pictures.of(summary(part, {again.cell: again}), out, ROOT / "tasks")
            assert seen == ([drawn], "")


@pytest.mark.usefixtures("one_thread")
class TestDrawing:
    def weights(self, experiment: Experiment) -> Weights:
        model = find("clouds", experiment.task_options, ROOT / "tasks").task.model()
        arrays = [np.asarray(variable) for variable in model.weights]
        specs = tuple(ArraySpec(v.name, tuple(v.shape)) for v in model.weights)
        return Weights.of(Manifest(specs), arrays)

    def test_a_models_weights_become_a_picture_the_same_each_time(self) -> None:
        experiment = clouds()
        weights = self.weights(experiment)
        one, other = (predictions.png(experiment, FOLDERS, weights, "sky") for _ in range(2))
        assert one == other
        with Image.open(io.BytesIO(one)) as image:
            assert image.format == "PNG" and image.width > 600

    def test_weights_of_another_model_are_told_and_nothing_is_drawn(self) -> None:
        drawn, why = predictions.if_possible(clouds(), FOLDERS, self.weights(clouds(filters=3)), "sky")
        assert drawn is None
        assert why.startswith("predictions are not drawn: task clouds now makes another model")

    def test_a_data_set_that_is_not_here_is_told(self, tmp_path: Path) -> None:
        experiment = clouds(data="tiles")
        folders = Folders(tmp_path, ROOT / "tasks", tmp_path)
        drawn, why = predictions.if_possible(experiment, folders, self.weights(experiment), "sky")
        assert drawn is None and "there is no such folder" in why

    def test_only_tasks_with_pictures_are_drawn(self, detail: RunDetail) -> None:
        assert data.draws(clouds(), ROOT / "tasks")
        assert not data.draws(detail.experiment, ROOT / "tasks")
        assert not data.draws(parse({"name": "x", "task": "gone:Gone"}), ROOT / "tasks")
