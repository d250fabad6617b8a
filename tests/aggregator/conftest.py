"""A lab in one process: the real app on a real store, spoken to over ASGI by workers that are a page of
numpy.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from aggregator.app import create_app
from aggregator.express import Express
from aggregator.service import Service
from aggregator.settings import load
from roundtable import codec
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
)
from roundtable.weights import ArraySpec, Manifest, Weights

HASHES = {"task_hash": "a" * 64, "data_hash": "b" * 64}


class TurnedClock:
    """Stands still until it is turned; then what is due is called."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.midnight = 1_700_000_000.0  # set another one, and the wall clock alone has been set
        self._timers: list[_Timer] = []

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.midnight + self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> _Timer:
        timer = _Timer(when, callback)
        self._timers.append(timer)
        return timer

    def turn(self, seconds: float) -> None:
        self.now += seconds
        due = sorted((t for t in self._timers if t.when <= self.now), key=lambda t: t.when)
        self._timers = [timer for timer in self._timers if timer not in due]
        for timer in due:
            if not timer.cancelled:
                timer.callback()


@dataclass(eq=False)
class _Timer:
    when: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Regression:
    """Least squares in two weights and a bias, with a counter that is not trained: small enough to check by
    hand.
    """

    manifest = Manifest(
        (
            ArraySpec("kernel", (3, 2)),
            ArraySpec("bias", (2,)),
            ArraySpec("seen", (1,), "float32", trainable=False),
        )
    )
    test_examples = 40

    def __init__(self, clients: int = 4) -> None:
        draw = np.random.default_rng(7)
        true = draw.normal(size=(3, 2))
        sizes = [10 + 5 * client for client in range(clients)]
        self.data = []
        for size in sizes:
            x = draw.normal(size=(size, 3)).astype(np.float32)
            self.data.append((x, (x @ true + 0.1 * draw.normal(size=(size, 2))).astype(np.float32)))
        x = draw.normal(size=(self.test_examples, 3)).astype(np.float32)
        self.test = (x, (x @ true).astype(np.float32))

    def first(self) -> list[np.ndarray]:
        draw = np.random.default_rng(1)
        arrays = [draw.normal(size=spec.shape).astype(spec.dtype) for spec in self.manifest.arrays]
        arrays[2][:] = 0
        return arrays

    def gradient(self, weights: list[np.ndarray], client: int) -> list[np.ndarray]:
        x, y = self.data[client]
        error = (x @ weights[0] + weights[1] - y) * np.float32(2 / len(x))
        return [x.T @ error, error.sum(axis=0)]

    def train(
        self,
        start: list[np.ndarray],
        client: int,
        *,
        steps: int,
        rate: float,
        control: list[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """`steps` full-batch steps, `control` added to each gradient; the weights after them."""
        weights = [array.copy() for array in start]
        for _ in range(steps):
            for position, gradient in enumerate(self.gradient(weights, client)):
                step = gradient if control is None else gradient + control[position]
                weights[position] = weights[position] - np.float32(rate) * step
        weights[2] = weights[2] + np.float32(len(self.data[client][0]))
        return weights

    def evaluate(self, weights: list[np.ndarray], shard: int, shards: int) -> Evaluated:
        x, y = (np.array_split(part, shards)[shard] for part in self.test)
        error = ((x @ weights[0] + weights[1] - y) ** 2).sum(axis=1)
        sums = {"loss": float(error.sum()), "accuracy": int((error < 0.5).sum())}
        return Evaluated(num_examples=len(x), sums=sums)


@dataclass
class NumpyWorker:
    """Speaks the protocol; what it does with its orders can be replaced."""

    http: httpx.AsyncClient
    join_token: str
    task: Regression
    instance: str
    node: str = "node"
    pinned: dict[str, Any] | None = None
    id: str = ""
    token: str = ""
    holding: dict[str, Order] = field(default_factory=dict)
    heads: list[str | None] = field(default_factory=list)
    plans: dict[str, Plan] = field(default_factory=dict)
    trained: list[tuple[int, int]] = field(default_factory=list)  # (round, client)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def introduction(self, **changes: Any) -> dict[str, Any]:
        join = Join(
            protocol=1,
            instance=self.instance,
            host="here",
            node=self.node,
            arch="x86_64",
            cpus=2,
            memory_bytes=10**9,
            pinned=self.pinned,  # type: ignore[arg-type]
        )
        return join.model_dump() | changes

    async def join(self) -> Joined:
        reply = await self.http.post(
            "/v1/join", json=self.introduction(), headers={"Authorization": f"Bearer {self.join_token}"}
        )
        joined = Joined.model_validate(_ok(reply).json())
        self.id, self.token = joined.worker, joined.session_token
        return joined

    async def ask(self, holding: tuple[str, ...] | None = None) -> PollReply:
        body = Poll(holding=tuple(self.holding) if holding is None else holding, doing="something")
        reply = await self.http.post("/v1/poll", content=body.model_dump_json(), headers=_json(self.headers))
        return PollReply.model_validate(_ok(reply).json())

    async def poll(self) -> PollReply:
        reply = await self.ask()
        self.holding |= {order.id: order for order in reply.give}
        for order in reply.cancel:
            self.holding.pop(order, None)
        return reply

    async def plan(self, run: str) -> Plan:
        if run not in self.plans or self.plans[run].arrays is None:
            reply = await self.http.get(f"/v1/runs/{run}/plan", headers=self.headers)
            self.plans[run] = Plan.model_validate(_ok(reply).json())
        return self.plans[run]

    async def fetch(self, kind: str, digest: str, groups: dict[str, Manifest], wire: str) -> codec.Decoded:
        reply = _ok(await self.http.get(f"/v1/{kind}/{digest}", headers=self.headers))
        message = codec.decode(reply.content, groups, wire=wire)  # type: ignore[arg-type]
        assert message.digest == digest
        return message

    async def prepare(self, order: Order) -> bytes:
        """The body of the reply to an initialize or a train order."""
        manifest = self.task.manifest
        if order.kind == "initialize":
            told = Initialized(
                arrays=manifest.arrays,
                train_examples=sum(len(x) for x, _ in self.task.data),
                test_examples=self.task.test_examples,
                metrics=("loss", "accuracy"),
                **HASHES,
            )
            groups = {"weights": Weights.of(manifest, self.task.first())}
            return joined(codec.encode(groups, {"initialized": told.model_dump_json()}))
        assert order.client is not None and order.weights is not None
        plan = await self.plan(order.run)
        training, wire = plan.experiment.training, plan.experiment.wire
        controls = plan.experiment.strategy.objective.controls
        groups_of = {"weights": manifest} | ({"broadcast": manifest.trainable} if controls else {})
        message = await self.fetch("weights", order.weights, groups_of, wire)
        start = list(message.groups["weights"].arrays)
        examples = len(self.task.data[order.client][0])
        account = Account(num_examples=examples, num_steps=training.epochs, loss=1.0, training_seconds=0.5)
        sent: dict[str, Weights] = {}
        control = None
        if controls:
            zeros = Weights.zeros(manifest.trainable)
            state = zeros
            if order.state is not None:
                fetched = await self.fetch("states", order.state, {"state": manifest.trainable}, "float32")
                state = fetched.groups["state"]
            broadcast = message.groups["broadcast"].arrays
            control = [c - own for c, own in zip(broadcast, state.arrays, strict=True)]
        end = self.task.train(
            start, order.client, steps=training.epochs, rate=training.learning_rate, control=control
        )
        if controls:
            finished = [
                plan.experiment.strategy.objective.finish(
                    s, e, training.epochs, training.learning_rate, c, own
                )
                for s, e, c, own in zip(start, end, broadcast, state.arrays, strict=False)
            ]
            changes = [new - own for new, own in zip(finished, state.arrays, strict=True)]
            sent["state"] = Weights.of(manifest.trainable, finished)
            sent["broadcast"] = Weights.of(manifest.trainable, changes)
        sent["update"] = Weights.of(manifest, [e - s for e, s in zip(end, start, strict=True)])
        self.trained.append((order.round, order.client))
        return joined(codec.encode(sent, {"account": account.model_dump_json()}, wire))

    async def upload(self, order: Order, body: bytes) -> httpx.Response:
        return await self.http.put(f"/v1/orders/{order.id}/update", content=body, headers=self.headers)

    async def report(self, order: Order, result: OrderResult) -> httpx.Response:
        content = result.model_dump_json()
        return await self.http.post(
            f"/v1/orders/{order.id}/result", content=content, headers=_json(self.headers)
        )

    async def evaluate(self, order: Order) -> Evaluated:
        assert order.weights is not None
        plan = await self.plan(order.run)
        controls = plan.experiment.strategy.objective.controls
        groups = {"weights": self.task.manifest} | (
            {"broadcast": self.task.manifest.trainable} if controls else {}
        )
        message = await self.fetch("weights", order.weights, groups, plan.experiment.wire)
        weights = list(message.groups["weights"].arrays)
        return self.task.evaluate(weights, order.shard or 0, plan.experiment.evaluation.shards)

    async def carry_out(self, order: Order) -> None:
        if order.kind == "stop":
            self.heads.append(order.head)
            reply = await self.report(order, OrderResult(status="done"))
        elif order.kind == "evaluate":
            reply = await self.report(order, OrderResult(status="done", evaluated=await self.evaluate(order)))
        else:
            reply = await self.upload(order, await self.prepare(order))
        if reply.status_code != 409:  # too late is no fault
            _ok(reply)
        self.holding.pop(order.id, None)

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            await self.poll()
            for order in list(self.holding.values()):
                await self.carry_out(order)


@dataclass
class Lab:
    """One aggregator and what talks to it."""

    service: Service
    http: httpx.AsyncClient
    task: Regression

    @property
    def admin(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.service.tokens.admin}"}

    def worker(self, number: int = 1, **changes: Any) -> NumpyWorker:
        return NumpyWorker(self.http, self.service.tokens.join, self.task, f"{number:016x}", **changes)

    async def joined(self, number: int = 1, **changes: Any) -> NumpyWorker:
        worker = self.worker(number, **changes)
        await worker.join()
        return worker

    async def create(self, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        reply = await self.http.post("/v1/runs", json={"experiment": body, **options}, headers=self.admin)
        return dict(_ok(reply).json())

    async def detail(self, run: str) -> dict[str, Any]:
        return dict(_ok(await self.http.get(f"/v1/runs/{run}")).json())

    async def until(
        self, run: str, check: Callable[[dict[str, Any]], bool], seconds: float = 20.0
    ) -> dict[str, Any]:
        """The run as soon as `check` holds, looked at whenever its feed tells of a change."""
        feed = await self.service.runs.feed(run)

        async def watch() -> dict[str, Any]:
            while True:
                feed._changed.clear()
                detail = await self.detail(run)
                if check(detail):
                    return detail
                assert detail["state"] not in ("finished", "failed", "stopped"), detail
                await feed._changed.wait()

        return await asyncio.wait_for(watch(), seconds)

    async def ended(self, run: str) -> dict[str, Any]:
        return await self.until(run, lambda detail: detail["state"] in ("finished", "failed", "stopped"))

    @asynccontextmanager
    async def working(self, *workers: NumpyWorker) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(worker.work()) for worker in workers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


def joined(message: codec.Encoded) -> bytes:
    return b"".join(bytes(piece) for piece in message.buffers)


def _json(headers: dict[str, str]) -> dict[str, str]:
    return headers | {"Content-Type": "application/json"}


def _ok(reply: httpx.Response) -> httpx.Response:
    assert reply.is_success, (
        f"{reply.request.method} {reply.request.url.path}: {reply.status_code} {reply.text}"
    )
    return reply


def experiment(**changes: Any) -> dict[str, Any]:
    """A small one: 4 clients, 3 rounds, evaluated in 2 shards."""
    body: dict[str, Any] = {
        "name": "regression",
        "task": "regression",
        "clients": {"count": 4},
        "training": {"epochs": 3, "batch_size": "full", "learning_rate": 0.05},
        "rounds": {"count": 3},
        "evaluation": {"shards": 2},
    }
    for name, value in changes.items():
        body[name] = body.get(name, {}) | value if isinstance(value, dict) else value
    return json.loads(json.dumps(body))  # type: ignore[no-any-return]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def make_experiment() -> Callable[..., dict[str, Any]]:
    return experiment


@pytest.fixture
def open_lab(tmp_path: Path) -> Callable[..., Any]:
    """`async with open_lab(…) as lab`: settings by name, `clock`, `task`; the same folder each time."""

    @asynccontextmanager
    async def opened(
        clock: Any = None, task: Regression | None = None, **settings: Any
    ) -> AsyncIterator[Lab]:
        settings.setdefault("poll_seconds", 0.2 if clock is None else 5.0)
        service = Service(load(state_dir=tmp_path / "state", **settings), clock)
        try:
            await service.open()
            transport = httpx.ASGITransport(Express(create_app(service)), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://lab") as http:
                yield Lab(service, http, task or Regression())
        finally:
            await service.close()

    return opened


@pytest.fixture
def settled() -> Callable[[], Awaitable[None]]:
    """Lets every task that can go on do so, for tests that turn the clock."""

    async def settle() -> None:
        for _ in range(50):
            await asyncio.sleep(0)

    return settle


@pytest.fixture
def join_bytes() -> Callable[[codec.Encoded], bytes]:
    return joined
