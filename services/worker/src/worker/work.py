"""Carrying out one order: fetch what it needs, have the trainer do it, pack what came of it.

Runs in the work thread and knows no thread but its own. The trainer is made by an injected factory, so
that nothing here imports TensorFlow. One trainer is kept, that of the active run, and with it its
partitions and compiled functions; a round's weights are fetched once, however many clients this worker
trains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from roundtable.codec import Buffer, Decoded, Encoded, as_decoded, content_hash, decode, encode, size_limit
from roundtable.errors import (
    InvalidInput,
    InvalidPayload,
    InvalidSetting,
    NotFinite,
    RoundtableError,
    SourceMismatch,
    Unauthorized,
    problem_of,
)
from roundtable.messages import Account, Order, OrderResult, Personal
from roundtable.types import Digest, Seconds
from roundtable.weights import Manifest, Weights

from worker.account import peak_memory_bytes
from worker.backoff import Backoff
from worker.board import Board, Held
from worker.facade import MakeTrainer, Trainer
from worker.link import PASSING, Link
from worker.logs import say, warn
from worker.run import Run

SPOILED = 3  # times a content may arrive with another hash before the order fails

T = TypeVar("T")


class Abandoned(Exception):
    pass


class NeedsFreshProcess(Exception):
    """This process has worked for a run of other settings: the new run can be had by starting over."""


class Work:
    def __init__(
        self,
        link: Link,
        board: Board,
        make_trainer: MakeTrainer,
        patience: Callable[[], Backoff],
        clock: Callable[[], Seconds] = time.monotonic,
        trained: Callable[[Order, Account], None] = lambda _order, _account: None,
    ) -> None:
        """`trained` is told of each client whose update is about to be sent."""
        self._link = link
        self._board = board
        self._make_trainer = make_trainer
        self._patience = patience
        self._clock = clock
        self._trained = trained
        self._run: Run | None = None
        self._seasoned = False  # has made a trainer before
        self._brought: dict[Digest, Buffer] = {}  # a message that came with its orders

    def bring(self, orders: Iterable[Order], message: Buffer) -> None:
        """From any thread: the global message that these orders will need, unchecked."""
        self._brought = {
            order.weights: message for order in orders if order.kind == "train" and order.weights
        }

    def carry_out(self, held: Held) -> Encoded | OrderResult | None:
        """The reply to this order; None when it is no longer wanted. Raises nothing a task may raise."""
        order = held.order
        try:
            reply = self._reply(held)
            return None if self._board.unwanted(held) else reply
        except NeedsFreshProcess:
            raise
        except Abandoned:
            return None
        except RoundtableError as error:
            # The user's task, data or settings: no order of this run will fare better here.
            refused = isinstance(error, (InvalidInput, SourceMismatch)) and not isinstance(
                error, InvalidPayload
            )
            result = OrderResult(
                status="refused" if refused else "failed", problem=problem_of(error).type, detail=str(error)
            )
        except Exception as error:  # noqa: BLE001 -- a task's own code may raise anything; it is told, not hidden
            warn("traceback", traceback=True, order=order.id)
            result = OrderResult(status="failed", detail=f"{type(error).__name__}: {error}")
        if self._board.unwanted(held):
            return None
        warn(result.status, order=order.id, detail=result.detail)
        return result

    def _reply(self, held: Held) -> Encoded | OrderResult:
        order = held.order
        started = self._clock()
        if order.kind == "stop":
            return self._stop(order)
        run = self._run_of(held)
        _check_source(order, run.trainer)
        if order.kind == "initialize":
            weights, initialized = run.trainer.initialize()
            return encode({"weights": weights}, {"initialized": initialized.model_dump_json()})
        if run.manifest is None:
            self._use_manifest(held, run)
        message = self._message(held, run)
        if order.kind == "evaluate":
            evaluated = run.trainer.evaluate(message.groups["weights"], order.shard, order.client)
            return OrderResult(status="done", evaluated=evaluated)
        return self._train(held, run, message, started)

    # --- the run

    def _run_of(self, held: Held) -> Run:
        """The run this order belongs to; a new one takes the place of the last."""
        if self._run is None or self._run.plan.run != held.order.run:
            self._run = None  # first free what the last one holds
            plan = self._fetch(held, lambda: self._link.plan(held.order.run))
            try:
                self._run = Run(plan, self._make_trainer(plan))
            except InvalidSetting as error:
                if self._seasoned:
                    raise NeedsFreshProcess(str(error)) from None
                raise
            self._seasoned = True
        return self._run

    def _use_manifest(self, held: Held, run: Run) -> None:
        plan = run.plan
        if plan.manifest is None:  # fetched before the run was initialized
            plan = self._fetch(held, lambda: self._link.plan(held.order.run))
        if plan.manifest is None:
            raise InvalidPayload(
                f"the plan of run {plan.run} has no manifest, though order {held.order.id} needs one"
            )
        run.use(plan, plan.manifest)

    def _stop(self, order: Order) -> OrderResult:
        if self._run is not None and self._run.plan.run == order.run:
            self._run = None
        say("run ended", run=order.run, head=order.head)
        return OrderResult(status="done")

    # --- training

    def _train(self, held: Held, run: Run, message: Decoded, started: Seconds) -> Encoded:
        order, wire = held.order, run.plan.experiment.wire
        if order.client is None:
            raise InvalidPayload(f"train order {order.id} names no client")
        state = self._state(held, run)
        fetched = self._clock()
        trained = run.trainer.train(
            order.client,
            order.round,
            message.groups["weights"],
            message.groups.get("broadcast"),
            state,
            lambda: self._board.unwanted(held),
        )
        if self._board.unwanted(held):
            raise Abandoned
        bytes_in, bytes_out, sending = self._link.traffic.take()
        account = Account(
            num_examples=trained.num_examples,
            num_steps=trained.num_steps,
            loss=_finite(trained.loss, "loss"),
            metrics={name: float(_finite(value, name) or 0.0) for name, value in trained.metrics.items()},
            cpu_seconds=trained.cpu_seconds,
            waiting_seconds=max(started - held.arrived - held.fetching, 0.0),
            fetching_seconds=held.fetching + fetched - started,
            training_seconds=trained.seconds,
            sending_seconds=sending,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            peak_memory_bytes=peak_memory_bytes(),
            personal=_personal(order, run, message.groups["weights"], trained.update),
        )
        held.cpu_seconds = trained.cpu_seconds
        self._trained(order, account)
        groups = {"update": trained.update}
        if trained.broadcast is not None:
            groups["broadcast"] = trained.broadcast
        if trained.state is not None:
            groups["state"] = trained.state
            # As the client's next order will name it, so that it is not fetched then.
            kept = as_decoded(trained.state, wire)
            run.states.keep(content_hash({"state": kept}), kept)
        return encode(groups, {"account": account.model_dump_json()}, wire)

    # --- what is fetched

    def _message(self, held: Held, run: Run) -> Decoded:
        digest = _named(held.order.weights, held.order, "weights")
        message = run.messages.get(digest)
        if message is None:
            run.messages.make_room()  # first: a model may be large
            message = self._content(held, run, digest, run.message_groups, self._link.weights)
            run.messages.keep(digest, message)
        held.message = None
        return message

    def _state(self, held: Held, run: Run) -> Weights | None:
        digest = held.order.state
        if digest is None:
            return None
        state = run.states.get(digest)
        if state is None:
            content = self._content(held, run, digest, run.state_groups, self._link.state)
            state = content.groups["state"]
            run.states.keep(digest, state)
        return state

    def _content(
        self,
        held: Held,
        run: Run,
        digest: Digest,
        expected: Mapping[str, Manifest],
        get: Callable[[Digest, int], Buffer],
    ) -> Decoded:
        """Fetch, check against the hash it is asked by, and read. A spoiled transfer is tried again."""
        limit = size_limit(expected)
        fault = InvalidPayload(f"content {digest[:12]}… cannot be had")
        for _ in range(SPOILED):
            buffer = (
                held.message
                or self._brought.pop(digest, None)
                or self._fetch(held, lambda: get(digest, limit))
            )
            held.message = None
            try:
                # The hash says that these are the aggregator's bytes, which has seen that they are finite.
                decoded = decode(buffer, expected, wire=run.plan.experiment.wire, finite=False)
            except InvalidPayload as error:
                fault = error
                continue
            if decoded.digest == digest:
                return decoded
            fault = InvalidPayload(
                f"content {digest[:12]}… arrived with another hash, {decoded.digest[:12]}…"
            )
        raise fault

    def _fetch(self, held: Held, get: Callable[[], T]) -> T:
        """`get()`, as often as it takes. Raises Abandoned when the order is cancelled meanwhile."""
        backoff = self._patience()
        while True:
            try:
                return get()
            except (*PASSING, Unauthorized):  # without a session: the poll thread is about to get a new one
                if not self._board.pause(backoff.next(), held):
                    raise Abandoned from None


def _personal(order: Order, run: Run, weights: Weights, update: Weights) -> Personal | None:
    """How good the global and the client's own weights are on its held-out examples, in rounds that are
    evaluated."""
    experiment = run.plan.experiment
    evaluation, last = experiment.evaluation, experiment.rounds.count
    if not evaluation.personalized or (order.round % evaluation.every and order.round != last):
        return None
    own = [start + change for start, change in zip(weights.arrays, update.arrays, strict=True)]
    before = run.trainer.evaluate(weights, None, order.client)
    if before.num_examples == 0:  # too few examples to hold one out
        return None
    after = run.trainer.evaluate(Weights.of(weights.manifest, own), None, order.client)
    return Personal(before=before, after=after)


def _check_source(order: Order, trainer: Trainer) -> None:
    for what, asked, own in (
        ("task source", order.task_hash, trainer.task_hash),
        ("data set", order.data_hash, trainer.data_hash),
    ):
        if asked is not None and asked != own:
            raise SourceMismatch(
                f"this worker's {what} has hash {own[:12]}…, the run was begun with {asked[:12]}…: "
                "give every worker the same files and restart this one"
            )


def _named(digest: Digest | None, order: Order, what: str) -> Digest:
    if digest is None:
        raise InvalidPayload(f"{order.kind} order {order.id} names no {what}")
    return digest


def _finite(value: float | None, name: str) -> float | None:
    if value is not None and not math.isfinite(value):
        raise NotFinite(f"the training diverged ({name} is {value}): lower training.learning_rate")
    return value
