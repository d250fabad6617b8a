"""The socket transport, held against httpx's own over a real server, and against servers that misbehave."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roundtable.errors import TooLarge
from worker import connection as connections
from worker.transport import Rooms, SocketTransport

TIMEOUT = 5.0


def _app() -> FastAPI:
    app = FastAPI()

    @app.put("/echo")
    async def echo(request: Request) -> Response:
        return Response(
            await request.body(), headers={"x-length": request.headers.get("content-length", "none")}
        )

    @app.put("/chunks")
    async def chunks(request: Request) -> Response:
        body = await request.body()
        return StreamingResponse(iter([body[:1000], body[1000:70_000], body[70_000:]]))

    @app.get("/peer")
    async def peer(request: Request) -> int:
        return request.client.port  # the same number: the same connection

    @app.get("/nothing", status_code=204)
    async def nothing() -> None: ...

    @app.get("/bye")
    async def bye() -> Response:
        return Response("bye", headers={"connection": "close"})

    @app.head("/head")
    async def head() -> Response:
        return Response(headers={"content-length": "12345"})

    @app.get("/refusal", status_code=409)
    async def refusal() -> dict[str, str]:
        return {"detail": "no"}

    return app


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(_app(), log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(transport=SocketTransport(), timeout=TIMEOUT) as client:
        yield client


@pytest.fixture(scope="module")
def stock() -> Iterator[httpx.Client]:
    with httpx.Client(transport=httpx.HTTPTransport(), timeout=TIMEOUT) as client:
        yield client


class Scripted:
    """A server whose replies are written here: one script a connection, in order."""

    def __init__(self, *scripts: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.let_go = threading.Event()  # a script may wait for it; set at the end
        self._thread = threading.Thread(target=self._serve, args=(scripts,))

    def _serve(self, scripts: tuple[Callable[[socket.socket], None], ...]) -> None:
        for script in scripts:
            try:
                peer = self._listener.accept()[0]
            except OSError:
                return
            with peer, suppress(OSError):
                peer.settimeout(10)
                script(peer)

    def __enter__(self) -> Scripted:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


def _request(peer: socket.socket) -> bytes:
    """A request without a body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += peer.recv(65536)
    return data


def answering(*pieces: bytes) -> Callable[[socket.socket], None]:
    def script(peer: socket.socket) -> None:
        _request(peer)
        for piece in pieces:
            peer.sendall(piece)

    return script


def _body(length: int, seed: int = 3) -> bytes:
    return random.Random(seed).randbytes(length)


def _put(
    client: httpx.Client, url: str, buffers: list[bytes | memoryview], **extensions: object
) -> httpx.Response:
    size = sum(len(buffer) for buffer in buffers)
    extensions |= {
        "buffers": buffers,
        "timeout": dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT),
    }
    return client.send(
        httpx.Request(
            "PUT", url, headers={"content-length": str(size)}, content=iter(buffers), extensions=extensions
        ),
        stream=True,
    )


