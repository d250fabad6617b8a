"""What a trainer does with data: evaluation, hold-outs, pinned folders, models and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from roundtable.errors import InvalidData, InvalidTask, NotAsked, NotFinite
from roundtable.experiment import parse
from roundtable.messages import Plan
from roundtable.tasks import find
from roundtable.weights import Weights
from worker.evaluation import BATCH
from worker.seeds import generator_states, held_out
from worker.shelf import Shelf
from worker.trainer import Trainer

from tests.worker import numpy_reference

ROOT = Path(__file__).parents[2]
DATASETS = ROOT / "datasets"


def never() -> bool:
    return False


def trainer(
    tasks_dir: Path = ROOT / "tasks",
    pinned_dir: Path | None = None,
    pinned_clients: dict[str, int] | None = None,
    **sections: Any,
) -> Trainer:
    body = {"name": "test", "task": "digits", "seed": 5, **sections}
    plan = Plan(run="r", experiment=parse(body), pinned_clients=pinned_clients or {})
    return Trainer(plan, tasks_dir, DATASETS, pinned_dir, "here")


# --- evaluation


def test_shards_add_up_to_the_whole_test_set() -> None:
    ours = trainer(evaluation={"shards": 7})
    weights, initialized = ours.initialize()
    whole = ours.evaluate(weights, None, None)
    shards = [ours.evaluate(weights, shard, None) for shard in range(7)]
    assert (
        sum(shard.num_examples for shard in shards) == whole.num_examples == 359 == initialized.test_examples
    )
    for name in initialized.metrics:
        assert sum(float(shard.sums[name]) for shard in shards) == pytest.approx(whole.sums[name], rel=1e-6)
    assert shards[3].model_copy(update={"seconds": 0.0}) == ours.evaluate(weights, 3, None).model_copy(
        update={"seconds": 0.0}
    )


def test_an_evaluation_is_what_numpy_computes_over_full_and_short_batches() -> None:
    ours = trainer()
    weights, _ = ours.initialize()
    data = ours._data
    assert len(data.x_test) % BATCH
    loss, accuracy, _ = numpy_reference.loss_and_gradients(
        [np.asarray(array, np.float64) for array in weights.arrays],
        data.x_test.reshape(359, -1) / 16,
        data.y_test,
    )
    found = ours.evaluate(weights, None, None)
    assert found.sums["loss"] == pytest.approx(359 * loss, rel=1e-5)
    assert found.sums["accuracy"] == round(359 * accuracy)


def test_a_client_is_evaluated_on_what_it_held_out() -> None:
    ours = trainer(clients={"count": 10, "holdout": 0.25})
    weights, _ = ours.initialize()
    trained = ours.train(4, 1, weights, None, None, never)
    evaluated = ours.evaluate(weights, None, 4)
    assert (trained.num_examples, evaluated.num_examples) == (108, 36)


def test_weights_that_overflow_say_that_training_diverged() -> None:
    ours = trainer()
    weights, _ = ours.initialize()
    huge = Weights.of(weights.manifest, [array * np.float32(1e30) for array in weights.arrays])
    with pytest.raises(NotFinite, match=r"lower training.learning_rate"):
        ours.evaluate(huge, 0, None)


@pytest.mark.parametrize(
    ("y", "said"),
    [
        ([1.0, np.nan] * 5, "y of 5 of these 10 examples is not finite"),
        ([1.0] * 10, r"ratio is nan: the loss is finite; let metrics\(\) give ratio as"),
    ],
)
def test_what_is_not_finite_is_not_laid_to_the_training(tmp_path: Path, y: list[float], said: str) -> None:
    (tmp_path / "gaps.py").write_text(f"""
import numpy as np
from roundtable.tasks import Data, Task

