"""Bodies received in place, held against uvicorn's own path, with peers that behave and peers that do not."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import mmap
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import pytest
import uvicorn
from aggregator import problems, receive
from fastapi import FastAPI, Request, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roundtable.errors import Truncated

LIMIT = 8 * 2**20
STALL = 0.4
SENTINEL = 0xAB


@dataclass
class Lab:
    """A running server, and what its routes saw."""

    port: int = 0
    direct: list[bool] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    failed: threading.Event = field(default_factory=threading.Event)
    destinations: list[bytearray] = field(default_factory=list)

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def _app(lab: Lab) -> FastAPI:
    app = FastAPI()
    problems.install(app)

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.put("/plain")
    async def plain(request: Request) -> Response:
        return Response(await request.body())

    @app.put("/into")
    async def into(request: Request) -> Response:
        lab.direct.append(receive.EXTENSION in request.scope.get("extensions", {}))
        room = bytearray([SENTINEL]) * LIMIT
        lab.destinations.append(room)
        try:
            length = await receive.body_into(request, memoryview(room), stall=STALL, within=5)
        except Exception as error:
            lab.failures.append(error)
            lab.failed.set()
            raise
        assert all(byte == SENTINEL for byte in room[length : length + 64])
        return Response(bytes(room[:length]))

    @app.put("/late")
    async def late(request: Request) -> Response:
        await asyncio.sleep(0.05)  # the sender fills every buffer in between
        return await into(request)

    @app.put("/mapped")
    async def mapped(request: Request) -> Response:
        room = mmap.mmap(-1, LIMIT)
        length = await receive.body_into(request, memoryview(room))
        digest = hashlib.sha256(memoryview(room)[:length]).hexdigest()
        room.close()  # raises BufferError if the protocol still held a view of it
        return Response(digest)

    @app.put("/watched")
    async def watched(request: Request) -> Response:
        seen: list[int] = []
        await receive.body_into(request, memoryview(bytearray(LIMIT)), progress=seen.append)
        assert seen == sorted(set(seen))
        return Response(str(seen[-1]))

    @app.put("/slow")
    async def slow(request: Request) -> Response:
        await receive.body_into(request, memoryview(bytearray(LIMIT)), stall=5, within=0.5)
        return Response()

    @app.put("/small")
    async def small(request: Request) -> Response:
        room = bytearray([SENTINEL]) * 200_000
        lab.destinations.append(room)
        await receive.body_into(request, memoryview(room)[:100_000])
        return Response()

    @app.put("/refuse")
    async def refuse() -> Response:
        return Response("not now", 409)

    return app


@contextmanager
def _serving(loop: str, http: object) -> Iterator[Lab]:
    lab = Lab()
    config = uvicorn.Config(_app(lab), port=0, loop=loop, http=http, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    bound = socket.create_server(("127.0.0.1", 0))
    lab.port = bound.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield lab
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with _serving(request.param, receive.protocol()) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(request: pytest.FixtureRequest) -> None:
    if "lab" in request.fixturenames:
        lab: Lab = request.getfixturevalue("lab")
        lab.direct.clear()
        lab.failures.clear()
        lab.destinations.clear()
        lab.failed.clear()


def _body(length: int, seed: int = 7) -> bytes:
    return random.Random(seed).randbytes(length)


def _head(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"PUT {path} HTTP/1.1", "Host: lab", *headers, "", ""]).encode()


def _reply(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of one reply with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields[b"content-length"]):
        body += _some(connection)
    assert len(body) == int(fields[b"content-length"])
    return int(head.split()[1]), body


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 20)
    assert data, "the server hung up"
    return data


def test_the_uvicorn_installed_here_is_the_one_that_was_tried() -> None:
    assert receive.protocol() is not None
    assert isinstance(receive.protocol(), type)


def test_another_uvicorn_gets_the_plain_path_and_one_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(uvicorn, "__version__", "0.99.0")
    with caplog.at_level(logging.INFO):
        assert receive.protocol() == "httptools"
    assert [record.getMessage() for record in caplog.records] == ["uploads take the plain path"]


@pytest.mark.parametrize("length", [0, 1, 32 * 1024 - 1, 32 * 1024, 65_536, 200_000, 3_000_001, LIMIT])
def test_a_body_arrives_as_it_was_sent(lab: Lab, length: int) -> None:
    body = _body(length)
    with httpx.Client(base_url=lab.url) as client:
        assert client.put("/into", content=body).content == body
    assert lab.direct == [length >= 32 * 1024]


def test_a_body_sent_in_chunks_takes_the_plain_path(lab: Lab) -> None:
    body = _body(500_000)
    with httpx.Client(base_url=lab.url) as client:
        assert client.put("/into", content=iter([body[:100_000], body[100_000:]])).content == body
    assert lab.direct == [False]


def test_a_body_larger_than_the_room_sent_in_chunks_is_cut_off_at_the_rooms_end(lab: Lab) -> None:
    with httpx.Client(base_url=lab.url) as client:
        reply = client.put("/small", content=iter([b"x" * 70_000] * 4))
    assert reply.status_code == 413
    assert lab.destinations[0][100_000:] == bytes([SENTINEL]) * 100_000


@given(
    path=st.sampled_from(["/into", "/late"]),
    length=st.integers(0, 400_000),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    seed=st.integers(0, 100),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_the_bytes_are_cut_the_body_equals_the_plain_paths(
    lab: Lab, path: str, length: int, cuts: list[float], seed: int
) -> None:
    body = _body(length, seed)
    replies = []
    for target in (path, "/plain"):
        message = _head(target, f"Content-Length: {length}") + body
        with lab.connect() as connection:
            at = 0
            for cut in [*sorted(int(cut * len(message)) for cut in cuts), len(message)]:
                connection.sendall(message[at:cut])
                at = cut
            replies.append(_reply(connection))
    assert replies[0] == replies[1] == (200, body)


def test_nobody_holds_on_to_the_memory_afterwards(lab: Lab) -> None:
    body = _body(2_000_000)
    with httpx.Client(base_url=lab.url) as client:
        assert client.put("/mapped", content=body).text == hashlib.sha256(body).hexdigest()


def test_progress_grows_to_the_length(lab: Lab) -> None:
    with httpx.Client(base_url=lab.url) as client:
        assert client.put("/watched", content=_body(1_000_000)).text == "1000000"


def test_one_connection_serves_many_uploads_and_other_requests_in_between(lab: Lab) -> None:
    with lab.connect() as connection:
        for number in range(6):
            body = _body(100_000 + number, number)
            connection.sendall(_head("/into", f"Content-Length: {len(body)}") + body)
            assert _reply(connection) == (200, body)
            connection.sendall(b"GET /hello HTTP/1.1\r\nHost: lab\r\n\r\n")
            assert _reply(connection) == (200, b'"hello"')


def test_requests_sent_without_waiting_are_answered_in_order(lab: Lab) -> None:
    bodies = [_body(length, length) for length in (10, 300_000, 40_000, 0, 2_000_000)]
    get = b"GET /hello HTTP/1.1\r\nHost: lab\r\n\r\n"
    message = b"".join(_head("/late", f"Content-Length: {len(body)}") + body + get for body in bodies)
    with lab.connect() as connection:
        sender = threading.Thread(target=connection.sendall, args=(message,))
        sender.start()
        reader = connection.makefile("rb")
        for body in bodies:
            for expected in (body, b'"hello"'):
                assert reader.readline().startswith(b"HTTP/1.1 200")
                length = 0
                while (line := reader.readline()) != b"\r\n":
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                assert reader.read(length) == expected
        sender.join(10)


def test_a_refused_upload_leaves_the_connection_usable(lab: Lab) -> None:
    with lab.connect() as connection:
        for _ in range(3):
            connection.sendall(_head("/refuse", "Content-Length: 1000000") + _body(1_000_000))
            assert _reply(connection) == (409, b"not now")
            connection.sendall(_head("/into", "Content-Length: 50000") + _body(50_000))
            assert _reply(connection) == (200, _body(50_000))


def test_an_upload_that_says_it_is_too_large_is_refused_without_a_byte_of_it_in_the_room(lab: Lab) -> None:
    with lab.connect() as connection:
        connection.sendall(_head("/small", "Content-Length: 150000"))
        status, text = _reply(connection)
        assert status == 413
        assert b"150000 bytes, at most 100000" in text
        connection.sendall(_body(150_000))  # an honest sender finishes what it began
        connection.sendall(_head("/into", "Content-Length: 40000") + _body(40_000))
        assert _reply(connection) == (200, _body(40_000))
    assert lab.destinations[0] == bytes([SENTINEL]) * 200_000


def test_bytes_past_the_content_length_are_the_next_request_and_never_reach_the_room(lab: Lab) -> None:
    with lab.connect() as connection:
        connection.sendall(_head("/into", "Content-Length: 100000") + b"a" * 100_000 + b"GET /hel")
        assert _reply(connection) == (200, b"a" * 100_000)
        connection.sendall(b"lo HTTP/1.1\r\nHost: lab\r\n\r\n")
        assert _reply(connection) == (200, b'"hello"')
        connection.sendall(_head("/into", "Content-Length: 100000") + b"a" * 100_000 + b"b" * 5_000)
        assert connection.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 400")  # "bbb…" is no request
    assert lab.destinations[0][100_000:] == bytes([SENTINEL]) * (LIMIT - 100_000)


def test_a_sender_that_goes_away_is_noticed_and_named(lab: Lab) -> None:
    with lab.connect() as connection:
        connection.sendall(_head("/into", "Content-Length: 1000000") + b"x" * 300_000)
    assert lab.failed.wait(5)
    assert isinstance(lab.failures[0], Truncated)
    assert "went away after" in str(lab.failures[0])


def test_a_sender_that_resets_the_connection_is_noticed(lab: Lab) -> None:
    connection = lab.connect()
    connection.sendall(_head("/into", "Content-Length: 1000000") + b"x" * 300_000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()
    assert lab.failed.wait(5)
    assert isinstance(lab.failures[0], Truncated)


def test_a_sender_that_stalls_is_told_so_and_what_it_sends_later_is_not_kept(lab: Lab) -> None:
    with lab.connect() as connection:
        connection.sendall(_head("/into", "Content-Length: 200000") + b"x" * 100_000)
        status, text = _reply(connection)
        assert status == 422
        assert b"no byte for 0.4 s after the first 100000" in text
        connection.sendall(b"y" * 100_000)  # the rest, too late
        connection.sendall(_head("/into", "Content-Length: 40000") + _body(40_000))
        assert _reply(connection) == (200, _body(40_000))
    assert lab.destinations[0][100_000:] == bytes([SENTINEL]) * (LIMIT - 100_000)


def test_a_sender_that_trickles_has_a_limit_for_the_whole(lab: Lab) -> None:
    with lab.connect() as connection:
        connection.sendall(_head("/slow", "Content-Length: 200000") + b"x" * 50_000)
        connection.settimeout(0.05)
        started = time.monotonic()
        while time.monotonic() - started < 5:
            connection.sendall(b"x")
            try:
                data = connection.recv(4096)
                break
            except TimeoutError:
                continue
        assert b"422" in data
        assert b"not in after 0.5 s" in data


def test_a_refused_body_that_never_ends_is_cut_off(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receive, "LINGER", 0.3)
    with lab.connect() as connection:
        connection.sendall(_head("/refuse", "Content-Length: 1000000000") + b"x" * 100_000)
        assert _reply(connection)[0] == 409
        connection.settimeout(5)
        with pytest.raises(ConnectionError):
            while connection.recv(4096):
                pass
            raise ConnectionResetError


def test_a_sender_that_asks_first_is_told_to_go_on(lab: Lab) -> None:
    with lab.connect() as connection:
        connection.sendall(_head("/into", "Content-Length: 100000", "Expect: 100-continue"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(_body(100_000))
        assert _reply(connection) == (200, _body(100_000))


@pytest.mark.parametrize(
    "lie",
    [
        ["Content-Length: -5"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length: 1e5"],
        ["Content-Length: 100000", "Content-Length: 100001"],
        ["Content-Length: 100000", "Transfer-Encoding: chunked"],
    ],
)
def test_a_length_that_makes_no_sense_is_a_bad_request(lab: Lab, lie: list[str]) -> None:
    with lab.connect() as connection:
        connection.sendall(_head("/into", *lie) + b"x" * 1000)
        assert _reply(connection)[0] == 400
    assert lab.direct == []


def test_an_upload_by_http_1_0_works_and_ends_the_connection(lab: Lab) -> None:
    with lab.connect() as connection:
        connection.sendall(b"PUT /into HTTP/1.0\r\nContent-Length: 100000\r\n\r\n" + _body(100_000))
        assert _reply(connection) == (200, _body(100_000))
        assert connection.recv(1) == b""


def test_many_uploads_at_once_do_not_mix(lab: Lab) -> None:
    bodies = [_body(1_500_000, seed) for seed in range(6)]
    wrong: list[int] = []

    def upload(number: int) -> None:
        with httpx.Client(base_url=lab.url, timeout=20) as client:
            for _ in range(4):
                if client.put("/into", content=bodies[number]).content != bodies[number]:
                    wrong.append(number)

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
    assert len(lab.direct) == 24
    assert all(lab.direct)
