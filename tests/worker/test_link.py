"""The link: what goes over the wire, what comes back as which error, and that no wait is without end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from roundtable.codec import encode
from roundtable.errors import (
    AlreadyAccepted,
    IncompatibleVersion,
    NotAsked,
    NotPossible,
    RateLimited,
    RoundtableError,
    ShapeMismatch,
    Stale,
    StorageFull,
    Superseded,
    TooLarge,
    Unauthorized,
    Unknown,
    Unreachable,
)
from roundtable.messages import Join, Joined, Order, OrderResult, Poll, UpdateReply
from roundtable.weights import ArraySpec, Manifest, Weights
from worker.link import PASSING, Limits, Link, pieces

JOIN = Join(protocol=1, instance="0" * 32, host="h", node="n", arch="a", cpus=1, memory_bytes=1)
JOINED = Joined(worker="w1", session_token="session", lost_after=15, poll_seconds=0.2)
Answer = Callable[[httpx.Request], httpx.Response]


def link(answer: Answer) -> Link:
    return Link("http://lab.example/fl/", lambda: "join-token", transport=httpx.MockTransport(answer))


def joined(answer: Answer) -> Link:
    """With a session."""

    def first(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/join"):
            return httpx.Response(200, text=JOINED.model_dump_json())
        return answer(request)

    made = link(first)
    made.join(JOIN)
    return made


def problem(status: int, kind: str) -> httpx.Response:
    return httpx.Response(status, json={"type": f"urn:roundtable:{kind}", "detail": "because"})


def test_it_joins_with_the_join_token_and_goes_on_with_the_session_s() -> None:
    tokens: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        tokens.append(f"{request.method} {request.url.path} {request.headers['authorization']}")
        return httpx.Response(200, text=JOINED.model_dump_json() if len(tokens) == 1 else "{}")

    made = link(answer)
    assert made.join(JOIN) == JOINED
    made.poll(Poll())
    assert tokens == ["POST /fl/v1/join Bearer join-token", "POST /fl/v1/poll Bearer session"]


def test_why_a_worker_cannot_take_part_is_told_whatever_its_files_are_called() -> None:
    told: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        told.append(json.loads(request.content)["trouble"])
        return problem(409, "not-possible")

    with pytest.raises(NotPossible):
        link(answer).join(JOIN.model_copy(update={"trouble": "DATA_DIR: caf\udce9: is no class"}))
    assert told == [r"DATA_DIR: caf\udce9: is no class"]


def test_an_update_is_one_request_of_a_told_length() -> None:
    update = encode(
        {"update": Weights.zeros(Manifest((ArraySpec("kernel", (300, 400)),)))}, {"account": "{}"}
    )
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        return httpx.Response(200, json={"duplicate": True})

    made = joined(answer)
    made.traffic.take()
    assert made.put_update("o1", update) == (UpdateReply(duplicate=True), None)
    assert seen[0].method == "PUT" and seen[0].url.path == "/fl/v1/orders/o1/update"
    assert seen[0].headers["content-length"] == str(update.nbytes) == str(len(seen[0].content))
    assert seen[0].content == b"".join(bytes(buffer) for buffer in update.buffers)
    bytes_in, bytes_out, _ = made.traffic.take()
    assert (bytes_in, bytes_out) == (len('{"duplicate":true}'), update.nbytes)


def test_the_reply_to_an_update_may_bring_orders_and_a_message() -> None:
    update = encode({"update": Weights.zeros(Manifest((ArraySpec("kernel", (2,)),)))}, {"account": "{}"})
    told = UpdateReply(give=(Order(id="o2", kind="train", run="r1", round=2, attempt=1),), waited=0.1)
    head = told.model_dump_json().encode() + b"   "
    asked: list[httpx.Headers] = []

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        asked.append(request.headers)
        return httpx.Response(
            200, headers={"roundtable-json-bytes": str(len(head))}, content=head + b"message"
        )

    reply, message = joined(answer).put_update("o1", update, 0.25, 1000)
    assert reply == told and message is not None and bytes(message) == b"message"
    assert (asked[0]["roundtable-wait"], asked[0]["roundtable-inline"]) == ("0.25", "1000")


@given(
    sizes=st.lists(st.integers(0, 50), max_size=12),
    size=st.integers(4, 40),
)
def test_pieces_are_the_bytes_in_order_none_longer_than_allowed(sizes: list[int], size: int) -> None:
    buffers = [memoryview(np.arange(length, dtype=np.uint8) + number) for number, length in enumerate(sizes)]
    cut = [bytes(piece) for piece in pieces(buffers, size)]
    assert b"".join(cut) == b"".join(bytes(buffer) for buffer in buffers)
    assert all(0 < len(piece) <= size for piece in cut)


@pytest.mark.parametrize(
    "answer, error",
    [
        (problem(401, "unauthorized"), Unauthorized),
        (problem(403, "not-asked"), NotAsked),
        (problem(404, "unknown"), Unknown),
        (problem(409, "stale"), Stale),
        (problem(409, "superseded"), Superseded),
        (problem(409, "already-accepted"), AlreadyAccepted),
        (problem(413, "too-large"), TooLarge),
        (problem(422, "shape-mismatch"), ShapeMismatch),
        (problem(426, "incompatible-version"), IncompatibleVersion),
        (problem(429, "rate-limited"), RateLimited),
        (problem(507, "storage-full"), StorageFull),
        (problem(500, "error"), Unreachable),
        (problem(503, "corrupt-store"), Unreachable),
        (httpx.Response(404, text="<html>"), Unknown),
        (httpx.Response(413, text="from a proxy"), TooLarge),
        (httpx.Response(502, text="from a proxy"), Unreachable),
        (httpx.Response(301, headers={"location": "https://elsewhere"}), Unreachable),
        (httpx.Response(418, json=["not", "a", "problem"]), Unreachable),
    ],
)
def test_each_answer_is_its_error(answer: httpx.Response, error: type[RoundtableError]) -> None:
    with pytest.raises(RoundtableError) as raised:
        joined(lambda _request: answer).post_result("o1", OrderResult(status="done"))
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "<html>hello</html>", '{"worker": 3}'])
def test_what_is_no_aggregator_is_said_to_be_none(text: str) -> None:
    with pytest.raises(
        Unreachable, match=r"http://lab.example/fl: what answers there is no Roundtable aggregator"
    ):
        link(lambda _request: httpx.Response(200, text=text)).join(JOIN)


@pytest.mark.parametrize(
    "fault",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout(""),
        httpx.RemoteProtocolError("cut"),
        httpx.WriteError("reset"),
    ],
)
def test_every_fault_of_the_network_is_one_error(fault: httpx.TransportError) -> None:
    def answer(_request: httpx.Request) -> httpx.Response:
        raise fault

    with pytest.raises(PASSING, match=type(fault).__name__):
        joined(answer).poll(Poll())


def test_a_download_past_its_limit_is_refused_whether_or_not_its_length_is_told() -> None:
    made = joined(lambda _request: httpx.Response(200, content=b"x" * 101))
    assert bytes(made.weights("d" * 64, 101)) == b"x" * 101
    with pytest.raises(TooLarge, match="101 bytes, at most 100 are allowed"):
        made.weights("d" * 64, 100)
    untold = joined(lambda _request: httpx.Response(200, content=iter([b"x" * 60, b"x" * 41])))
    assert bytes(untold.state("d" * 64, 101)) == b"x" * 101
    with pytest.raises(TooLarge, match="more than the 100 bytes allowed"):
        untold.state("d" * 64, 100)


# --- time-outs, over the real transport


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that answers a join and then never anything again."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            kept.append(peer)
            if b"/join" in peer.recv(65536):
                body = JOINED.model_dump_json().encode()
                peer.sendall(
                    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
                    % (len(body), body)
                )
                peer.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()
    for peer in kept:
        peer.close()


@pytest.mark.parametrize("request_name", ["poll", "leave", "plan", "weights", "put_update", "post_result"])
def test_no_request_waits_for_ever(mute: str, request_name: str) -> None:
    limits = Limits(connect=0.2, read=0.2, write=0.2, stored=0.2, poll_margin=0.1, leave=0.2)
    made = Link(mute, lambda: "t", limits=limits)
    made.join(JOIN)
    big = encode({"update": Weights.zeros(Manifest((ArraySpec("kernel", (3_000_000,)),)))})
    arguments = {
        "poll": (Poll(),),
        "plan": ("r1",),
        "weights": ("d" * 64, 100),
        "put_update": ("o1", big),
        "post_result": ("o1", OrderResult(status="done")),
    }
    began = time.monotonic()
    with pytest.raises(Unreachable):
        getattr(made, request_name)(*arguments.get(request_name, ()))
    assert time.monotonic() - began < 2.0
    made.close()


def test_poll_waits_as_long_as_the_aggregator_said_and_a_margin() -> None:
    seen: list[dict[str, float]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.extensions["timeout"])
        return httpx.Response(200, text=json.dumps({"give": [], "cancel": []}))

    joined(answer).poll(Poll())
    assert seen[0]["read"] == JOINED.poll_seconds + Limits().poll_margin
    assert all(value is not None for value in seen[0].values())
