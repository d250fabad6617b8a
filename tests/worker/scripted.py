"""What the worker's tests share: a scripted aggregator on a real socket, and a trainer of plain numpy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from roundtable.codec import Decoded, decode, decode_initial, encode
from roundtable.experiment import Experiment
from roundtable.messages import (
    Account,
    Evaluated,
    Initialized,
    Join,
    Joined,
    Order,
    OrderResult,
    Plan,
    Poll,
    PollReply,
    UpdateReply,
)
from roundtable.weights import ArraySpec, Manifest, Weights

TOKEN = "join-token-of-the-tests"
MANIFEST = Manifest(
    (ArraySpec("kernel", (3, 2)), ArraySpec("bias", (2,)), ArraySpec("mean", (2,), trainable=False))
)
TASK_HASH, DATA_HASH = "a" * 64, "b" * 64
WAIT = 100.0  # seconds that anything in these tests may take at most, a worker's start on a busy machine too

Answer = tuple[int, bytes]


def weights(value: float, manifest: Manifest = MANIFEST) -> Weights:
    return Weights.of(manifest, [np.full(spec.shape, value, np.float32) for spec in manifest.arrays])


def problem(status: int, kind: str, detail: str = "because") -> Answer:
    return status, json.dumps({"type": f"urn:roundtable:{kind}", "title": kind, "detail": detail}).encode()


def order(number: int, kind: str = "train", **fields: Any) -> Order:
    given: dict[str, Any] = {"id": f"o{number}", "kind": kind, "run": "r1", "round": 1, "attempt": 1}
    if kind in ("train", "evaluate"):
        given |= {"task_hash": TASK_HASH, "data_hash": DATA_HASH}
    if kind == "train":
        given["client"] = number
    return Order(**{**given, **fields})


@dataclass
class Aggregator:
    """Gives the orders it is told to give, keeps what it is sent. `meddle` may answer any request first."""

    port: int = 0
    poll_seconds: float = 0.5
    experiment: Experiment = field(default_factory=lambda: Experiment(name="e", task="digits"))
    initialized: bool = True
    orders: dict[str, Order] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    updates: dict[str, bytes] = field(default_factory=dict)
    results: dict[str, OrderResult] = field(default_factory=dict)
    arrived: list[str] = field(default_factory=list)  # ids of orders, as their replies came
    requests: list[str] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)
    left: int = 0
    meddle: Callable[[str, str], Answer | None] = lambda _method, _path: None
    sessions: set[str] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.server: ThreadingHTTPServer | None = None
        self.start()

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = self.rfile.read(length)
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                try:
                    status, content = outer.answer(self.command, self.path, token, body)
                except ConnectionResetError:
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = handle_any  # noqa: N815 -- http.server's names

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def handle(self) -> None:
                with suppress(OSError):  # the worker has gone
                    super().handle()

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """As if killed: nobody listens, and every session is forgotten."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        with self.changed:
            self.sessions.clear()
            self.changed.notify_all()

    @property
    def holding(self) -> tuple[str, ...]:
        """What the worker held when it polled last."""
        return self.polls[-1].holding if self.polls else ()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    # --- the protocol

    def answer(self, method: str, path: str, token: str, body: bytes) -> Answer:
        with self.changed:
            self.requests.append(f"{method} {path}")
            self.changed.notify_all()
        meddled = self.meddle(method, path)
        if meddled is not None:
            return meddled
        if path == "/v1/join":
            return self.join(token, body)
        if token not in self.sessions:
            return problem(401, "unauthorized", "no such session")
        if path == "/v1/poll":
            return self.poll(token, Poll.model_validate_json(body))
        if path == "/v1/leave":
            with self.changed:
                self.left += 1
                self.sessions.discard(token)
                self.changed.notify_all()
            return 204, b""
        if path.startswith("/v1/runs/"):
            arrays = MANIFEST.arrays if self.initialized else None
            return 200, Plan(run="r1", experiment=self.experiment, arrays=arrays).model_dump_json().encode()
        if method == "GET":
            digest = path.rpartition("/")[2]
            return (200, self.contents[digest]) if digest in self.contents else problem(404, "unknown")
        return self.reply(path, body)

    def join(self, token: str, body: bytes) -> Answer:
        if token != TOKEN:
            return problem(401, "unauthorized", "not the join token")
        join = Join.model_validate_json(body)
        with self.changed:
            self.joins.append(join)
            session = f"session-{len(self.joins)}"
            self.sessions.add(session)
            self.changed.notify_all()
        joined = Joined(worker="w1", session_token=session, lost_after=15, poll_seconds=self.poll_seconds)
        return 200, joined.model_dump_json().encode()

    def poll(self, token: str, poll: Poll) -> Answer:
        with self.changed:
            self.polls.append(poll)
            self.changed.notify_all()
            reply = PollReply()

            def news() -> bool:
                nonlocal reply
                give = tuple(order for order in self.orders.values() if order.id not in poll.holding)
                cancel = tuple(
                    held for held in poll.holding if held not in self.orders and held not in self.arrived
                )
                reply = PollReply(give=give, cancel=cancel)
                return bool(give or cancel) or token not in self.sessions

            self.changed.wait_for(news, self.poll_seconds)
        return 200, reply.model_dump_json().encode()

    def reply(self, path: str, body: bytes) -> Answer:
        _, _, _, order_id, what = path.split("/")
        with self.changed:
            duplicate = order_id in self.updates
            if what == "update":
                self.updates[order_id] = body
            else:
                self.results[order_id] = OrderResult.model_validate_json(body)
            self.arrived.append(order_id)
            self.orders.pop(order_id, None)
            self.changed.notify_all()
        return 200, UpdateReply(duplicate=duplicate).model_dump_json().encode()

    # --- the tests' side

    def give(self, *orders: Order) -> None:
        with self.changed:
            self.orders.update({order.id: order for order in orders})
            self.changed.notify_all()

    def withdraw(self, *identities: str) -> None:
        with self.changed:
            for identity in identities:
                self.orders.pop(identity, None)
            self.changed.notify_all()

    def publish(self, value: float, broadcast: float | None = None) -> str:
        groups = {"weights": weights(value)}
        if broadcast is not None:
            groups["broadcast"] = weights(broadcast, MANIFEST.trainable)
        encoded = encode(groups, wire=self.experiment.wire)
        self.contents[encoded.digest] = b"".join(bytes(piece) for piece in encoded.buffers)
        return encoded.digest

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + WAIT
        with self.changed:
            while not condition():
                assert time.monotonic() < until, f"waited in vain for {what}: {self.requests[-10:]}"
                self.changed.wait(0.01)  # the trainer's side of it notifies nobody

    def wait_for_replies(self, *identities: str) -> None:
        self.wait_for(
            lambda: set(identities) <= {*self.updates, *self.results}, f"the replies to {identities}"
        )

    def decoded(self, order_id: str) -> Decoded:
        expected = {"update": MANIFEST}
        if self.experiment.strategy.objective.controls:
            expected |= {"broadcast": MANIFEST.trainable, "state": MANIFEST.trainable}
        return decode(self.updates[order_id], expected, wire=self.experiment.wire)

    def update(self, order_id: str) -> Weights:
        return self.decoded(order_id).groups["update"]

    def account(self, order_id: str) -> Account:
        return Account.model_validate_json(self.decoded(order_id).metadata["account"])

    def initial(self, order_id: str) -> Weights:
        return decode_initial(self.updates[order_id]).groups["weights"]


