"""What a run leaves for the next one is of no other task, and of no other seed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lab.export import assigned, export
from lab.native import Folders
from roundtable.codec import encode
from roundtable.errors import InvalidSetting, InvalidTask
from roundtable.experiment import parse
from roundtable.messages import Plan
from worker.shelf import Shelf
from worker.trainer import Trainer

TASKS = """
import numpy as np
from roundtable.tasks import Data, Task

class Small(Task):
    sign = 1.0

    def load(self, data_dir):
        x = self.sign * np.arange(40, dtype=np.float32).reshape(10, 4)
        y = (np.arange(10) % 2).astype(np.uint8)
        return Data(x, y, x, y)

    def model(self):
        import keras
        features = np.random.normal(size=(4, 8)).astype(np.float32)  # constants of the graph, no weights
        entry = keras.Input((4,))
        return keras.Model(entry, keras.layers.Dense(2)(keras.ops.cos(keras.ops.matmul(entry, features))))

    def loss(self):
        import keras
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

class Turned(Small):
    sign = -1.0

class Half(Small):
    def model(self):
        import keras
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
        return super().model()

class Named(Small):
    saved = True

    def model(self):
        import keras

        class Plain(keras.layers.Dense):
            def get_config(self):
                raise NotImplementedError("no get_config")

        layer = keras.layers.Dense if self.saved else Plain
        return keras.Sequential([keras.Input((4,)), layer(2, name="seed_generator_head")])

class Unsaved(Named):
    saved = False

class Learned(Small):
    units = 2

    def load(self, data_dir):
        self.units, self.classes = 3, ("even", "odd")
        return super().load(data_dir)

    def model(self):
        import keras
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(self.units)])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.py").write_text(TASKS)
    return tmp_path


def trainer(folder: Path, shelf: Shelf, task: str = "small:Small", seed: int = 1) -> Trainer:
    body: dict[str, Any] = {"name": "t", "task": task, "seed": seed, "clients": {"count": 2}}
    return Trainer(Plan(run="r", experiment=parse(body)), folder, folder, None, "here", shelf)


def test_two_classes_of_one_file_share_nothing(folder: Path) -> None:
    shelf = Shelf()
    one, other = (trainer(folder, shelf, task) for task in ("small:Small", "small:Turned"))
    assert one.task_hash != other.task_hash and one.data_hash != other.data_hash
    np.testing.assert_array_equal(one._data.x_test, -other._data.x_test)


def test_a_link_to_nowhere_among_the_data_sets_is_no_matter(folder: Path) -> None:
    (folder / "gone.npz").symlink_to(folder / "unplugged" / "gone.npz")
    assert trainer(folder, Shelf()).data_hash


def bits(trainer: Trainer) -> list[bytes]:
    weights, _ = trainer.initialize()
    trainer.use(weights.manifest)
    trained = trainer.train(0, 1, weights, None, None, lambda: False)
    return [array.tobytes() for array in (*weights.arrays, *trained.update.arrays)]


def test_what_a_model_draws_besides_its_weights_is_of_no_run_s_seed(folder: Path) -> None:
    shelf = Shelf()
    trainer(folder, shelf, seed=1)
    assert bits(trainer(folder, shelf, seed=2)) == bits(trainer(folder, Shelf(), seed=2))


def test_a_model_s_dtype_policy_is_its_own(folder: Path) -> None:
    alone = bits(trainer(folder, Shelf()))
    assert bits(trainer(folder, Shelf(), "small:Half")) != alone
    assert bits(trainer(folder, Shelf())) == alone


def test_a_model_knows_nothing_of_what_was_loaded_in_any_run(folder: Path) -> None:
    shelf = Shelf()
    first, second = (bits(trainer(folder, shelf, "small:Learned")) for _ in range(2))
    assert first == second == bits(trainer(folder, Shelf(), "small:Learned"))
    assert len(first[0]) == 4 * 2 * 4


def test_an_exported_model_is_the_one_that_was_trained(folder: Path) -> None:
    trained = trainer(folder, Shelf(), seed=2)
    weights, _ = trained.initialize()
    experiment = trained._experiment
    model = assigned(experiment, trained._task, weights)
    trainable, others = trained._model.split(list(weights.arrays))
    x = trained._data.x_test
    np.testing.assert_array_equal(model(x), trained._model.predict(trainable, others, [], x, False)[0])


def exported(folder: Path, task: str) -> Path:
    trained = trainer(folder, Shelf(), task)
    weights, _ = trained.initialize()

    def download(*asked: Any) -> None:
        asked[-1].write_bytes(b"".join(encode({"weights": weights}).buffers))

    api: Any = SimpleNamespace(download=download)
    folders = Folders(runs=folder, tasks=folder, datasets=folder)
    export(api, "r", trained._experiment, "latest", folder / "model.keras", folders)
    return folder / "model.keras"


def test_a_layer_may_have_any_name_in_an_export(folder: Path) -> None:
    assert exported(folder, "small:Named").exists()


def test_a_model_that_keras_cannot_save_is_one_line_and_no_file(folder: Path) -> None:
    with pytest.raises(
        InvalidTask, match=r"Keras cannot save its model \(export to .safetensors, .*no get_config"
    ):
        exported(folder, "small:Unsaved")
    assert not list(folder.glob("*.keras"))


def test_a_full_disk_is_not_laid_to_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    with pytest.raises(InvalidSetting, match=r"model\.keras: No space left on device"):
        exported(folder, "small:Small")