class Gaps(Task):
    def model(self):
        import keras
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1), keras.layers.Flatten()])
    def loss(self):
        return lambda y, p: (y - p[:, 0]) ** 2
    def metrics(self, y, p):
        return {{"ratio": 0.0 * p[0, 0] / 0.0}}
    def load(self, data_dir):
        nan = np.nan
        x, y = np.ones((10, 2), "float32"), np.array({y}, "float32")
        return Data(x, y, x, y)
    def labels(self, y):
        return np.zeros(len(y), int)
""")
    ours = trainer(tmp_path, task="gaps:Gaps", clients={"count": 1})
    weights, _ = ours.initialize()
    with pytest.raises(NotFinite, match=said):
        ours.evaluate(weights, None, None)
    if "ratio" not in said:
        with pytest.raises(NotFinite, match=f"the update is not finite .* {said}"):
            ours.train(0, 1, weights, None, None, lambda: False)


@given(st.integers(1, 300), st.floats(0, 0.5), st.integers(0, 2**32 - 1), st.integers(0, 99_999))
def test_a_hold_out_parts_a_clients_examples(size: int, share: float, seed: int, client: int) -> None:
    rows = np.arange(size, dtype=np.int64) * 3
    train, held = held_out(rows, share, seed, client)
    assert np.array_equal(np.sort(np.concatenate([train, held])), rows)
    assert len(held) == int(share * size) and len(train) > 0
    again = held_out(rows, share, seed, client)
    assert np.array_equal(again[0], train) and np.array_equal(again[1], held)


def test_generators_of_one_model_start_apart() -> None:
    states = generator_states(3, 1, 2, 3)
    assert len({tuple(state) for state in states.tolist()}) == 3
    assert states.min() >= 0 and states.max() < 2**31
    assert not np.array_equal(states, generator_states(3, 1, 2, 4))


# --- pinned


def test_a_pinned_node_trains_on_its_own_folder(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 17, (40, 8, 8)).astype(np.uint8), draw.integers(0, 10, 40).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    ours = trainer(
        pinned_dir=tmp_path,
        pinned_clients={"here": 2, "there": 0},
        partition={"kind": "pinned"},
        clients={"count": 3},
    )
    weights, _ = ours.initialize()
    assert ours.train(2, 1, weights, None, None, never).num_examples == 40
    with pytest.raises(NotAsked):
        ours.train(0, 1, weights, None, None, never)
    early = trainer(pinned_dir=tmp_path, partition={"kind": "pinned"})  # before the run told it its number
    assert early.train(2, 1, weights, None, None, never).num_examples == 40
    elsewhere = trainer(partition={"kind": "pinned"})  # no folder: it evaluates, and agrees on the test set
    assert elsewhere.data_hash == ours.data_hash
    assert elsewhere.evaluate(weights, 0, None).num_examples == 71
    with pytest.raises(NotAsked, match="client 2 has no data on this worker"):
        elsewhere.train(2, 1, weights, None, None, never)
    assert trainer().data_hash != ours.data_hash


# --- models


@pytest.mark.parametrize(
    ("task", "options", "parameters"),
    [
        ("mnist", {}, 199_210),
        ("mnist", {"model": "cnn"}, 1_663_370),
        ("digits", {}, 2_410),
        ("digits", {"model": "cnn"}, 4_538),
        ("cifar10", {}, 122_570),
    ],
)
def test_built_in_models_have_the_parameters_they_claim(task: str, options: Any, parameters: int) -> None:
    model = find(task, options, Path()).task.model()
    assert model.count_params() == parameters
    assert model.inputs[0].dtype == "uint8"


def test_the_seed_decides_the_first_weights() -> None:
    one, same, other = (trainer(seed=seed).initialize()[0] for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one.arrays, same.arrays, strict=True))
    assert not np.array_equal(one.arrays[0], other.arrays[0])


def test_a_confusion_matrix_is_no_list_of_ratios_and_takes_no_time_to_name(tmp_path: Path) -> None:
    (tmp_path / "many.py").write_text("""
import numpy as np
from roundtable.tasks import Data, Task

