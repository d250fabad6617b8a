"""Replies to orders: received, checked, and told to the conductor, who says whether they count."""

from __future__ import annotations

import asyncio
from typing import Final

from fastapi import Request
from roundtable.errors import (
    CorruptStore,
    InvalidInput,
    InvalidPayload,
    NotAsked,
    Refused,
    Stale,
    StorageFull,
    Unknown,
)
from roundtable.messages import OrderResult, UpdateReply
from roundtable.types import OrderId, WorkerId

from aggregator import orders
from aggregator.active import ActiveRun
from aggregator.checks import Checked, CheckedInitial, check_initial, check_update
from aggregator.clock import Clock
from aggregator.conductor import Conductor, Delivery
from aggregator.desk import Desk
from aggregator.events import EvaluationArrived, InitializeArrived, Key, OrderFailed, UpdateArrived
from aggregator.logs import note
from aggregator.runs import Runs
from aggregator.settings import ServiceSettings
from aggregator.spool import Room
from aggregator.turns import Turns
from aggregator.uploads import SMALL, Bounds, receive

WAIT: Final = "roundtable-wait"  # header: seconds that the reply to an update may wait for the next orders
_NO_ARRAYS: Final = "an evaluate order takes no arrays: send its sums to /result"


class Replies:
    def __init__(self, settings: ServiceSettings, clock: Clock, turns: Turns, desk: Desk, runs: Runs) -> None:
        self._settings = settings
        self._clock = clock
        self._turns = turns
        self._desk = desk
        self._runs = runs

    async def upload(self, worker: WorkerId, order: OrderId, request: Request) -> UpdateReply:
        """Accept it; then wait for what the worker is to do next, as long as the request's WAIT header says.

        Raises Unknown, Stale, NotAsked, Superseded, AlreadyAccepted, InvalidPayload, StorageFull,
        CorruptStore.
        """
        try:
            duplicate = await self._accept(worker, order, request)
        except Refused:  # sent again, perhaps, because the reply was lost, and with it what it brought
            self._desk.remind(worker)
            raise
        patience = min(_seconds(request.headers.get(WAIT)), self._settings.poll_seconds)
        if not patience:
            return UpdateReply(duplicate=duplicate)
        if duplicate:
            self._desk.remind(worker)
        began = self._clock.monotonic()
        give = await self._desk.next_orders(worker, patience)
        return UpdateReply.model_construct(
            duplicate=duplicate, give=give, waited=self._clock.monotonic() - began
        )

    def content(self, worker: WorkerId, reply: UpdateReply, most: int) -> memoryview | None:
        """The global message that the reply's orders need and the worker has not had, if of `most` bytes or
        fewer."""
        live = self._runs.live
        digest = next((order.weights for order in reply.give if order.kind == "train"), None)
        if live is None or digest is None or live.sent.get(worker) == digest:
            return None
        try:
            content = live.files.content("weights", digest)
        except Unknown:  # the run has gone on
            return None
        if len(content) > most:
            return None
        live.sent[worker] = digest
        live.count_down(len(content))
        return content

    async def _accept(self, worker: WorkerId, order: OrderId, request: Request) -> bool:
        """Whether the same update had been accepted before."""
        conductor, key, attempt = self._find(order)
        run = conductor.run
        if key.kind == "evaluate":
            raise InvalidInput(_NO_ARRAYS)
        if run.paused:
            raise StorageFull(run.reason or f"run {run.id} is paused: send it again later")
        if self._desk.held(worker, order) is None and key.round < run.machine.committed:
            raise Stale(f"round {key.round} is over, round {run.machine.round} is under way: drop it")
        room, delivered = None, False
        try:
            room = await receive(request, run.files.spool, self._bounds(run, key))
            # A small body is checked here and now: a hop to another thread would cost more than that.
            small = room.nbytes <= SMALL
            content = _check(run, key, room) if small else await asyncio.to_thread(_check, run, key, room)
            kind = InitializeArrived if isinstance(content, CheckedInitial) else UpdateArrived
            event = kind(key, attempt, worker, content.digest, self._clock.monotonic())
            delivery, delivered = Delivery(event, content, room), True
            duplicate = await self._turns.submit(lambda: _deliver(conductor, delivery))
        except InvalidPayload as error:
            note("upload refused", worker=worker, order=order, detail=str(error))
            raise
        except (StorageFull, CorruptStore) as error:
            fault = error
            if not run.paused:
                await self._turns.submit(lambda: self._runs.not_written(run.id, fault))
            raise
        finally:
            if room is not None and not delivered:
                run.files.spool.discard(room)
        return duplicate

    async def result(self, worker: WorkerId, order: OrderId, result: OrderResult) -> None:
        """Raises Unknown, Stale, NotAsked, Superseded, InvalidInput, StorageFull."""
        held = self._desk.held(worker, order)
        if ".stop." in order:
            self._desk.settle(worker, order)
            return
        conductor, key, attempt = self._find(order)
        now = self._clock.monotonic()
        if result.status != "done":
            self._desk.settle(worker, order)
            if held is None:  # withdrawn: as from a worker that was left out of the run for its first refusal
                return
            detail = result.detail or "no reason given"
            node = conductor.run.machine.node_of(worker)
            note("order " + result.status, worker=worker, node=node, order=order, detail=detail)
            failed = OrderFailed(key, attempt, worker, result.status == "refused", detail, now)
            await self._turns.submit(lambda: conductor.handle(failed))
            return
        if key.kind != "evaluate" or result.evaluated is None:
            raise InvalidInput(
                f"status: done needs `evaluated` for an evaluate order, and arrays for {key.kind} orders"
            )
        delivery = Delivery(EvaluationArrived(key, attempt, worker, now), result.evaluated)
        await self._turns.submit(lambda: conductor.deliver(delivery))

    def _find(self, order: OrderId) -> tuple[Conductor, Key, int]:
        run, key, attempt = orders.parse(order)
        active = self._runs.active
        if active is None or active.run.id != run:
            raise Stale(f"run {run} is not under way: drop the order")
        return active, key, attempt

    def _bounds(self, run: ActiveRun, key: Key) -> Bounds:
        settings = self._settings
        if key.kind == "initialize":
            nbytes = settings.max_model_bytes
        elif run.expected:
            nbytes = run.update_limit
        else:
            raise NotAsked(f"run {run.id} has no first weights yet: it takes no updates")
        return Bounds(nbytes, settings.upload_stall_seconds, settings.upload_seconds)


async def _deliver(conductor: Conductor, delivery: Delivery) -> bool:
    """Whether it was in before. What is not accepted is discarded: here, as its sender may be gone by now."""
    try:
        return await conductor.deliver(delivery)
    finally:
        if delivery.room is not None:
            conductor.run.files.spool.discard(delivery.room)


def _seconds(text: str | None) -> float:
    """0 for what is no sensible number of seconds: the header is a wish."""
    try:
        seconds = float(text or 0)
    except ValueError:
        return 0.0
    return seconds if 0 < seconds < 3600 else 0.0


def _check(run: ActiveRun, key: Key, room: Room) -> Checked | CheckedInitial:
    if key.kind == "initialize":
        return check_initial(room.content)
    checked = check_update(room.content, run.expected, run.experiment.wire)
    room.header = checked.header
    return checked
