"""One thing at a time: whatever changes the lab's state is a job in this queue, carried out by one task, in
order.

A job may wait for the store; nothing else happens meanwhile. Who submits a job gets its result or its error,
and may go away without stopping it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from aggregator.logs import trouble

T = TypeVar("T")
Job: TypeAlias = Callable[[], Awaitable[T]]


class Turns:
    def __init__(self) -> None:
        self._jobs: asyncio.Queue[tuple[Job[Any], asyncio.Future[Any] | None]] = asyncio.Queue()

    async def submit(self, job: Job[T]) -> T:
        """The job's result, once its turn has come."""
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((job, reply))
        return await reply

    def post(self, job: Job[Any]) -> None:
        """Nobody waits for it; an error is logged."""
        self._jobs.put_nowait((job, None))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await _carry_out(*await self._jobs.get())  # nothing of a job is held while there is no next one


async def _carry_out(job: Job[Any], reply: asyncio.Future[Any] | None) -> None:
    try:
        result = await job()
    except Exception as error:  # noqa: BLE001 -- handed on whole, or logged: the queue goes on
        if reply is None:
            trouble("a step of the run failed", error)
        elif not reply.done():
            reply.set_exception(error)
    else:
        if reply is not None and not reply.done():
            reply.set_result(result)
