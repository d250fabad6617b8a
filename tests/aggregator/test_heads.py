"""Requests that come in an unusual way, or not to their end, at the server that the service runs."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from aggregator import heads, receive

WISH = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
SLOW = 1.5  # seconds


async def _app(scope: Any, receive: Any, send: Any) -> None:
    """Tells what came: the method, the body's length, and the wish where there is one."""
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length, more = length + len(message["body"]), message["more_body"]
    if scope["path"] == "/slow":
        await asyncio.sleep(SLOW)
    wishes = [name for name, _ in scope["headers"] if name == b"upgrade"]
    said = b"%s %d %d;" % (scope["method"].encode(), length, len(wishes))
    headers = [(b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


@pytest.fixture(scope="module", params=["httptools", receive.protocol()], ids=["plain", "in place"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    http = heads.bounded(request.param)
    server = uvicorn.Server(uvicorn.Config(_app, http=http, ws="none", lifespan="off", log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(10)


def _head(method: str, path: str, length: int, more: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n".encode() + more + b"\r\n"


def _until_closed(port: int, *pieces: bytes, pause: float = 0.05) -> tuple[bytes, float]:
    """What was answered until the server hung up, and after how many seconds it did."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        for piece in pieces:
            line.sendall(piece)
            time.sleep(pause)
        try:
            said = b"".join(iter(lambda: line.recv(65536), b""))
        except ConnectionResetError:
            said = b""
    return said, time.monotonic() - began


@pytest.mark.parametrize("cut", [0, 20, 60, 200, 40_000])
def test_a_wish_for_another_protocol_is_ignored(port: int, cut: int) -> None:
    post = _head("POST", "/", 5, WISH) + b"hello"
    chunked = (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + WISH + b"\r\n2\r\nhi\r\n0\r\n\r\n"
    )
    put = _head("PUT", "/", 100_000, WISH) + bytes(100_000)
    last = b"GET / HTTP/1.0\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\n\r\n"
    message = post + post + chunked + put + post + last
    said, _ = _until_closed(port, message[:cut], message[cut:])
    answers = [part.rpartition(b"\r\n\r\n")[2] for part in said.split(b";")]
    assert answers == [b"POST 5 0", b"POST 5 0", b"POST 2 0", b"PUT 100000 0", b"POST 5 0", b"GET 0 0", b""]


@pytest.mark.parametrize("begun", [b"", b"GET / HTT", _head("POST", "/", 9) + b"123"])
def test_a_request_that_does_not_come_to_its_end_is_cut_off(
    port: int, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(heads, "PATIENCE", 0.3)
    whole = _head("POST", "/", 3) + b"123"
    for pieces in ([begun], [whole, begun], [begun[:5], begun[5:9], begun[9:]]):
        if begun or len(pieces) == 1:  # what keeps an idle connection is uvicorn's own
            _, seconds = _until_closed(port, *pieces)
            assert 0.25 < seconds < 5


def test_neither_a_slow_upload_nor_a_slow_answer_is_cut_off(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "PATIENCE", 1.0)
    for length in (900, 90_000):
        pieces = [_head("PUT", "/", length)[:9], _head("PUT", "/", length)[9:], *[bytes(length // 3)] * 3]
        last = b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        said, _ = _until_closed(port, *pieces, last, pause=0.4)
        assert b"PUT %d 0;" % length in said and said.endswith(b"GET 0 0;")


def test_stray_bytes_do_not_cut_an_answer_off(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "PATIENCE", 0.3)
    last = b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    said, _ = _until_closed(port, last, b"\r\n")
    assert said.endswith(b"GET 0 0;")
