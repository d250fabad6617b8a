"""A worker: three threads around one board of orders.

    poll    joins, then polls for ever: the heartbeat, and where orders come from. It alone notices that the
            aggregator is gone or back, and joins again, as the same instance, when its session is not known.
    work    carries out orders one after the other: train orders before evaluations. Where there is no other,
            it sends the reply itself: a change of threads costs as much as a tenth of a small model's round.
    send    sends each other reply until it is taken or refused, while the next order is already being worked
            on, and what the work thread could not get through at once.

Nothing here imports TensorFlow: the trainer comes from a factory, so that the same agent serves tests
and benchmarks.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random

from roundtable.codec import Encoded
from roundtable.errors import (
    InvalidInput,
    InvalidSetting,
    NotPossible,
    Refused,
    RoundtableError,
    StorageFull,
    Truncated,
    Unauthorized,
    Unknown,
    problem_of,
)
from roundtable.messages import Join, OrderResult, Poll
from roundtable.types import Seconds

from worker.account import cpu_seconds, memory_bytes
from worker.apart import Apart
from worker.backoff import Backoff
from worker.board import Board, Held, Parcel
from worker.facade import MakeTrainer
from worker.link import PASSING, Link
from worker.logs import say, warn
from worker.points import Points
from worker.work import Work

EMPTY_REPLIES = 3  # polls answered at once with nothing new, before the next ones are held back
AT_ONCE: Seconds = 0.1
CUT_OFF = 3  # times an update may arrive cut off, as by a link that stalls, before it is given up
LINGER: Seconds = (
    0.25  # how long the reply to an update may wait for the next orders; longer, and polls do it
)
# What a reply is sent again after: without a session the poll thread is about to get a new one.
AGAIN = (*PASSING, Unauthorized, Truncated)
INLINE = 4 << 20  # bytes of a message that it may bring; a longer one is worth a request of its own


class Agent:
    """`start` it, and `leave`. Where it cannot go on, one of its threads calls `on_end(error)`, once."""

    def __init__(
        self,
        link: Link,
        join: Join,
        make_trainer: MakeTrainer,
        on_end: Callable[[BaseException], None],
        *,
        random: Random | None = None,
        patience: Callable[[Random], Backoff] = Backoff,
        clock: Callable[[], Seconds] = time.monotonic,
        points: Points | None = None,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """`answered` is called at every poll that was."""
        random = random or Random(join.instance)  # workers must not wait in step
        self._link = link
        self._join_message = join
        self._on_end = on_end
        self._clock = clock
        self._patience: Callable[[], Backoff] = lambda: patience(random)
        self._ended = threading.Lock()
        self._points = points or Points()
        self._points.traffic = link.traffic
        self._answered = answered
        self.board = Board(clock, lambda held: self._apart.begin(held))
        self._apart = Apart(link, self.board, self._deliver, self._guarded, self._patience, clock)
        self._work = Work(link, self.board, make_trainer, self._patience, clock, self._points.trained)
        self.joined = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), name=name, daemon=True)
            for name, loop in (("poll", self._poll), ("work", self._carry_out), ("send", self._send))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def leave(self, grace: Seconds) -> None:
        """End: what is being trained or sent gets `grace` seconds, the rest goes back to the aggregator."""
        self.board.close()
        done = self.board.wait_until_idle(grace)
        self.board.expire()
        say("leaving", handed_back=len(self.board.holding()), finished=done)
        if self.joined.is_set():
            with suppress(RoundtableError):  # gone or not, the aggregator will find out
                self._link.leave()

    # --- the poll thread

    def _poll(self) -> None:
        if not self._join():
            return
        backoff, reachable, empty = self._patience(), True, 0
        while not self.board.closed:
            poll = Poll(
                holding=self.board.holding(),
                doing=self.board.doing(),
                cpu_seconds=cpu_seconds(),
                memory_bytes=memory_bytes(),
            )
            begun = self._clock()
            try:
                reply = self._link.poll(poll)
            except PASSING as error:
                if reachable and not self.board.closed:
                    warn("aggregator lost", detail=str(error))
                reachable = False
                self.board.pause(backoff.next())
                continue
            except (Unauthorized, Unknown):
                if self.board.closed:
                    return
                warn("session lost", detail="the aggregator does not know this session: joining again")
                if not self._join():
                    return
                reachable = True
                continue
            self._answered()
            if not reachable:
                say("aggregator back")
                reachable = True
                self.board.nudge()
            news = self.board.reconcile(reply.give, reply.cancel)
            empty = 0 if news or self._clock() - begun > AT_ONCE else empty + 1
            if empty > EMPTY_REPLIES:  # an aggregator that does not wait must not be asked without end
                self.board.pause(backoff.next())
            else:
                backoff.reset()

    def _join(self) -> bool:
        """Introduce this worker, as often as it takes; False when it is to leave instead."""
        backoff, said = self._patience(), ""
        while not self.board.closed:
            try:
                joined = self._link.join(self._join_message)
            except Unauthorized as error:
                raise InvalidSetting(
                    f"JOIN_TOKEN_FILE: the aggregator at {self._link.url} refuses the token in it ({error})"
                ) from None
            except Unknown as error:
                raise InvalidSetting(
                    f"AGGREGATOR_URL: what answers at {self._link.url} is no aggregator ({error}): "
                    "check the address"
                ) from None
            except (*PASSING, NotPossible) as error:
                reason = re.sub(r"\d+", "", str(error))  # whose figures change with each try
                if reason != said:
                    said = reason
                    warn("waiting for the aggregator", detail=str(error))
                self.board.pause(backoff.next())
                continue
            on = self._join_message.accelerator
            say("joined", aggregator=self._link.url, worker=joined.worker, accelerator=on)
            for text in joined.warnings:
                warn("the aggregator warns", detail=text)
            self._points.joined(joined.worker, joined.time)
            self.joined.set()
            self.board.nudge()
            return True
        return False

    # --- the work thread

    def _carry_out(self) -> None:
        while (held := self.board.take()) is not None:
            content = self._work.carry_out(held)
            if content is None:
                self.board.drop(held)
            elif not self._sent_at_once(parcel := Parcel(held, content)):
                self.board.hand_over(parcel)

    def _sent_at_once(self, parcel: Parcel) -> bool:
        content = parcel.content
        if isinstance(content, Encoded) and content.nbytes > INLINE:
            return False  # it may take long on a slow link, and other orders may come meanwhile
        if not self.board.send_at_once(parcel):
            return False
        try:
            self._hand_in(parcel, patient=False)
        except AGAIN:
            return False
        return True

    # --- the send thread

    def _send(self) -> None:
        while (parcel := self.board.next_parcel()) is not None:
            self._hand_in(parcel)

    def _hand_in(self, parcel: Parcel, patient: bool = True) -> None:
        begun = self._clock()
        waited = self._deliver(parcel, self._link, patient)
        self._link.traffic.count(sending=self._clock() - begun - waited)
        self.board.drop(parcel.held)

    def _deliver(self, parcel: Parcel, link: Link, patient: bool = True) -> Seconds:
        """Send it over `link` until it is taken, refused or no longer wanted; how long the reply waited for
        more orders. Unless `patient`, raises what may pass."""
        backoff, order, content, said = self._patience(), parcel.held.order, parcel.content, False
        cut_off = 0
        while True:
            try:
                if isinstance(content, Encoded):
                    return self._put_update(parcel.held, content, link)
                link.post_result(order.id, content)
                return 0.0
            except RoundtableError as error:
                cut_off += isinstance(error, Truncated)
                given_up = isinstance(error, Truncated) and cut_off >= CUT_OFF
                if isinstance(error, AGAIN) and not given_up:
                    if not patient:
                        raise
                    if isinstance(error, StorageFull) and not said:
                        warn("aggregator paused", order=order.id, detail=str(error))
                        said = True
                    if not self.board.pause(backoff.next(), parcel.held):
                        return 0.0
                elif isinstance(error, InvalidInput):  # this content will never be taken: say so, once
                    warn("update refused", order=order.id, detail=str(error))
                    if not isinstance(content, Encoded):
                        return 0.0
                    content = OrderResult(status="failed", problem=problem_of(error).type, detail=str(error))
                elif isinstance(error, Refused):  # stale, superseded, not asked: somebody else's by now
                    warn("update dropped", order=order.id, detail=str(error))
                    return 0.0
                else:
                    raise

    def _put_update(self, held: Held, update: Encoded, link: Link) -> Seconds:
        """Where there is nothing else to do, the reply may bring the next order at once: a request less, or
        two."""
        wait = LINGER if link is self._link and self.board.alone(held) else 0.0
        reply, message = link.put_update(held.order.id, update, wait, INLINE)
        if message is not None:
            self._work.bring(reply.give, message)
        self.board.reconcile(reply.give, ())
        return reply.waited

    # --- all of them

    def _guarded(self, loop: Callable[[], None]) -> None:
        """A thread that ends before it is told to ends the worker: a silent half of a worker helps nobody."""
        try:
            loop()
        except BaseException as error:  # noqa: BLE001 -- handed on whole
            if not isinstance(error, RoundtableError):
                warn("fault", traceback=True, thread=threading.current_thread().name)
            if self._ended.acquire(blocking=False):
                self._on_end(error)