class Many(Task):
    def model(self):
        import keras
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    def loss(self):
        import keras
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    def metrics(self, y, p):
        import tensorflow as tf
        return {"confusion": tf.zeros([400 * 400]), "confusion_0": tf.constant(2.0)}
    def load(self, data_dir):
        x, y = np.ones((4, 2), "float32"), np.zeros(4, "int64")
        return Data(x, y, x, y)
""")
    ours = trainer(tmp_path, task="many:Many", clients={"count": 1})  # minutes, were it quadratic
    weights, _ = ours.initialize()
    assert ours.evaluate(weights, None, None).sums["confusion_0"] == 2.0


MODEL = "def model(self):\n        import keras\n        return keras.Sequential("
FAULTS = {
    "model": ("def model(self): return 3", "model\\(\\) must give a built Keras model"),
    "raises": (
        "def model(self): return [][1]",
        r"model\(\) failed: IndexError: list index out of range .*faulty.py",
    ),
    "model that needs the data": (
        "def load(self, d):\n        data = super().load(d)\n        self.size = 64\n        return data\n"
        f"    {MODEL}[keras.Input((self.size,)), keras.layers.Dense(10)])",
        r"no attribute 'size' \(.*faulty.py:\d+\); what load\(\) finds out is not there yet",
    ),
    "float64": (
        f"{MODEL}[keras.Input((64,)), keras.layers.Dense(10, dtype='float64')])",
        "is float64; every weight must be float32",
    ),
    "shape": (
        f"{MODEL}[keras.Input((63,)), keras.layers.Dense(10)])",
        "model, loss and metrics do not fit its data: ",
    ),
    "metric": (
        "def metrics(self, y, p):\n        return {'accuracy': p}",
        "metric accuracy has shape .* sum it over the batch's examples",
    ),
    "a metric's name": (
        "def metrics(self, y, p):\n        return {'a\\nb': 1.0}",
        "give it a name of one short line",
    ),
    "metrics of one name": (
        "def metrics(self, y, p):\n        return {'a': [1.0, 2.0, 3.0], 'a_1': 4.0}",
        "gives a_1 twice, once out of a list",
    ),
    "loss": (
        "def metrics(self, y, p):\n        return {'loss': 0.0}",
        'must give a dict of sums without "loss"',
    ),
    "load": ("def load(self, d):\n        return 1, 2", r"load\(\) gave tuple"),
    "labels": ("def labels(self, y):\n        return y[1:]", r"labels\(y\) has shape \(1499,\)"),
    "classes of the test set": (
        "classes = tuple('abcdefghij')\n    labels = lambda self, y: y + (len(y) < 1500)",
        "label 10 is unknown to the task, whose labels are 0 … 9",
    ),
    "classes": ("classes = ('a', 'b')", "label 9 is unknown to the task, whose labels are 0 … 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_task_is_refused_in_one_line(tmp_path: Path, fault: str) -> None:
    body, said = FAULTS[fault]
    (tmp_path / "faulty.py").write_text(f"""
from sklearn.datasets import load_digits
from roundtable.tasks import Data, Task

class Sound(Task):
    def model(self):
        import keras
        return keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
    def loss(self):
        import keras
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    def load(self, data_dir):
        x, y = load_digits(return_X_y=True)
        x = x.astype("float32")
        return Data(x[:1500], y[:1500], x[1500:], y[1500:])

class Faulty(Sound):
    {body}