@dataclass
class NumpyTrainer:
    """Update = client number everywhere; `gate` holds a training up until it is opened or told to stop."""

    plan: Plan
    task_hash: str = TASK_HASH
    data_hash: str = DATA_HASH
    gate: threading.Event = field(default_factory=threading.Event)
    begun: list[str] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)  # the first weight each training started from
    stopped: int = 0
    update: Callable[[int], Weights] = lambda client: weights(float(client))
    used: list[Manifest] = field(default_factory=list)
    change: Weights | None = None
    state: Weights | None = None
    given: list[tuple[float | None, float | None]] = field(default_factory=list)  # of broadcast and state

    def initialize(self) -> tuple[Weights, Initialized]:
        self.begun.append("initialize")
        return weights(0.5), Initialized(
            arrays=MANIFEST.arrays,
            task_hash=self.task_hash,
            data_hash=self.data_hash,
            train_examples=10,
            test_examples=5,
            metrics=("accuracy",),
        )

    def use(self, manifest: Manifest) -> None:
        self.used.append(manifest)

    def train(
        self,
        client: int,
        round_number: int,  # noqa: ARG002 -- the trainer's signature
        weights: Weights,
        broadcast: Weights | None,
        state: Weights | None,
        stop: Callable[[], bool],
    ) -> Trained:
        self.begun.append(f"train {client}")
        self.seen.append(_first(weights) or 0.0)
        self.given.append((_first(broadcast), _first(state)))
        until = time.monotonic() + WAIT
        while not self.gate.wait(0.005) and time.monotonic() < until:
            if stop():
                self.stopped += 1
                break
        return Trained(self.update(client), self.change, self.state)

    def evaluate(self, _weights: Weights, shard: int | None, _client: int | None) -> Evaluated:
        self.begun.append(f"evaluate {shard}")
        return Evaluated(num_examples=5, sums={"accuracy": 4.0})


def _first(weights: Weights | None) -> float | None:
    return None if weights is None else float(weights.arrays[0].flat[0])


@dataclass
class Trained:
    update: Weights
    broadcast: Weights | None = None
    state: Weights | None = None
    num_examples: int = 10
    num_steps: int = 2
    loss: float | None = 0.25
    metrics: dict[str, float] = field(default_factory=lambda: {"accuracy": 0.5})
    seconds: float = 0.125
    cpu_seconds: float = 0.0625
