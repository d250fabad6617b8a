"""What is refused, or never whole, leaves nothing: not even a map that keeps a removed file's space."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import httpx
import pytest
import uvicorn
from aggregator import receive
from aggregator.app import create_app
from aggregator.express import Express
from aggregator.heads import bounded

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(service):
    """As `server` does it, in this process; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = Express(create_app(service))
    server = uvicorn.Server(uvicorn.Config(app, http=bounded(receive.protocol()), lifespan="off"))
    server.capture_signals = nullcontext
    serving = asyncio.create_task(server.serve([listener]))
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
def no_garbage_collection():
    gc.disable()
    yield
    gc.enable()


def removed_rooms(folder):
    """Spool files that are gone from their folder and still mapped here."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in maps if str(folder) in line and line.endswith(".part (deleted)")]


@pytest.mark.usefixtures("no_garbage_collection")
async def test_uploads_that_do_not_count_give_their_space_back_at_once(open_lab, make_experiment, tmp_path):
    async with (
        open_lab(upload_stall_seconds=0.3) as lab,
        served(lab.service) as (host, port),
        httpx.AsyncClient(base_url=f"http://{host}:{port}") as http,
    ):
        worker = lab.worker()
        worker.http = http

        async def begun(order, length, *, wait):
            """An upload that stops half-way; its sender waits for the answer, or goes away."""
            reader, writer = await asyncio.open_connection(host, port)
            head = f"PUT /v1/orders/{order.id}/update HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
            head += f"Authorization: Bearer {worker.token}\r\n\r\n"
            writer.write(head.encode() + bytes(length // 2))
            await writer.drain()
            if wait:
                assert (await reader.readline()).startswith(b"HTTP/1.1 422")
            writer.close()
            await writer.wait_closed()

        async def refused(order, body, status):
            assert (await worker.upload(order, body)).status_code == status

        async def nothing_is_left():
            for _ in range(200):
                if not [*tmp_path.rglob("*.part")] and not removed_rooms(tmp_path):
                    return
                await asyncio.sleep(0.01)
            pytest.fail(f"{[*tmp_path.rglob('*.part')]} {removed_rooms(tmp_path)}")

        await lab.create(make_experiment())
        await worker.join()
        (first,) = (await worker.poll()).give
        await refused(first, bytes(60_000), 422)
        await nothing_is_left()
        for length in (60_000, 6_000):  # in place, and the plain way
            await begun(first, length, wait=True)
            await nothing_is_left()
            await begun(first, length, wait=False)
            await nothing_is_left()
        await worker.carry_out(first)
        one, other, *_ = [order for order in (await worker.poll()).give if order.kind == "train"]
        bodies = [await worker.prepare(order) for order in (one, other)]
        await refused(one, bodies[0][:-1], 422)
        await refused(one.model_copy(update={"id": one.id[:-1] + "9"}), bodies[0], 403)
        await nothing_is_left()
        await refused(one, bodies[0], 200)
        await refused(one, bodies[0], 200)  # again
        await refused(one, bodies[1], 409)
        await nothing_is_left()
