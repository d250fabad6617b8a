"""Where what blocks is done: one thread for the store, one for folds and file work.

What takes microseconds is done `at_once`, on the event loop's own thread: a hop to another and back costs
more, and a round of a small model is mostly hops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from aggregator.store import Store, open_store

P = ParamSpec("P")
T = TypeVar("T")


class OneThread:
    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)
        self._latest: Future[Any] | None = None

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        future = self._latest = self._executor.submit(function, *args, **kwargs)
        return await asyncio.wrap_future(future)

    @property
    def busy(self) -> bool:
        """Whether something is still to be done, though its caller may have been cancelled."""
        return self._latest is not None and not self._latest.done()

    def close(self) -> None:
        """Waits for what is being done; what has not begun is dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class StoreThread(OneThread):
    """The store, and the only way to it: `await storing.call(storing.store.…)`, one use after the other."""

    store: Store

    def __init__(self) -> None:
        super().__init__("store")

    async def at_once(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """For a few rows. In the thread all the same where it is busy, or the store waits for the disk."""
        if self.busy or self.store.waits_for_disk:
            result = await self.call(function, *args, **kwargs)
        else:
            result = function(*args, **kwargs)
        if self.store.log_is_long and not self.busy:  # nobody waits for it, the event loop least of all
            self._latest = self._executor.submit(self.store.write_back)
        return result

    async def open(self, path: Path) -> None:
        """Raises CorruptStore, StorageFull."""
        self.store = await self.call(open_store, path)

    async def shut(self) -> None:
        await self.call(self.store.close)
        self.close()
