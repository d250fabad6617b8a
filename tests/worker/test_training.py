"""Local training: against plain numpy, bit for bit from process to process, and in one trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roundtable.codec import as_decoded
from roundtable.errors import InvalidTask, NotAsked, NotFinite
from roundtable.experiment import parse
from roundtable.messages import Plan
from roundtable.tasks.classification import cross_entropy
from roundtable.weights import Manifest, Weights
from worker.seeds import shuffles
from worker.trainer import Trainer

from tests.worker import numpy_reference
from tests.worker.numpy_reference import Step

ROOT = Path(__file__).parents[2]
SEED = 11
CLIENTS = 12  # 1,438 images: 119 or 120 each, so that a batch of 32 leaves a short one
FRAGILE = '''
from sklearn.datasets import load_digits
from roundtable.tasks import Data, Task

class Fragile(Task):
    """What keeps a state of its own: dropout, noise, batch statistics; a regularized and a frozen layer."""

    def model(self):
        import keras
        from keras import layers
        return keras.Sequential([
            keras.Input((64,), dtype="float32"), layers.BatchNormalization(momentum=0.9),
            layers.GaussianNoise(0.1),
            layers.Dense(16, "relu", kernel_regularizer="l2"), layers.Dropout(0.3),
            layers.Dense(16, "relu", trainable=False), layers.Dense(10),
        ])

    def loss(self):
        import keras
        return keras.losses.SparseCategoricalCrossentropy(True)

    def load(self, data_dir):
        x, y = load_digits(return_X_y=True)
        x, y = x.astype("float32"), y.astype("int64")
        return Data(x[:1500], y[:1500], x[1500:], y[1500:])
'''

LAYERS = """
from sklearn.datasets import load_digits
from roundtable.tasks import Data, Task

class Layers(Task):
    def __init__(self, kind: str):
        self.kind = kind

    def model(self):
        import keras
        from keras import layers

        class Own(layers.Layer):
            def build(self, shape):
                self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

            def call(self, x):
                return x * self.scale

        class Whole(keras.Model):
            def __init__(self):
                super().__init__()
                self.first, self.norm = layers.Dense(16), layers.BatchNormalization(momentum=0.5)
                self.last = layers.Dense(10)

            def call(self, x):
                return self.last(self.norm(self.first(x)))

        if self.kind == "whole":
            model = Whole()
            model(keras.ops.zeros((1, 64)))
            return model
        if self.kind == "twice":
            shared = layers.Dense(64, activity_regularizer=keras.regularizers.L2(1e-4))
            x = keras.Input((64,))
            return keras.Model(x, layers.Dense(10)(shared(shared(x))))
        middle = {
            "embedding": lambda: [layers.Embedding(17, 4), layers.Flatten()],
            "own": lambda: [Own()],
            "non-negative": lambda: [layers.Dense(16, kernel_constraint="non_neg")],
            "unit norm": lambda: [layers.Dense(16, kernel_constraint="unit_norm")],
            "spectral": lambda: [layers.SpectralNormalization(layers.Dense(16))],
            "half": lambda: [layers.Dense(16, dtype="mixed_float16")],
        }[self.kind]()
        return keras.Sequential([keras.Input((64,)), *middle, layers.Dense(10)])

    def loss(self):
        import keras
        return keras.losses.SparseCategoricalCrossentropy(True)

    def load(self, data_dir):
        x, y = load_digits(return_X_y=True)
        x, y = x.astype("float32"), y.astype("int64")
        return Data(x[:100], y[:100], x[1500:], y[1500:])
