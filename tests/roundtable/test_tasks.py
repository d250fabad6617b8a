"""Tasks without TensorFlow: finding them, options and hashes, data, and what is said of faults."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roundtable.errors import InvalidData, InvalidTask
from roundtable.tasks import BUILT_IN, Data, find
from roundtable.tasks.npz import read_npz
from roundtable.tasks.pinned import count_labels, load_node
from roundtable.tasks.task import array_hash

ROOT = Path(__file__).parents[2]
DATASETS = ROOT / "datasets"
MINE = """
import numpy as np
from typing import Literal
from roundtable.tasks import Data, Task

class Mine(Task):
    classes = ("a", "b")
    def __init__(self, size: int, kind: Literal["x", "y"] = "x"):
        if size > 100:
            raise ValueError("size is at most 100")
        self.size = size
    def model(self): ...
    def loss(self): ...
    def load(self, data_dir):
        x = np.arange(self.size, dtype=np.float32)[:, None]
        return Data(x, x[:, 0].astype(int) % 2, x, x[:, 0].astype(int) % 2)

class Half(Task):
    def model(self): ...
"""


@pytest.fixture
def tasks_dir(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("import numpy\n\nnumpy.no_such_thing()\n")
    (tmp_path / "unfinished.py").write_text("def f(:\n    pass\n")
    return tmp_path


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    said = str(error.value)
    assert "\n" not in said
    return said


# --- finding


def test_built_in_tasks_are_found_by_name(tasks_dir: Path) -> None:
    hashes = {find(name, {}, tasks_dir).hash for name in BUILT_IN}
    assert len(hashes) == len(BUILT_IN) == 4


@pytest.mark.parametrize("name", ["mnist", "mine:Mine"])
@pytest.mark.parametrize("file", ["classification.py", "partitioners.py"])
def test_what_tasks_have_in_common_is_of_the_hash_too(
    tasks_dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    options = {"size": 1, "kind": "x"} if name == "mine:Mine" else {}
    before = find(name, options, tasks_dir).hash
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: real(path) + b"#" * (path.name == file))
    assert find(name, options, tasks_dir).hash != before


def test_a_users_class_is_found_in_its_file(tasks_dir: Path) -> None:
    task = find("mine:Mine", {"size": 10}, tasks_dir).task
    assert len(task.load(tasks_dir).x_train) == 10


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("minst", "no such task; built in are cifar10, clouds, digits, mnist, and your own is named"),
        ("absent:Task", "absent.py (No such file or directory); there is broken, mine, unfinished in"),
        ("../mine:Mine", 'write "file:Class"'),
        ("mine:Half", "has no complete class Half derived from roundtable.tasks.Task; it has Mine"),
        ("mine:Other", "it has Mine"),
        ("broken:Mine", "broken.py cannot be run: AttributeError"),
        ("broken:Mine", "broken.py:3)"),
        ("unfinished:Mine", "unfinished.py cannot be run: SyntaxError: invalid syntax"),
        ("unfinished:Mine", "unfinished.py:1)"),
    ],
)
def test_a_task_that_cannot_be_found_says_why_in_one_line(tasks_dir: Path, name: str, said: str) -> None:
    with pytest.raises(InvalidTask) as error:
        find(name, {}, tasks_dir)
    assert said in one_line(error)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("mnist", {"model": "resnet"}, "task_options.model: found 'resnet'; allowed: 'mlp' or 'cnn'"),
        (
            "mnist",
            {"layers": 3},
            "layers: found an unknown field; allowed for task mnist: model",
        ),
        (
            "cifar10",
            {"model": "cnn"},
            "task_options.model: found an unknown field; allowed for task cifar10: none",
        ),
        ("mine:Mine", {}, "task_options.size: found nothing; task mine:Mine needs this option"),
        ("mine:Mine", {"size": "10"}, "task_options.size: found '10'; allowed: a valid integer"),
        ("mine:Mine", {"size": 101}, "task mine:Mine: ValueError: size is at most 100"),
        ("mine:Mine", {"size": 1, "kind": "z"}, "task_options.kind: found 'z'; allowed: 'x' or 'y'"),
    ],
)
def test_options_that_a_task_does_not_have_are_refused(
    tasks_dir: Path, name: str, options: Any, said: str
) -> None:
    with pytest.raises(InvalidTask) as error:
        find(name, options, tasks_dir)
    assert said in one_line(error)


def test_the_hash_is_of_the_source_and_the_options(tasks_dir: Path) -> None:
    first = find("mine:Mine", {"size": 1, "kind": "x"}, tasks_dir).hash
    assert find("mine:Mine", {"kind": "x", "size": 1}, tasks_dir).hash == first
    assert find("mine:Mine", {"size": 2, "kind": "x"}, tasks_dir).hash != first
    (tasks_dir / "mine.py").write_text(MINE.replace("size is at most", "size must be at most"))
    changed = find("mine:Mine", {"size": 1, "kind": "x"}, tasks_dir)
    assert changed.hash != first
    with pytest.raises(InvalidTask, match="must be at most"):  # and the new source is what runs
        find("mine:Mine", {"size": 101}, tasks_dir)


NO_TENSORFLOW = """
import sys
from pathlib import Path
from roundtable.tasks import find
for name in ("mnist", "digits"):
    task = find(name, {}, Path()).task
    labels = task.train_labels(Path(sys.argv[1]))
    print(name, len(labels), sorted(set(labels.tolist())) == list(range(10)))
