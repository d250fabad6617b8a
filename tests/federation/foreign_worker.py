"""A worker written from docs/protocol.md alone, sharing no code with the real one.

It is here to keep that page complete: what it cannot do after reading the page, nobody else can. It knows
HTTP, JSON, safetensors by `struct`, BLAKE3 and a softmax regression on a data set that it makes up. Nothing
of the project is imported.
"""

from __future__ import annotations

import json
import secrets
import struct
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
from blake3 import blake3

Arrays = list[np.ndarray]  # in manifest order, or that of its trainable arrays
Groups = dict[str, Arrays]

# --- a message of arrays

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "I64": np.dtype("<i8")}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
TRAINABLE_ONLY = ("state", "broadcast")


def parts(groups: Groups, manifest: list[dict[str, Any]]) -> list[tuple[str, np.ndarray, bool]]:
    """(tensor name, array, whether it is trained), groups by the alphabet and arrays as in the manifest."""
    found = []
    for group in sorted(groups):
        specs = [spec for spec in manifest if spec["trainable"] or group not in TRAINABLE_ONLY]
        assert len(specs) == len(groups[group])
        for position, (spec, array) in enumerate(zip(specs, groups[group], strict=True)):
            found.append((f"{group}/{position:04d}/{spec['name']}", array, spec["trainable"]))
    return found


def digest(groups: Groups, manifest: list[dict[str, Any]]) -> str:
    """The content hash, of arrays as they travel."""
    tensors = parts(groups, manifest)
    lines = [
        f"{name} {NAMES[array.dtype]} {'x'.join(map(str, array.shape)) or 'scalar'} "
        f"{'trainable' if trainable else 'fixed'}\n"
        for name, array, trainable in tensors
    ]
    return blake3("".join(lines).encode() + b"".join(array.tobytes() for _, array, _ in tensors)).hexdigest()


def encode(groups: Groups, manifest: list[dict[str, Any]], metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata or {}}
    data = b""
    for name, array, _ in parts(groups, manifest):
        raw = array.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def decode(raw: bytes) -> tuple[Groups, dict[str, str]]:
    """The arrays as they travelled, by group, and the metadata."""
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :]
    metadata = header.pop("__metadata__", {})
    groups: Groups = {}
    for name in sorted(header):  # group/0000/…, so sorting gives the order of the manifest
        begin, end = header[name]["data_offsets"]
        array = np.frombuffer(data[begin:end], DTYPES[header[name]["dtype"]]).reshape(header[name]["shape"])
        groups.setdefault(name.split("/")[0], []).append(array)
    return groups, metadata


def float32(arrays: Arrays) -> Arrays:
    """As they are computed with."""
    return [array.astype(np.float32) if array.dtype == np.float16 else array for array in arrays]


def float16(arrays: Arrays) -> Arrays:
    """As they may travel with `wire = "float16"`: an array that would overflow stays as it is."""
    greatest = np.finfo(np.float16).max

    def narrow(array: np.ndarray) -> np.ndarray:
        fits = array.dtype == np.float32 and np.abs(array).max(initial=0) <= greatest
        return array.astype(np.float16) if fits else array

    return [narrow(array) for array in arrays]


def on_wire(arrays: Arrays, wire: str) -> Arrays:
    return float16(arrays) if wire == "float16" else arrays


# --- the task: softmax regression on 30 made-up points, centred by a mean that is averaged and not trained

FEATURES, LABELS = 4, 3
FAR = 1e5  # the last feature's value, which float16 cannot hold
MANIFEST: list[dict[str, Any]] = [
    {"name": "kernel", "shape": [FEATURES, LABELS], "dtype": "float32", "trainable": True},
    {"name": "mean", "shape": [FEATURES], "dtype": "float32", "trainable": False},
    {"name": "bias", "shape": [LABELS], "dtype": "float32", "trainable": True},
    {"name": "seen", "shape": [], "dtype": "int64", "trainable": False},
]
TASK_HASH = blake3(b"softmax regression").hexdigest()


