"""Where the store is used: at once where that is quick and safe, in its thread where not."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading

import pytest
from aggregator import store as store_module
from aggregator.rows import WorkerRow
from aggregator.threads import StoreThread
from roundtable.messages import PROTOCOL, Join

pytestmark = pytest.mark.anyio


@pytest.fixture
async def storing(tmp_path):
    opened = StoreThread()
    await opened.open(tmp_path / "lab.sqlite")
    yield opened
    await opened.shut()


async def test_a_few_rows_are_read_on_the_thread_that_asks(storing):
    assert await storing.at_once(threading.get_ident) == threading.get_ident()
    assert await storing.call(threading.get_ident) != threading.get_ident()


async def test_what_waits_for_the_disk_is_left_to_the_thread(storing):
    storing.store.set_durability("power")
    assert await storing.at_once(threading.get_ident) != threading.get_ident()
    storing.store.set_durability("process")
    assert await storing.at_once(threading.get_ident) == threading.get_ident()


async def test_the_store_is_never_used_twice_at_a_time(storing):
    begun, go_on = threading.Event(), threading.Event()
    order = []

    def slow():
        begun.set()
        go_on.wait(10)
        order.append("slow")

    under_way = asyncio.create_task(storing.call(slow))
    await asyncio.to_thread(begun.wait, 10)
    under_way.cancel()  # who waited for it has gone; it goes on all the same
    await asyncio.wait({under_way})
    later = asyncio.create_task(storing.at_once(lambda: order.append("quick")))
    await asyncio.sleep(0)
    go_on.set()
    await later
    assert order == ["slow", "quick"]


async def test_a_long_log_is_written_back_in_the_thread_and_nobody_waits_for_it(
    storing, tmp_path, monkeypatch
):
    monkeypatch.setattr(store_module, "LONG", 3)
    threads, begun, go_on = [], threading.Event(), threading.Event()
    write_back = storing.store.write_back

    def slow():
        threads.append(threading.get_ident())
        begun.set()
        go_on.wait(10)
        write_back()

    monkeypatch.setattr(storing.store, "write_back", slow)
    for number in range(3):
        join = Join(
            protocol=PROTOCOL, instance=f"{number:016x}", host="h", node="n", arch="x", cpus=1, memory_bytes=1
        )
        await storing.at_once(storing.store.put_worker, WorkerRow(f"w{number}", join, "present"))
    assert await asyncio.to_thread(begun.wait, 10)
    go_on.set()
    assert len(await storing.at_once(storing.store.workers)) == 3  # behind it
    assert len(threads) == 1 and threads[0] != threading.get_ident()
    shutil.copy(tmp_path / "lab.sqlite", tmp_path / "copy.sqlite")  # without its log
    with sqlite3.connect(tmp_path / "copy.sqlite") as copy:
        assert copy.execute("SELECT count(*) FROM workers").fetchone() == (3,)