task = find("cifar10", {}, Path()).task
print(sorted({"tensorflow", "keras"} & set(sys.modules)))
"""


def test_labels_load_without_tensorflow() -> None:
    command = [sys.executable, "-c", NO_TENSORFLOW, str(DATASETS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "mnist 60000 True\ndigits 1438 True\n[]\n"


# --- data


def test_mnist_and_digits_keep_their_storage_types() -> None:
    mnist = find("mnist", {}, Path()).task.load(DATASETS)
    assert (mnist.x_train.shape, mnist.x_train.dtype) == ((60000, 28, 28), np.uint8)
    assert (mnist.x_test.shape, mnist.y_test.shape, mnist.y_test.dtype) == (
        (10000, 28, 28),
        (10000,),
        np.uint8,
    )
    digits = find("digits", {}, Path()).task.load(DATASETS)
    assert (digits.x_train.shape, digits.x_train.dtype) == ((1438, 8, 8), np.uint8)
    assert len(digits.x_test) == 359 and digits.x_train.max() == 16
    assert digits.digest == find("digits", {}, Path()).task.load(DATASETS).digest


def test_a_data_file_that_cannot_be_read_is_named_with_the_remedy(tmp_path: Path) -> None:
    task = find("mnist", {}, Path()).task
    whole = (DATASETS / "mnist.npz").read_bytes()
    file = tmp_path / "mnist.npz"
    for content, said in (
        (None, "there is no such file"),
        (b"", "is corrupt or truncated"),
        (whole[:-1], "is corrupt or truncated"),
        (whole[: len(whole) // 2], "is corrupt or truncated"),
        (whole[:5_000_000] + b"\0" * 64 + whole[5_000_064:], "is corrupt or truncated"),
        (b"not an archive", "is corrupt or truncated"),
    ):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(InvalidData) as error:
            task.load(tmp_path)
        assert one_line(error).startswith(f"{file}: {said}")
        assert "ships with the lab in datasets/" in one_line(error)


def test_an_archive_without_an_array_says_which(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=np.zeros(3), y_train=np.zeros(3))
    with pytest.raises(InvalidData, match="has no array 'x_test', only x_train, y_train"):
        find("mnist", {}, Path()).task.load(tmp_path)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.array([{"a": 1}], object))
    with pytest.raises(InvalidData, match="corrupt"):
        read_npz(tmp_path / "data.npz", ("x",), "remedy")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InvalidData, match="a single array"):
        read_npz(tmp_path / "one.npy", ("x",), "remedy")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        (
            (np.zeros((3, 2)), np.zeros(2), np.zeros((1, 2)), np.zeros(1)),
            "x_train has 3 examples and y_train 2",
        ),
        ((np.zeros((0, 2)), np.zeros(0), np.zeros((1, 2)), np.zeros(1)), "must be equal and not 0"),
        ((np.zeros((1, 2)), np.zeros(1), np.zeros((1, 3)), np.zeros(1)), "must be alike"),
        ((np.zeros((1, 2)), np.zeros(1), np.zeros((1, 2), "f4"), np.zeros(1)), "must be alike"),
        ((np.array([[{}]]), np.zeros(1), np.zeros((1, 1)), np.zeros(1)), "x_train is object"),
        (([[1.0]], np.zeros(1), np.zeros((1, 1)), np.zeros(1)), "x_train is list"),
    ],
)
def test_arrays_that_do_not_fit_each_other_are_refused(arrays: Any, said: str) -> None:
    with pytest.raises(InvalidData) as error:
        Data(*arrays)
    assert said in one_line(error)


def test_data_are_held_in_this_machines_byte_order(tmp_path: Path) -> None:
    x, y = np.arange(6, dtype=">f4").reshape(3, 2), np.arange(3, dtype=">i2")
    data = Data(x, y, x.astype("<f4"), y.astype("<i2"))
    assert all(array.dtype.isnative for array in (data.x_train, data.y_train, data.x_test, data.y_test))
    np.testing.assert_array_equal(data.x_train, x)
    assert data.digest == array_hash(x_train=x, y_train=y, x_test=x, y_test=y)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    found = load_node(find("digits", {}, Path()).task, tmp_path, data)
    assert [array.dtype for array in found] == [np.float32, np.int16]


def test_the_hash_of_arrays_sees_values_shapes_dtypes_and_names() -> None:
    a = np.arange(6, dtype=np.int32)
    same = {
        array_hash(x=a),
        array_hash(x=a.copy()),
        array_hash(x=a.astype(">i4")),
        array_hash(x=np.repeat(a, 2)[::2]),
    }
    assert len(same) == 1
    others = {
        array_hash(x=a.reshape(2, 3)),
        array_hash(x=a.astype(np.int64)),
        array_hash(y=a),
        array_hash(x=a + 1),
    }
    assert len(others | same) == 5


def test_labels_that_are_not_integers_must_be_written(tasks_dir: Path) -> None:
    task = find("mine:Mine", {"size": 4}, tasks_dir).task
    assert task.labels(np.array([1, 0])).tolist() == [1, 0]
    for y in (np.zeros(3), np.zeros((3, 2), int)):
        with pytest.raises(InvalidTask, match="write labels"):
            task.labels(y)


def test_cifar10_says_how_to_get_it_where_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import keras

    def offline() -> None:
        print("Downloading data from https://example.invalid")
        raise Exception("URL fetch failure on https://example.invalid: None -- \n[Errno -2] Name unknown")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", offline)
    with pytest.raises(
        InvalidData, match=r"neither cifar10.npz nor cifar10-jpeg.npz .* see datasets/README.md"
    ) as error:
        find("cifar10", {}, Path()).task.load(tmp_path)
    one_line(error)
    told = capsys.readouterr()
    assert "Downloading" in told.err and not told.out, "what scripts read is theirs"


def test_cifar10_reads_plain_arrays_before_jpegs(tmp_path: Path) -> None:
    x, y = np.zeros((4, 32, 32, 3), np.uint8), np.array([[3], [1], [2], [0]], np.uint8)
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (tmp_path / "cifar10-jpeg.npz").write_bytes(b"")
    task = find("cifar10", {}, Path()).task
    assert task.load(tmp_path).y_train.tolist() == [3, 1, 2, 0] == task.train_labels(tmp_path).tolist()


# --- pinned data


def test_a_nodes_folder_is_counted_without_knowing_the_task(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", y=np.array([7, 7, 0, 7, 9], np.uint8))  # x may be elsewhere (load_node)
    counted = count_labels(tmp_path)
    assert (counted.examples, counted.labels) == (5, {"0": 1, "7": 3, "9": 1})


def test_a_nodes_examples_must_fit_the_task(tmp_path: Path) -> None:
    task = find("digits", {}, Path()).task
    data = task.load(DATASETS)
    good = {"x": np.ones((2, 8, 8), np.uint8), "y": np.array([1, 9], np.uint8)}
    np.savez(tmp_path / "data.npz", **good)
    x, y = load_node(task, tmp_path, data)
    assert x.shape == (2, 8, 8) and y.tolist() == [1, 9]
    for change, said in (
        ({"y": np.array([1, 10], np.uint8)}, "label 10 is unknown to the task, whose labels are 0 … 9"),
        ({"x": np.ones((2, 8, 9), np.uint8)}, "must be alike"),
        ({"x": np.ones((2, 8, 8), np.float32)}, "must be alike"),
        ({"y": np.array([1], np.uint8)}, "x has 2 examples and y 1"),
    ):
        np.savez(tmp_path / "data.npz", **{**good, **change})
        with pytest.raises(InvalidData) as error:
            load_node(task, tmp_path, data)
        assert one_line(error).startswith(str(tmp_path)) and said in one_line(error)
        assert "docs/tasks.md, pinned data" in one_line(error)


def test_a_folder_that_is_not_there_or_holds_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="no such folder"):
        count_labels(tmp_path / "absent")
    with pytest.raises(InvalidData, match=r"data.npz: there is no such file"):
        count_labels(tmp_path)
    np.savez(tmp_path / "data.npz", x=np.zeros(0), y=np.zeros(0, int))
    with pytest.raises(InvalidData, match="at least one"):
        count_labels(tmp_path)