def made_up(examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.Generator(np.random.PCG64(seed))
    labels = random.integers(LABELS, size=examples)
    points = random.normal(size=(examples, FEATURES)) + 2.0 * np.eye(LABELS, FEATURES)[labels]
    points[:, -1] = FAR
    return points.astype(np.float32), labels


TRAIN, TEST = made_up(30, seed=7), made_up(20, seed=8)
DATA_HASH = blake3(b"".join(array.tobytes() for array in (*TRAIN, *TEST))).hexdigest()


def initial(seed: int) -> Arrays:
    random = np.random.Generator(np.random.PCG64(seed))
    kernel = random.normal(size=(FEATURES, LABELS)).astype(np.float32)
    mean = np.array([0, 0, 0, FAR], np.float32)
    return [kernel, mean, np.zeros(LABELS, np.float32), np.array(0, np.int64)]


def share(data: tuple[np.ndarray, np.ndarray], which: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    points, labels = (np.array_split(array, count)[which] for array in data)
    return points, labels


def probabilities(weights: Arrays, points: np.ndarray) -> np.ndarray:
    kernel, mean, bias, *_ = weights
    scores = (points - mean) @ kernel + bias
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result


@dataclass(frozen=True)
class Trained:
    update: Arrays
    num_examples: int
    num_steps: int
    state: Arrays  # of SCAFFOLD; the client's new one
    change: Arrays  # and what was added to the old one


def train(
    experiment: dict[str, Any], client: int, weights: Arrays, state: Arrays, broadcast: Arrays
) -> Trained:
    """Plain SGD, corrected by `broadcast` - `state` (zeros unless the objective is control-variates)."""
    points, labels = share(TRAIN, client, experiment["clients"]["count"])
    training = experiment["training"]
    size = len(points) if training["batch_size"] == "full" else training["batch_size"]
    rate = np.float32(training["learning_rate"])
    correction = [ours - mine for ours, mine in zip(broadcast, state, strict=True)]
    kernel, mean, bias, _ = weights
    steps = 0
    for _ in range(training["epochs"]):
        for begin in range(0, len(points), size):
            batch, wanted = points[begin : begin + size], labels[begin : begin + size]
            error = (probabilities([kernel, mean, bias], batch) - np.eye(LABELS)[wanted]) / len(batch)
            kernel = (kernel - rate * ((batch - mean).T @ error + correction[0])).astype(np.float32)
            bias = (bias - rate * (error.sum(axis=0) + correction[1])).astype(np.float32)
            steps += 1
    moved = points.mean(axis=0)  # as batch statistics do
    update = [kernel - weights[0], moved - mean, bias - weights[2], np.array(len(points), np.int64)]
    # Karimireddy et al. 2020, option II: the new state minus the old is (x - y) / (steps · rate) - c
    pace = rate * np.float32(steps)
    change = [-step / pace - ours for ours, step in zip(broadcast, [update[0], update[2]], strict=True)]
    return Trained(
        update, len(points), steps, [old + by for old, by in zip(state, change, strict=True)], change
    )


def zeros() -> Arrays:
    return [np.zeros(spec["shape"], np.float32) for spec in MANIFEST if spec["trainable"]]


def evaluate(weights: Arrays, points: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Sums over examples."""
    found = probabilities(weights, points)
    loss = -np.log(found[np.arange(len(points)), labels]).sum()
    return {"loss": float(loss), "accuracy": float((found.argmax(axis=1) == labels).sum())}


# --- the worker


@dataclass
class ForeignWorker:
    """`run` until `closing`; or, for a test that looks at each step, the methods one by one."""

    url: str
    join_token: str
    node: str
    instance: str = field(default_factory=lambda: secrets.token_hex(16))
    closing: threading.Event = field(default_factory=threading.Event)
    stopped: dict[str, str] = field(default_factory=dict)  # run: its ledger's head, as the stop order says
    fetched: dict[str, str] = field(default_factory=dict)  # digest, as computed here: the ETag it came with
    sent: dict[str, str] = field(default_factory=dict)  # order: digest of the message
    refusals: list[str] = field(default_factory=list)  # types of problems met
    plans: dict[str, dict[str, Any]] = field(default_factory=dict)  # that have arrays
    holding: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=30)
        self.poll_seconds = 0.0

    # what the aggregator is asked

    def join(self) -> None:
        introduction = {
            "protocol": 1,
            "instance": self.instance,
            "host": self.node,
            "node": self.node,
            "arch": "made-up",
            "cpus": 1,
            "memory_bytes": 1 << 30,
            "accelerator": None,
            "pinned": None,
        }
        reply = self.http.post(
            "/v1/join", json=introduction, headers={"Authorization": f"Bearer {self.join_token}"}
        )
        reply.raise_for_status()
        self.http.headers["Authorization"] = f"Bearer {reply.json()['session_token']}"
        self.poll_seconds = reply.json()["poll_seconds"]

    def poll(self) -> list[dict[str, Any]]:
        """The orders that are new."""
        with_them = {"holding": list(self.holding), "doing": "", "cpu_seconds": 0.0, "memory_bytes": 0}
        reply = self.http.post("/v1/poll", json=with_them, timeout=self.poll_seconds + 30)
        if reply.status_code in (401, 404):
            self.join()
            return []
        reply.raise_for_status()
        for order in reply.json()["cancel"]:
            self.holding.pop(order, None)
        new = [order for order in reply.json()["give"] if order["id"] not in self.holding]
        self.holding |= {order["id"]: order for order in new}
        return new

    def leave(self) -> None:
        self.http.post("/v1/leave").raise_for_status()

    def plan(self, run: str) -> dict[str, Any]:
        if run not in self.plans:
            reply = self.http.get(f"/v1/runs/{run}/plan")
            reply.raise_for_status()
            if not reply.json()["arrays"]:
                return dict(reply.json())
            self.plans[run] = reply.json()
        return self.plans[run]

    def fetch(self, path: str, wanted: str, manifest: list[dict[str, Any]]) -> Groups:
        """The arrays in float32; what came is what was asked for."""
        reply = self.http.get(f"{path}/{wanted}")
        reply.raise_for_status()
        groups, _ = decode(reply.content)
        found = digest(groups, manifest)
        assert found == wanted
        self.fetched[found] = reply.headers["ETag"]
        return {group: float32(arrays) for group, arrays in groups.items()}

    def put(self, order: str, message: bytes) -> httpx.Response:
        return self.http.put(f"/v1/orders/{order}/update", content=message)

    def answer(self, order: str, **result: Any) -> httpx.Response:
        return self.http.post(f"/v1/orders/{order}/result", json=result)

    # what it is asked to do

    def initialize(self, order: dict[str, Any]) -> httpx.Response:
        weights = {"weights": initial(self.plan(order["run"])["experiment"]["seed"])}
        told = {
            "arrays": MANIFEST,
            "task_hash": TASK_HASH,
            "data_hash": DATA_HASH,
            "train_examples": len(TRAIN[0]),
            "test_examples": len(TEST[0]),
            "metrics": ["accuracy", "loss"],
        }
        self.sent[order["id"]] = digest(weights, MANIFEST)
        return self.put(order["id"], encode(weights, MANIFEST, {"initialized": json.dumps(told)}))

    def trained(self, order: dict[str, Any]) -> tuple[Groups, dict[str, str]]:
        """The groups and the metadata of the reply to a train order."""
        plan = self.plan(order["run"])
        experiment, manifest = plan["experiment"], plan["arrays"]
        received = self.fetch("/v1/weights", order["weights"], manifest)
        state = zeros()
        if order["state"] is not None:
            state = self.fetch("/v1/states", order["state"], manifest)["state"]
        done = train(
            experiment, order["client"], received["weights"], state, received.get("broadcast", zeros())
        )
        wire = experiment["wire"]
        groups = {"update": on_wire(done.update, wire)}
        if experiment["strategy"]["objective"]["name"] == "control-variates":
            groups |= {"state": done.state, "broadcast": on_wire(done.change, wire)}
        account = {"num_examples": done.num_examples, "num_steps": done.num_steps}
        return groups, {"account": json.dumps(account)}

    def train(self, order: dict[str, Any]) -> httpx.Response:
        groups, metadata = self.trained(order)
        manifest = self.plan(order["run"])["arrays"]
        self.sent[order["id"]] = digest(groups, manifest)
        return self.put(order["id"], encode(groups, manifest, metadata))

    def evaluate(self, order: dict[str, Any]) -> httpx.Response:
        plan = self.plan(order["run"])
        weights = self.fetch("/v1/weights", order["weights"], plan["arrays"])["weights"]
        points, labels = share(TEST, order["shard"], plan["experiment"]["evaluation"]["shards"])
        sums = evaluate(weights, points, labels)
        evaluated = {"num_examples": len(points), "sums": sums, "seconds": 0.0}
        return self.answer(order["id"], status="done", evaluated=evaluated)

    def stop(self, order: dict[str, Any]) -> httpx.Response:
        self.stopped[order["run"]] = order["head"]
        self.plans.pop(order["run"], None)
        return self.answer(order["id"], status="done")

    def carry_out(self, order: dict[str, Any]) -> None:
        """Later orders of a run name the sources: those of somebody else are refused."""
        if order["id"] not in self.holding:
            return  # cancelled meanwhile
        kinds: dict[str, Callable[[dict[str, Any]], httpx.Response]] = {
            "initialize": self.initialize,
            "train": self.train,
            "evaluate": self.evaluate,
            "stop": self.stop,
        }
        if order["kind"] in ("train", "evaluate") and (order["task_hash"], order["data_hash"]) != (
            TASK_HASH,
            DATA_HASH,
        ):
            other = "urn:roundtable:source-mismatch"
            reply = self.answer(
                order["id"], status="refused", problem=other, detail="another task or data set"
            )
        else:
            reply = kinds[order["kind"]](order)
        if reply.is_error:
            self.refusals.append(reply.json()["type"])
        self.holding.pop(order["id"], None)

    def run(self) -> None:
        """Polls beside the work until `closing`, then leaves. Raises what carrying out an order raised."""
        self.join()
        with closing(self.http), ThreadPoolExecutor(1) as working:
            under_way: list[Future[None]] = []
            while not self.closing.is_set():
                under_way += [working.submit(self.carry_out, order) for order in self.poll()]
                for done in [future for future in under_way if future.done()]:
                    done.result()
                    under_way.remove(done)
            self.leave()