"""


def never() -> bool:
    return False


def trainer(tasks_dir: Path = ROOT / "tasks", **sections: Any) -> Trainer:
    body = {"name": "test", "task": "digits", "seed": SEED, "clients": {"count": CLIENTS}, **sections}
    return Trainer(Plan(run="r", experiment=parse(body)), tasks_dir, ROOT / "datasets", None, "node")


def equal(one: Weights, other: Weights) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one.arrays, other.arrays, strict=True))


def reference(
    trainer: Trainer,
    weights: Weights,
    client: int,
    round_number: int,
    epochs: int,
    batch_size: int,
    step: Step,
) -> tuple[Any, ...]:
    """What numpy makes of the same examples in the same order."""
    rows, _ = trainer._data.of(client)
    x, y = trainer._data.x[rows].reshape(len(rows), -1) / 16, trainer._data.y[rows]
    order = shuffles(len(rows), epochs, SEED, round_number, client)
    return numpy_reference.train(weights.arrays, x, y, order, batch_size or len(rows), step)


def sgd(rate: float) -> Step:
    return lambda _step, _position, weight, gradient: weight - rate * gradient


def momentum(rate: float, mu: float) -> Step:
    velocity: dict[int, Any] = {}

    def step(_step: int, position: int, weight: Any, gradient: Any) -> Any:
        velocity[position] = mu * velocity.get(position, 0.0) - rate * gradient
        return weight + velocity[position]

    return step


def adam(rate: float) -> Step:
    first: dict[int, Any] = {}
    second: dict[int, Any] = {}

    def step(number: int, position: int, weight: Any, gradient: Any) -> Any:
        first[position] = 0.9 * first.get(position, 0.0) + 0.1 * gradient
        second[position] = 0.999 * second.get(position, 0.0) + 0.001 * gradient**2
        corrected = rate * np.sqrt(1 - 0.999**number) / (1 - 0.9**number)
        return weight - corrected * first[position] / (np.sqrt(second[position]) + 1e-7)

    return step


CASES: list[tuple[str, dict[str, Any], int, int, Step]] = [
    ("fedsgd", {"batch_size": "full", "learning_rate": 0.5}, 1, 0, sgd(0.5)),
    ("sgd", {"learning_rate": 0.1, "batch_size": 32}, 3, 32, sgd(0.1)),
    ("momentum", {"learning_rate": 0.05, "momentum": 0.9, "batch_size": 50}, 3, 50, momentum(0.05, 0.9)),
    ("adam", {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 32}, 3, 32, adam(0.01)),
]


@pytest.mark.parametrize(
    ("training", "epochs", "batch_size", "step"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_local_training_is_what_numpy_computes(
    training: Any, epochs: int, batch_size: int, step: Step
) -> None:
    ours = trainer(training={"epochs": epochs, **training})
    weights, _ = ours.initialize()
    trained = ours.train(5, 3, weights, None, None, never)
    ends, steps, loss, accuracy = reference(ours, weights, 5, 3, epochs, batch_size, step)
    for update, end, start in zip(trained.update.arrays, ends, weights.arrays, strict=True):
        np.testing.assert_allclose(update, end - start, rtol=2e-3, atol=2e-5)
    assert (trained.num_steps, trained.num_examples) == (steps, 120)
    assert trained.loss == pytest.approx(loss, rel=1e-4)
    assert trained.metrics == {"accuracy": pytest.approx(accuracy, abs=1e-9)}
    assert trained.broadcast is None and trained.state is None


def test_the_proximal_objective_pulls_each_step_towards_the_global_weights() -> None:
    ours = trainer(training={"epochs": 2}, strategy={"objective": {"name": "proximal", "mu": 0.5}})
    weights, _ = ours.initialize()
    trained = ours.train(0, 1, weights, None, None, never)
    ends, *_ = reference(
        ours, weights, 0, 1, 2, 32, lambda _, p, w, g: w - 0.1 * (g + 0.5 * (w - weights.arrays[p]))
    )
    for update, end, start in zip(trained.update.arrays, ends, weights.arrays, strict=True):
        np.testing.assert_allclose(update, end - start, rtol=2e-3, atol=2e-5)


def test_control_variates_correct_each_step_and_come_back_renewed() -> None:
    ours = trainer(training={"epochs": 2}, strategy={"objective": {"name": "control-variates"}})
    weights, _ = ours.initialize()
    draw = np.random.default_rng(0)
    c, c_i = (
        Weights.of(
            weights.manifest,
            [draw.normal(0, 0.1, s.shape).astype(np.float32) for s in weights.manifest.arrays],
        )
        for _ in range(2)
    )
    trained = ours.train(0, 1, weights, c, c_i, never)
    ends, steps, *_ = reference(
        ours, weights, 0, 1, 2, 32, lambda _, p, w, g: w - 0.1 * (g - c_i.arrays[p] + c.arrays[p])
    )
    assert trained.state is not None and trained.broadcast is not None
    for position, (end, start) in enumerate(zip(ends, weights.arrays, strict=True)):
        after = c_i.arrays[position] - c.arrays[position] + (start - end) / (steps * 0.1)
        np.testing.assert_allclose(trained.update.arrays[position], end - start, rtol=2e-3, atol=2e-5)
        np.testing.assert_allclose(trained.state.arrays[position], after, rtol=2e-3, atol=1e-4)
        change = trained.state.arrays[position] - c_i.arrays[position]
        np.testing.assert_array_equal(trained.broadcast.arrays[position], change)


def test_a_first_round_of_control_variates_starts_from_zero() -> None:
    plain = trainer()
    controlled = trainer(strategy={"objective": {"name": "control-variates"}}, wire="float16")
    weights, _ = plain.initialize()
    one, other = (t.train(2, 1, weights, None, None, never) for t in (plain, controlled))
    assert equal(one.update, other.update)
    # and the change is that of the state as it is understood, so that their sum stays what the clients have
    assert other.state is not None and other.broadcast is not None
    assert equal(other.state, as_decoded(other.state, "float16")) and equal(other.broadcast, other.state)


def test_one_trace_serves_every_client_size_and_round() -> None:
    ours = (
        trainer(partition={"kind": "quantity-skew"})
        if False
        else trainer(clients={"count": 7, "holdout": 0.1})
    )
    weights, _ = ours.initialize()
    sizes = {
        ours.train(client, number, weights, None, None, never).num_examples
        for client in range(7)
        for number in (1, 2)
    }
    assert len(sizes) > 1
    assert ours._training.traces == 1


def test_what_was_trained_before_leaves_no_trace() -> None:
    ours = trainer(training={"optimizer": "adam", "learning_rate": 0.01})
    weights, _ = ours.initialize()
    first = ours.train(3, 2, weights, None, None, never)
    ours.train(4, 2, weights, None, None, never)
    ours.evaluate(weights, 0, None)
    assert equal(ours.train(3, 2, weights, None, None, never).update, first.update)


def test_an_evaluation_turns_no_array_into_text() -> None:
    """TensorFlow did, in an error that it then passed over: twice the time of the evaluation itself."""
    ours = trainer()
    weights, _ = ours.initialize()

    def never_asked(number: Any) -> str:
        raise AssertionError(f"somebody wants to read {number} and the rest of its array")

    with np.printoptions(formatter={"all": never_asked}):
        assert ours.evaluate(weights, 0, None).num_examples


def test_another_round_and_another_client_are_shuffled_anew() -> None:
    ours = trainer()
    weights, _ = ours.initialize()
    updates = [ours.train(0, number, weights, None, None, never).update for number in (1, 2)]
    assert not equal(*updates)
    assert not np.array_equal(shuffles(50, 1, 1, 1, 0), shuffles(50, 1, 1, 1, 1))
    epochs = shuffles(50, 2, 1, 1, 0)
    assert not np.array_equal(epochs[0], epochs[1])
    assert (np.sort(epochs) == np.arange(50)).all()


@pytest.mark.usefixtures("one_thread")  # with which TensorFlow computes Keras's in another way
@pytest.mark.parametrize("shape", [(32,), (2, 5, 4)], ids=["one label each", "one label a pixel"])
def test_the_tasks_cross_entropy_is_that_of_keras_to_the_bit(shape: tuple[int, ...]) -> None:
    import keras
    import tensorflow as tf

    rng = np.random.default_rng(3)
    y = tf.constant(rng.integers(0, 10, shape), tf.uint8)
    logits = tf.constant(rng.normal(scale=20, size=(*shape, 10)), tf.float32)
    theirs = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)

    def of(loss: Any) -> tuple[bytes, bytes]:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            values = loss(y, logits)
            mean = tf.reduce_mean(values)
        return values.numpy().tobytes(), tape.gradient(mean, logits).numpy().tobytes()

    assert of(cross_entropy()) == of(theirs)


# --- what models bring with them


@pytest.fixture
def fragile(tmp_path: Path) -> Callable[..., Trainer]:
    (tmp_path / "fragile.py").write_text(FRAGILE)
    return lambda **sections: trainer(tmp_path, task="fragile:Fragile", **sections)


def test_dropout_is_seeded_by_round_and_client(fragile: Callable[..., Trainer]) -> None:
    ours = fragile(training={"batch_size": "full"})  # a full batch: the shuffle cannot tell rounds apart
    weights, _ = ours.initialize()
    one = ours.train(1, 1, weights, None, None, never)
    ours.train(2, 1, weights, None, None, never)
    assert equal(one.update, ours.train(1, 1, weights, None, None, never).update)
    assert equal(
        one.update, fragile(training={"batch_size": "full"}).train(1, 1, weights, None, None, never).update
    )
    dense = np.abs(one.update.arrays[-1] - ours.train(1, 2, weights, None, None, never).update.arrays[-1])
    assert dense.max() > 1e-3


def test_batch_statistics_follow_the_forward_passes_and_frozen_layers_stay(
    fragile: Callable[..., Trainer],
) -> None:
    ours = fragile(training={"batch_size": 64, "epochs": 2})
    weights, initialized = ours.initialize()
    names = [(spec.name, spec.trainable) for spec in initialized.arrays]
    assert names == [
        *[("gamma", True), ("beta", True), ("moving_mean", False), ("moving_variance", False)],
        *[
            ("kernel", True),
            ("bias", True),
            ("kernel", False),
            ("bias", False),
            ("kernel", True),
            ("bias", True),
        ],
    ]  # and no state of a random generator
    trained = ours.train(4, 1, weights, None, None, never)
    rows, _ = ours._data.of(4)
    x = ours._data.x[rows].astype(np.float64)
    mean, variance = np.zeros(64), np.ones(64)
    for epoch in shuffles(len(rows), 2, SEED, 1, 4):
        for at in range(0, len(rows), 64):
            batch = x[epoch[at : at + 64]]
            mean = 0.9 * mean + 0.1 * batch.mean(0)
            variance = 0.9 * variance + 0.1 * batch.var(0)
    np.testing.assert_allclose(trained.update.arrays[2], mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(trained.update.arrays[3] + 1, variance, rtol=1e-3, atol=1e-4)
    assert not trained.update.arrays[6].any() and not trained.update.arrays[7].any()
    assert trained.update.arrays[4].any()


def test_a_regularizer_counts_in_the_gradient_and_not_in_the_loss(fragile: Callable[..., Trainer]) -> None:
    ours = fragile(training={"batch_size": "full", "learning_rate": 1.0})
    weights, _ = ours.initialize()
    big = Weights.of(
        weights.manifest, [array * (100 if p == 4 else 1) for p, array in enumerate(weights.arrays)]
    )
    one, other = (ours.train(0, 1, start, None, None, never) for start in (weights, big))
    assert np.corrcoef(one.update.arrays[4].ravel(), weights.arrays[4].ravel())[0, 1] < 0.5
    assert np.corrcoef(other.update.arrays[4].ravel(), -big.arrays[4].ravel())[0, 1] > 0.5


@pytest.fixture
def layers(tmp_path: Path) -> Callable[..., Trainer]:
    (tmp_path / "layers.py").write_text(LAYERS)
    return lambda kind, **training: trainer(
        tmp_path,
        task="layers:Layers",
        task_options={"kind": kind},
        clients={"count": 1},
        training={"batch_size": "full", "epochs": 3, "learning_rate": 0.01, **training},
    )


@pytest.mark.parametrize(
    ("kind", "training"),
    [
        ("embedding", {}),
        ("embedding", {"momentum": 0.5}),
        ("embedding", {"optimizer": "adam"}),
        ("own", {}),
        ("non-negative", {}),
        ("non-negative", {"optimizer": "adam"}),
        ("unit norm", {"momentum": 0.5}),
        ("whole", {}),  # its layers learn from Keras alone that they train
        ("twice", {}),  # a regularizer of what a layer gives, each time
    ],
)
def test_a_layer_is_trained_as_keras_trains_it(
    layers: Callable[..., Trainer], kind: str, training: dict[str, Any]
) -> None:
    import keras
    import tensorflow as tf

    ours = layers(kind, **training)
    weights, _ = ours.initialize()
    ours.use(weights.manifest)
    update = ours.train(0, 1, weights, None, None, never).update

    theirs = ours._task.model()
    theirs.set_weights(list(weights.arrays))
    adam = keras.optimizers.Adam(0.01)
    sgd = keras.optimizers.SGD(0.01, momentum=training.get("momentum", 0.0))
    variables, loss = theirs.trainable_variables, ours._task.loss()
    for _ in range(3):
        with tf.GradientTape() as tape:
            value = loss(ours._data.y, theirs(ours._data.x, training=True)) + sum(theirs.losses)
        gradients = tape.gradient(value, [variable.value for variable in variables])
        # Keras's Adam does not add up what one row of an embedding is given before it squares it.
        whole = [tf.convert_to_tensor(gradient) for gradient in gradients]
        (adam if "optimizer" in training else sgd).apply(whole, variables)
    for start, change, end in zip(weights.arrays, update.arrays, theirs.get_weights(), strict=True):
        np.testing.assert_allclose(start + change, end, atol=1e-5)
    assert equal(update, layers(kind, **training).train(0, 1, weights, None, None, never).update)


def test_a_layer_that_assigns_what_is_trained_is_refused(layers: Callable[..., Trainer]) -> None:
    ours = layers("spectral")
    weights, _ = ours.initialize()
    with pytest.raises(InvalidTask, match=r"a layer assigns \S*dense/kernel while it is called"):
        ours.train(0, 1, weights, None, None, never)


def test_a_model_that_computes_in_float16_is_refused(layers: Callable[..., Trainer]) -> None:
    with pytest.raises(InvalidTask, match=r"computes in float16, .* mixed_bfloat16"):
        layers("half").initialize()


# --- from process to process

BITS = """
import json, sys
from pathlib import Path
from roundtable.codec import content_hash
from roundtable.errors import InvalidSetting
from roundtable.codec import as_decoded
from roundtable.experiment import parse
from roundtable.messages import Plan
from roundtable.weights import Weights
from worker.runtime import configure_threads
from worker.trainer import Trainer
bodies, tasks_dir, datasets_dir = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
configure_threads(2, 1)  # nothing has been computed yet: the trainer may still have another count
found = []
for body in bodies:
    trainer = Trainer(Plan(run="r", experiment=parse(body)), tasks_dir, datasets_dir, None, "another-node")
    weights, _ = trainer.initialize()
    updates = {c: trainer.train(c, 1, weights, None, None, lambda: False).update for c in (3, 0)}
    after = [a + b for a, b in zip(weights.arrays, updates[0].arrays)]
    evaluated = trainer.evaluate(Weights.of(weights.manifest, after), 1, None)
    found.append([trainer.task_hash, trainer.data_hash, content_hash({"weights": weights}),
                  content_hash({"update": updates[0]}), dict(evaluated.sums)])
