"""Where what blocks is done: one thread for the store (SQLite wants one), one for folds and file work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from aggregator.store import Store, open_store

P = ParamSpec("P")
T = TypeVar("T")


class OneThread:
    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(1, name)

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._executor.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Waits for what is being done; what has not begun is dropped."""
        self._executor.shutdown(wait=True, cancel_futures=True)


class StoreThread(OneThread):
    """The store and the only thread that may use it: `await storing.call(storing.store.…)`."""

    store: Store

    def __init__(self) -> None:
        super().__init__("store")

    async def open(self, path: Path) -> None:
        """Raises CorruptStore, StorageFull."""
        self.store = await self.call(open_store, path)

    async def shut(self) -> None:
        await self.call(self.store.close)
        self.close()