@given(
    lengths=st.lists(st.integers(0, 200_000), max_size=5),
    limit=st.sampled_from([None, 0, 10_000, 10**9]),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_buffers_arrive_as_with_the_stock_transport(
    url: str, client: httpx.Client, stock: httpx.Client, lengths: list[int], limit: int | None, seed: int
) -> None:
    buffers = [memoryview(_body(length, seed + number)) for number, length in enumerate(lengths)]
    extensions = {} if limit is None else {"limit": limit}
    ours = _put(client, url + "/echo", list(buffers), **extensions)
    theirs = _put(stock, url + "/echo", list(buffers))
    expected = b"".join(buffers)
    received = ours.extensions.get("content")
    assert (received is not None) == (limit is not None and len(expected) <= limit)
    assert (ours.read() if received is None else bytes(received)) == theirs.read() == expected
    assert ours.status_code == theirs.status_code == 200
    ignored = {"date"}
    assert [pair for pair in ours.headers.items() if pair[0] not in ignored] == [
        pair for pair in theirs.headers.items() if pair[0] not in ignored
    ]


def test_a_hundred_megabytes_pass_both_ways_in_place(url: str, client: httpx.Client) -> None:
    body = _body(30_000_000)
    reply = _put(client, url + "/echo", [body[:17], memoryview(body)[17:]], limit=10**9)
    assert reply.extensions["content"] == body


def test_more_buffers_than_one_call_to_the_kernel_takes(url: str, client: httpx.Client) -> None:
    body = _body(2100)
    reply = _put(client, url + "/echo", [body[at : at + 1] for at in range(len(body))])
    assert reply.read() == body


def test_a_stream_of_known_or_unknown_length_is_sent(url: str, client: httpx.Client) -> None:
    body = _body(150_000)
    halves = [body[:70_000], b"", body[70_000:]]
    reply = client.put(url + "/echo", content=iter(halves))
    assert (reply.content, reply.headers["x-length"]) == (body, "none")
    reply = client.put(url + "/echo", content=iter(halves), headers={"content-length": str(len(body))})
    assert (reply.content, reply.headers["x-length"]) == (body, "150000")
    assert client.put(url + "/echo", content=body).content == body


def test_a_reply_in_chunks_is_put_together(url: str, client: httpx.Client) -> None:
    body = _body(200_000)
    assert client.put(url + "/chunks", content=body).content == body
    with client.stream("PUT", url + "/chunks", content=body, extensions={"limit": 10**9}) as reply:
        assert "content" not in reply.extensions  # of unknown length: it comes as a stream
        assert b"".join(reply.iter_raw()) == body


def test_replies_without_a_body(url: str, client: httpx.Client) -> None:
    assert client.get(url + "/nothing").status_code == 204
    assert client.head(url + "/head").headers["content-length"] == "12345"
    assert client.get(url + "/refusal").json() == {"detail": "no"}


def test_a_connection_is_used_again_and_only_once_at_a_time(url: str, client: httpx.Client) -> None:
    first = client.get(url + "/peer").json()
    assert client.get(url + "/peer").json() == first
    with client.stream("GET", url + "/peer") as reply:  # not read yet: its connection is taken
        assert client.get(url + "/peer").json() != first
        reply.read()
    client.get(url + "/bye")
    client.get(url + "/refusal")
    assert client.put(url + "/chunks", content=b"x").content == b"x"


def test_a_reply_that_is_not_read_to_its_end_costs_the_connection(url: str, client: httpx.Client) -> None:
    first = client.get(url + "/peer").json()
    with client.stream("PUT", url + "/echo", content=_body(500_000)) as reply:
        next(reply.iter_raw())
    assert client.get(url + "/peer").json() != first


def test_a_connection_that_has_been_idle_for_long_is_not_trusted(
    url: str, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = client.get(url + "/peer").json()
    monkeypatch.setattr(connections, "IDLE", -1.0)
    assert client.get(url + "/peer").json() != first


def test_a_server_that_closed_the_connection_meanwhile_is_dialled_again(client: httpx.Client) -> None:
    closed = threading.Event()

    def once(peer: socket.socket) -> None:
        _request(peer)
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
        peer.close()
        closed.set()

    with Scripted(once, answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb")) as server:
        assert client.get(server.url).text == "a"
        assert closed.wait(5)
        assert client.get(server.url).text == "b"


def test_threads_share_the_transport(url: str, client: httpx.Client) -> None:
    bodies = [_body(600_000, seed) for seed in range(6)]
    wrong: list[int] = []

    def upload(number: int) -> None:
        for _ in range(5):
            reply = _put(client, url + "/echo", [bodies[number]], limit=10**9)
            if reply.extensions["content"] != bodies[number]:
                wrong.append(number)
            reply.close()

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []


@pytest.mark.parametrize(
    "script",
    [
        answering(),
        answering(b"HTTP/1.1 200"),
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc"),
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"),
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n"),
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc"),
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        answering(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"),
        answering(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        answering(b"HTTP/1.1 2x0 OK\r\n\r\n"),
        answering(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000),
    ],
)
@pytest.mark.parametrize("extensions", [{}, {"limit": 10**6}])
def test_a_reply_that_is_cut_short_or_no_http_is_a_protocol_error(
    client: httpx.Client, script: Callable[[socket.socket], None], extensions: dict[str, int]
) -> None:
    with Scripted(script) as server, pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        client.get(server.url, extensions=extensions)


def test_a_body_longer_than_the_limit_is_left_to_the_caller(client: httpx.Client) -> None:
    script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000000\r\n\r\nabc")
    with Scripted(script) as server, client.stream("GET", server.url, extensions={"limit": 1000}) as reply:
        assert "content" not in reply.extensions
        assert reply.headers["content-length"] == "100000000000000"


def test_heads_and_chunks_may_come_a_byte_at_a_time(client: httpx.Client) -> None:
    text = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"A ;name=value\r\n0123456789\r\n1\r\nx\r\n0\r\nTrailer: yes\r\n\r\n"
    )
    again = b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nok"

    def script(peer: socket.socket) -> None:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for reply in (text, again):
            _request(peer)
            for at in range(len(reply)):
                peer.sendall(reply[at : at + 1])

    with Scripted(script) as server:
        assert client.get(server.url).content == b"0123456789x"
        assert client.get(server.url).content == b"ok"  # on the same connection: the script serves one


def test_a_reply_that_ends_with_its_connection(client: httpx.Client) -> None:
    with Scripted(answering(b"HTTP/1.0 200 OK\r\n\r\n", b"all of", b" it")) as server:
        assert client.get(server.url, extensions={"limit": 100}).content == b"all of it"


def test_silence_while_reading_is_a_read_timeout(client: httpx.Client) -> None:
    def script(peer: socket.socket) -> None:
        _request(peer)
        server.let_go.wait(10)

    with Scripted(script) as server, pytest.raises(httpx.ReadTimeout):
        client.get(server.url, timeout=httpx.Timeout(TIMEOUT, read=0.1))


def test_silence_in_the_middle_of_a_body_is_a_read_timeout(client: httpx.Client) -> None:
    def script(peer: socket.socket) -> None:
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")(peer)
        server.let_go.wait(10)

    with Scripted(script) as server, pytest.raises(httpx.ReadTimeout):
        client.get(server.url, timeout=httpx.Timeout(TIMEOUT, read=0.1), extensions={"limit": 1000})


def test_a_server_that_does_not_read_is_a_write_timeout(client: httpx.Client) -> None:
    def silent(_peer: socket.socket) -> None:
        server.let_go.wait(10)

    with Scripted(silent) as server, pytest.raises(httpx.WriteTimeout):
        client.put(server.url, content=bytes(50_000_000), timeout=httpx.Timeout(TIMEOUT, write=0.1))


def test_nobody_there_is_a_connect_error(client: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(httpx.ConnectError):
        client.get(f"http://127.0.0.1:{port}/")


def test_a_refusal_in_the_middle_of_an_upload_is_read(client: httpx.Client) -> None:
    def script(peer: socket.socket) -> None:
        peer.recv(1000)
        peer.sendall(b"HTTP/1.1 413 Too large\r\nContent-Length: 3\r\n\r\nno!")
        peer.shutdown(socket.SHUT_WR)
        for _ in range(3):
            peer.recv(1000)  # and no more: the rest of the upload meets a closed connection

    with Scripted(script) as server:
        reply = _put(client, server.url, [bytes(50_000_000)], limit=1000)
        assert (reply.status_code, bytes(reply.extensions["content"])) == (413, b"no!")


def test_what_it_does_not_do_is_left_to_the_stock_transport() -> None:
    asked: list[str] = []
    stock = httpx.MockTransport(
        lambda request: asked.append(str(request.url)) or httpx.Response(200, text="stock")
    )
    with httpx.Client(transport=SocketTransport(stock)) as client:
        assert client.get("https://lab.example/v1").text == "stock"
        assert client.get("http://lab.example/v1", headers={"upgrade": "websocket"}).text == "stock"
    assert asked == ["https://lab.example/v1", "http://lab.example/v1"]


def test_memory_of_a_large_body_is_used_again_once_nobody_looks_at_it() -> None:
    rooms = Rooms()
    first = rooms.take(2_000_000)
    first[:] = bytes(2_000_000)
    view = np.frombuffer(first, np.float32)[10:20]
    del first
    second = rooms.take(2_000_000)
    second[:] = b"x" * 2_000_000
    assert not view.any()
    assert len(second) == 2_000_000
    address = np.frombuffer(second, np.uint8).ctypes.data
    del second
    assert np.frombuffer(rooms.take(2_000_100), np.uint8).ctypes.data == address
    del view
    assert np.frombuffer(rooms.take(9_000_000), np.uint8).ctypes.data != address


def test_no_two_large_bodies_share_memory_while_both_are_in_use() -> None:
    rooms = Rooms()
    held = [rooms.take(1_500_000) for _ in range(8)]
    for number, view in enumerate(held):
        view[:] = bytes([number]) * 1_500_000
    assert all(view == bytes([number]) * 1_500_000 for number, view in enumerate(held))


def _ask(
    transport: SocketTransport, url: str, method: str, target: bytes, body: bytes = b"", limit: int = 10**6
) -> Any:
    parts = httpx.URL(url)
    timeout = dict.fromkeys(("connect", "read", "write", "pool"), TIMEOUT)
    answer = transport.ask(
        (parts.host, parts.port or 80), method, target, [(b"host", b"lab")], [body], timeout, limit
    )
    return answer.status, answer.content


def test_asked_without_httpx_it_answers_the_same(url: str) -> None:
    transport, body = SocketTransport(), _body(300_000)
    assert _ask(transport, url, "PUT", b"/echo", body) == (200, body)
    assert _ask(transport, url, "PUT", b"/chunks", body) == (200, body)
    assert _ask(transport, url, "GET", b"/nothing") == (204, b"")
    assert _ask(transport, url, "GET", b"/refusal") == (409, b'{"detail":"no"}')
    first = _ask(transport, url, "GET", b"/peer")
    assert _ask(transport, url, "GET", b"/peer") == first  # over the same connection
    transport.close()


@pytest.mark.parametrize("target", [b"/echo", b"/chunks"])
def test_asked_without_httpx_it_takes_no_more_than_the_limit(url: str, target: bytes) -> None:
    transport = SocketTransport()
    with pytest.raises(TooLarge):
        _ask(transport, url, "PUT", target, _body(300_000), limit=299_999)
    assert _ask(transport, url, "PUT", target, b"abc") == (200, b"abc")
    transport.close()


def test_asked_without_httpx_faults_are_httpx_errors() -> None:
    script = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    with Scripted(script) as server, pytest.raises(httpx.RemoteProtocolError):
        _ask(SocketTransport(), server.url, "GET", b"/")
