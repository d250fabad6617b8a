"""Task clouds in TensorFlow: the model, its loss and its measure, and training that repeats to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roundtable.experiment import parse
from roundtable.messages import Evaluated, Plan
from roundtable.metrics import added, values
from roundtable.tasks.clouds import Clouds, overlap, scenes
from roundtable.tasks.clouds.__main__ import draw
from roundtable.weights import Weights
from worker.trainer import Trainer

ROOT = Path(__file__).parents[2]
TINY = {"tile": 16, "train_tiles": 32, "test_tiles": 24, "filters": 4, "depth": 2, "dilation": 2}
FRAGILE = {
    **TINY,
    "depth": 1,
    "dilation": 1,
    "dropout": 0.2,
    "batch_norm": True,
}  # what keeps a state of its own


pytestmark = pytest.mark.usefixtures("one_thread")


def trainer(options: dict[str, Any], folder: Path | None = None, **sections: Any) -> Trainer:
    body = {"name": "t", "task": "clouds", "task_options": options, "clients": {"count": 2}, **sections}
    plan = Plan(run="r", experiment=parse(body), pinned_clients={"node": 0} if folder else {})
    return Trainer(plan, ROOT / "tasks", ROOT / "datasets", folder, "node")


def never() -> bool:
    return False


@pytest.mark.parametrize(
    ("model", "least", "most"), [("small", 100_000, 250_000), ("full", 8_000_000, 9_500_000)]
)
def test_the_models_are_as_large_as_they_are_said_to_be(model: Any, least: int, most: int) -> None:
    built = Clouds(model=model).model()
    assert least < built.count_params() < most
    assert built.output_shape == (None, 64, 64, 4)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_full_model_trains_a_step_on_a_tile_of_400_pixels() -> None:
    own = trainer(
        {"model": "full", "tile": 400, "train_tiles": 2, "test_tiles": 1, "loss": "dice"},
        training={"batch_size": 1, "optimizer": "adam", "learning_rate": 3e-4},
    )
    weights, _ = own.initialize()
    assert 8_000_000 < sum(array.size for array in weights.arrays) < 9_500_000
    trained = own.train(0, 1, weights, None, None, never)
    assert trained.num_steps == trained.num_examples == 1
    assert 0 < trained.loss < 1  # Dice
    assert all(array.any() for array in trained.update.arrays)  # every layer learns


def dice_in_numpy(masks: np.ndarray, logits: np.ndarray) -> np.ndarray:
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    truth = np.eye(4)[masks]
    both, either = (truth * chances).sum((1, 2)), (truth + chances).sum((1, 2))
    return 1 - ((2 * both + 1) / (either + 1)).mean(-1)


class TestDice:
    def test_is_what_numpy_computes_one_value_a_tile(self) -> None:
        draw = np.random.default_rng(0)
        masks = draw.integers(0, 3, (5, 8, 8)).astype(np.uint8)  # class 3 is nowhere
        logits = draw.standard_normal((5, 8, 8, 4))
        np.testing.assert_allclose(
            overlap.dice(masks, logits.astype(np.float32)), dice_in_numpy(masks, logits), 1e-5
        )
        entropy = overlap.dice_and_cross_entropy(masks, logits.astype(np.float32)) - overlap.dice(
            masks, logits.astype(np.float32)
        )
        logs = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
        expected = -np.take_along_axis(logs, masks[..., None].astype(int), -1).mean((1, 2, 3))
        np.testing.assert_allclose(entropy, expected, 1e-4)

    def test_is_nothing_for_a_perfect_guess_and_nearly_one_for_the_opposite(self) -> None:
        masks = np.zeros((1, 32, 32), np.uint8)
        masks[:, :16] = 1
        perfect = 100 * np.eye(4, dtype=np.float32)[masks]
        swapped = 100 * np.eye(4, dtype=np.float32)[1 - masks]
        assert float(overlap.dice(masks, perfect)[0]) == pytest.approx(0, abs=1e-4)
        assert float(overlap.dice(masks, swapped)[0]) == pytest.approx(
            0.5, abs=0.01
        )  # two classes are rightly absent


def confusion_of(weights: Weights, ours: Trainer) -> np.ndarray:
    """Over the whole test set at once, from the Keras model."""
    model = ours._model._keras
    for variable, array in zip(model.weights, weights.arrays, strict=True):
        variable.assign(array)
    guess = np.asarray(model(ours._data.x_test)).argmax(-1)
    matrix = np.zeros((4, 4))
    np.add.at(matrix, (ours._data.y_test, guess), 1)
    return matrix


def test_the_measure_is_of_the_whole_set_whoever_adds_it_up() -> None:
    """mIoU from one confusion matrix: shards and clients add to it, and no mean of means is taken."""
    ours = trainer(TINY, evaluation={"shards": 5}, clients={"count": 3, "holdout": 0.4})
    weights, initialized = ours.initialize()
    assert initialized.metrics == ("loss", "confusion")
    whole = ours.evaluate(weights, None, None)
    matrix = confusion_of(weights, ours)
    assert whole.sums["confusion"] == matrix.ravel().tolist()
    parts = [ours.evaluate(weights, shard, None) for shard in range(5)]
    assert added(parts).sums["confusion"] == whole.sums["confusion"]
    ious = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    found = values(added(parts))
    assert [found[f"iou_{label}"] for label in range(4)] == pytest.approx(ious.tolist())
    assert found["mean_iou"] == pytest.approx(ious.mean())
    assert found["accuracy"] == pytest.approx(np.diag(matrix).sum() / matrix.sum())
    clients = added(ours.evaluate(weights, None, client) for client in range(3))
    assert sum(clients.sums["confusion"]) == clients.num_examples * 16 * 16  # type: ignore[arg-type]


def train(ours: Trainer, rounds: Sequence[int], weights: Weights | None = None) -> Weights:
    weights = ours.initialize()[0] if weights is None else weights
    for number in rounds:
        update = ours.train(0, number, weights, None, None, never).update
        weights = Weights.of(
            weights.manifest, [a + b for a, b in zip(weights.arrays, update.arrays, strict=True)]
        )
    return weights


@pytest.mark.slow
def test_training_with_dropout_and_batch_statistics_repeats_to_the_bit() -> None:
    training = {"optimizer": "adam", "learning_rate": 0.003, "batch_size": 8}
    ours = trainer(FRAGILE, training=training)
    one, other = (train(ours, (1, 2)) for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one.arrays, other.arrays, strict=True))
    assert sum(not spec.trainable for spec in one.manifest.arrays) > 0


@pytest.mark.slow
def test_a_few_epochs_make_it_better() -> None:
    training = {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 8, "epochs": 15}
    ours = trainer({**TINY, "depth": 1, "filters": 8}, training=training)
    weights = ours.initialize()[0]
    before, after = (values(ours.evaluate(w, None, None)) for w in (weights, train(ours, (1,), weights)))
    assert after["loss"] < 0.9 * before["loss"]
    assert after["mean_iou"] > before["mean_iou"]


def test_a_node_has_the_tiles_of_its_own_folder_and_everybodys_test_set(tmp_path: Path) -> None:
    draw(tmp_path, 10, 16, 77, "train")
    ours = trainer(TINY, tmp_path, partition={"kind": "pinned"})
    rows, _ = ours._data.of(0)
    assert (ours._data.x_test == scenes.tiles(24, 16, 3, 1, "test")[0]).all()
    assert (ours._data.x[rows] == scenes.tiles(10, 16, 3, 77, "train")[0]).all()


def test_large_tiles_are_evaluated_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch holds a bounded number of values: 256 digits, but 8 pictures of 400×400."""
    from worker import evaluation

    assert evaluation.batch_of(np.empty((1, 8, 8))) == evaluation.batch_of(np.empty((1, 64, 64, 3))) == 256
    assert evaluation.batch_of(np.empty((1, 400, 400, 3))) == 8
    assert evaluation.batch_of(np.empty((1, 4000, 4000, 3), np.uint8)) == 1
    ours = trainer(TINY)
    weights = ours.initialize()[0]
    at_once = ours.evaluate(weights, None, None)
    monkeypatch.setattr(evaluation, "VALUES", 5 * 16 * 16 * 3)
    apart: Evaluated = ours.evaluate(weights, None, None)
    assert apart.sums["confusion"] == at_once.sums["confusion"]
    assert apart.sums["loss"] == pytest.approx(at_once.sums["loss"], rel=1e-5)