""")
    with pytest.raises((InvalidTask, InvalidData), match=said) as error:
        trainer(tmp_path, task="faulty:Faulty")
    assert "\n" not in str(error.value)


# --- files


def test_the_example_in_the_documentation_is_the_one_that_runs() -> None:
    documented = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert (ROOT / "tasks" / "breast_cancer.py").read_text(encoding="utf-8") in documented


def test_the_example_task_learns_end_to_end() -> None:
    ours = trainer(
        task="breast_cancer:BreastCancer",
        task_options={"hidden": 32},
        clients={"count": 5},
        training={"batch_size": 16, "learning_rate": 0.1},
    )
    weights, initialized = ours.initialize()
    ours.use(weights.manifest)
    assert initialized.metrics == ("loss", "accuracy", "missed")
    for number in range(1, 11):
        updates = [
            ours.train(client, number, weights, None, None, never).update.arrays for client in range(5)
        ]
        mean = [np.mean(changes, axis=0) for changes in zip(*updates, strict=True)]
        weights = Weights.of(weights.manifest, [a + b for a, b in zip(weights.arrays, mean, strict=True)])
    found = ours.evaluate(weights, None, None)
    missed, malignant = found.sums["missed"]  # type: ignore[misc]
    assert found.sums["accuracy"] >= 0.92 * found.num_examples
    assert malignant == 42 and missed <= 10


def test_cifar10_jpegs_are_decoded(tmp_path: Path) -> None:
    import tensorflow as tf

    draw = np.random.default_rng(0)
    smooth = np.repeat(np.repeat(draw.integers(0, 256, (6, 4, 4, 3)), 8, 1), 8, 2).astype(np.uint8)
    coded = [tf.io.encode_jpeg(image, quality=95).numpy() for image in smooth]
    offsets = np.cumsum([0, *map(len, coded)])
    arrays = {
        "jpeg": np.frombuffer(b"".join(coded), np.uint8),
        "offsets": offsets,
        "y": np.arange(6, dtype=np.uint8),
    }
    content = {f"{name}_{part}": array for name, array in arrays.items() for part in ("train", "test")}
    np.savez(tmp_path / "cifar10-jpeg.npz", **content)
    task = find("cifar10", {}, Path()).task
    data = task.load(tmp_path)
    assert data.x_train.shape == (6, 32, 32, 3) and data.y_test.tolist() == list(range(6))
    assert np.abs(data.x_train[:, 4::8, 4::8].astype(int) - smooth[:, 4::8, 4::8]).mean() < 20
    assert task.train_labels(tmp_path).tolist() == list(range(6))
    content["jpeg_test"] = content["jpeg_test"][::-1]
    np.savez(tmp_path / "cifar10-jpeg.npz", **content)
    with pytest.raises(
        InvalidData, match=r"one of the images 0 … 4999 of test cannot be decoded .* see datasets/README.md"
    ):
        task.load(tmp_path)


@pytest.mark.skipif("DATASETS_DIR" not in os.environ, reason="DATASETS_DIR names no folder with CIFAR-10")
def test_cifar10_itself_is_decoded() -> None:
    data = find("cifar10", {}, Path()).task.load(Path(os.environ["DATASETS_DIR"]))
    assert data.x_train.shape == (50000, 32, 32, 3) and data.x_test.shape == (10000, 32, 32, 3)
    assert np.bincount(data.y_train).tolist() == [5000] * 10
    assert 115 < data.x_train.mean() < 126


def test_a_run_that_finds_everything_on_the_shelf_traces_nothing_and_computes_the_same_bits() -> None:
    def bits(trainer: Trainer) -> tuple[bytes, ...]:
        weights, _ = trainer.initialize()
        trained = trainer.train(1, 1, weights, None, None, lambda: False)
        return tuple(array.tobytes() for array in (*weights.arrays, *trained.update.arrays))

    def plan(seed: int) -> Plan:
        body = {"name": "t", "task": "digits", "seed": seed, "clients": {"count": 3}}
        return Plan(run=f"r{seed}", experiment=parse(body))

    shelf = Shelf()
    first = Trainer(plan(1), ROOT / "tasks", DATASETS, None, "here", shelf)
    bits(first)
    second = Trainer(plan(2), ROOT / "tasks", DATASETS, None, "here", shelf)
    assert bits(second) == bits(Trainer(plan(2), ROOT / "tasks", DATASETS, None, "here"))
    assert second._training is first._training and second._training.traces == 1