try:
    configure_threads(1, 2)
except InvalidSetting as error:
    print(json.dumps({"found": found, "refused": str(error)}))
"""


@dataclass(frozen=True)
class Elsewhere:
    """What a process of its own, of a user with other Keras settings, made of these experiments, and what
    it said to other thread counts then.
    """

    tasks_dir: Path
    bodies: list[dict[str, Any]]
    found: list[list[Any]]
    refused: str


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    tasks_dir = tmp_path_factory.mktemp("tasks")
    (tasks_dir / "fragile.py").write_text(FRAGILE)
    common = {"name": "test", "seed": SEED, "clients": {"count": CLIENTS}, "training": {"epochs": 2}}
    bodies: list[dict[str, Any]] = [
        {**common, "task": "digits"},
        {**common, "task": "digits", "task_options": {"model": "cnn"}},
        {**common, "task": "fragile:Fragile"},
        {
            **common,
            "task": "mnist",
            "task_options": {"model": "cnn"},
            "clients": {"count": 800},
            "training": {},
            "evaluation": {"shards": 20},
        },
    ]
    command = [sys.executable, "-c", BITS, json.dumps(bodies), str(tasks_dir), str(ROOT / "datasets")]
    settings = {
        "floatx": "float16",
        "epsilon": 0.1,
        "image_data_format": "channels_first",
        "backend": "torch",
    }
    (tasks_dir / "keras.json").write_text(json.dumps(settings))
    steered = os.environ | {"KERAS_HOME": str(tasks_dir), "KERAS_BACKEND": "torch"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=steered)
    assert done.returncode == 0, done.stderr[-2000:]
    return Elsewhere(tasks_dir, bodies, **json.loads(done.stdout))


@pytest.mark.timeout(300)
def test_another_process_computes_the_same_bits(elsewhere: Elsewhere) -> None:
    from roundtable.codec import content_hash

    ours = []
    for body in elsewhere.bodies:
        here = trainer(elsewhere.tasks_dir, **body)
        weights, _ = here.initialize()
        for client, number in ((7, 1), (0, 2)):  # this process has another past
            here.train(client, number, weights, None, None, never)
        update = here.train(0, 1, weights, None, None, never).update
        hashes = [content_hash({"weights": weights}), content_hash({"update": update})]
        after = Weights.of(
            weights.manifest, [a + b for a, b in zip(weights.arrays, update.arrays, strict=True)]
        )
        ours.append([here.task_hash, here.data_hash, *hashes, dict(here.evaluate(after, 1, None).sums)])
    assert elsewhere.found == json.loads(json.dumps(ours))


@pytest.mark.timeout(300)
def test_other_thread_counts_ask_for_a_restart(elsewhere: Elsewhere) -> None:
    assert elsewhere.refused == (
        "training.threads: intra = 1, inter = 2, but this worker's TensorFlow runs with 1 and 1 since it "
        "started: restart the worker, or give both experiments the same counts"
    )


# --- when it goes otherwise


def test_a_training_that_is_no_longer_wanted_ends_early() -> None:
    ours = trainer(training={"epochs": 10_000})
    weights, _ = ours.initialize()
    for client in (0, 1):  # the second while the first one's is still being watched
        asked: list[bool] = []

        def stop(asked: list[bool] = asked) -> bool:
            asked.append(True)
            return len(asked) > 2

        assert ours.train(client, 1, weights, None, None, stop).num_steps < 4 * 10_000
    again = trainer(training={"epochs": 1}).train(0, 1, weights, None, None, never)
    assert again.num_steps == 4


def test_a_training_after_a_stopped_one_runs_in_full() -> None:
    ours = trainer()
    weights, _ = ours.initialize()
    assert ours.train(0, 1, weights, None, None, lambda: True).num_steps == 0
    assert ours.train(0, 1, weights, None, None, never).num_steps == 4


def test_a_training_that_diverges_says_what_to_do() -> None:
    ours = trainer(training={"learning_rate": 1e30, "epochs": 3})
    weights, _ = ours.initialize()
    with pytest.raises(
        NotFinite,
        match=r"client 0, round 1: the update is not finite .* diverged; lower training.learning_rate",
    ):
        ours.train(0, 1, weights, None, None, never)


def test_a_client_that_is_not_here_is_refused() -> None:
    ours = trainer()
    weights, _ = ours.initialize()
    with pytest.raises(NotAsked, match="client 12 has no data on this worker, which has clients 0 … 11"):
        ours.train(12, 1, weights, None, None, never)


def test_a_model_that_is_not_the_runs_is_refused() -> None:
    ours = trainer()
    weights, _ = ours.initialize()
    ours.use(weights.manifest)
    with pytest.raises(
        InvalidTask, match=r"the model built here is not the run's: None here, .*same versions of Keras"
    ):
        ours.use(Manifest((*weights.manifest.arrays, weights.manifest.arrays[0])))
