"""Clients with a machine of their own, acted out: their links and their speed, beside what the worker does
for its other clients (`roundtable.fleet.Conditions`, in the order).

Such an order has a thread to itself from when it comes to when it is done with:

    fetch the weights over its link → the work thread trains → hold the update back → hand it in over its link

t seconds of CPU time at a share s of this machine's speed are held back by t·(1/s − 1). An update that gets
lost is trained and not handed in; its order is held until it is cancelled. Every wait ends with the order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from roundtable.codec import Encoded
from roundtable.errors import Refused, Unauthorized
from roundtable.fleet import Conditions
from roundtable.types import Seconds

from worker.backoff import Backoff
from worker.board import Board, Held, Parcel
from worker.link import PASSING, Link
from worker.logs import warn
from worker.shaping import Rest, ShapedTransport

MESSAGE_LIMIT: Final = 64 << 30  # bytes; what is fetched is checked against its hash by the work thread


class NoLongerWanted(Exception):
    pass


class Apart:
    def __init__(
        self,
        link: Link,
        board: Board,
        deliver: Callable[[Parcel, Link], object],
        guarded: Callable[[Callable[[], None]], None],
        patience: Callable[[], Backoff],
        clock: Callable[[], Seconds] = time.monotonic,
        rest: Callable[[Seconds, Held], bool] | None = None,
    ) -> None:
        """`deliver` sends a parcel until it is taken; `guarded` runs what a thread does. `rest` waits, and
        says whether the order is still wanted then."""
        self._link, self._board, self._deliver, self._guarded = link, board, deliver, guarded
        self._patience, self._clock = patience, clock
        self._rest = rest or board.rest

    def begin(self, held: Held) -> None:
        """From any thread: take the order on its way."""
        name = f"client-{held.order.client}"
        threading.Thread(
            target=self._guarded, args=(lambda: self.carry_out(held),), name=name, daemon=True
        ).start()

    def carry_out(self, held: Held) -> None:
        machine = held.order.machine
        assert machine is not None
        try:
            self._travel(held, machine)
        except NoLongerWanted:
            pass
        finally:
            self._board.drop(held)

    def _travel(self, held: Held, machine: Conditions) -> None:
        begun = self._clock()
        self._fetch(held, machine)
        held.fetching = self._clock() - begun
        content = self._board.trained(held)
        if content is None:
            raise NoLongerWanted
        if not isinstance(content, Encoded):  # it failed, which goes without a machine
            self._deliver(Parcel(held, content), self._link)
            return
        if machine.dropped:
            self._board.until_unwanted(held)
            raise NoLongerWanted
        self._wait(held.cpu_seconds * (1 / machine.compute - 1), held)
        begun = self._clock()
        self._deliver(Parcel(held, content), self._shaped(machine, held))
        self._link.traffic.count(sending=self._clock() - begun)

    def _fetch(self, held: Held, machine: Conditions) -> None:
        """The round's weights, over this client's link, whoever else has fetched them."""
        digest, backoff = held.order.weights, self._patience()
        while digest is not None:
            try:
                held.message = self._shaped(machine, held).weights(digest, MESSAGE_LIMIT)
                return
            except (*PASSING, Unauthorized):  # the poll thread finds out, and gets a new session
                if not self._board.pause(backoff.next(), held):
                    raise NoLongerWanted from None
            except Refused as error:  # the work thread asks once more, and answers
                warn("weights refused", order=held.order.id, detail=str(error))
                return

    def _shaped(self, machine: Conditions, held: Held) -> Link:
        rest: Rest = lambda seconds: self._wait(seconds, held)  # noqa: E731
        return self._link.over(lambda inner: ShapedTransport(inner, machine, self._clock, rest))

    def _wait(self, seconds: Seconds, held: Held) -> None:
        if not self._rest(max(seconds, 0.0), held):
            raise NoLongerWanted
