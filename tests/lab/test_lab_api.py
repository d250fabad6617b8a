"""The lab's HTTP side against an aggregator that answers badly, slowly, or goes away in mid-stream."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from lab.api import Api
from roundtable.errors import NotPossible, RoundtableError, Unreachable
from roundtable.messages import Event, RunDetail, RunView

Handler = Callable[[httpx.Request], httpx.Response]


def api_of(handler: Handler) -> Api:
    return Api("http://lab", "token-of-the-admin", httpx.MockTransport(handler))


class Frames(httpx.SyncByteStream):
    """Server-sent bytes in the given pieces; then the line is cut, or ends in order."""

    def __init__(self, pieces: list[bytes], cut: bool = False) -> None:
        self._pieces, self._cut = pieces, cut

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        if self._cut:
            raise httpx.ReadError("connection reset")


def frame(event: Event) -> bytes:
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n".encode()


@pytest.fixture
def view(detail: RunDetail) -> RunView:
    return RunView(**{name: getattr(detail, name) for name in RunView.model_fields})


def test_events_are_read_however_the_bytes_are_cut(view: RunView) -> None:
    body = (
        b": hello\n\nretry: 1000\n\n"
        + frame(Event(seq=7, kind="note", note="zwölf\nlines"))
        + frame(Event(seq=9, kind="run", run=view))
    )
    pieces = [body[at : at + 5] for at in range(0, len(body), 5)]
    with api_of(lambda _: httpx.Response(200, stream=Frames(pieces))) as api:
        events = list(api.watch("r", patience=1, closing=threading.Event()))
    assert [event.seq for event in events] == [7, 9]
    assert events[0].note == "zwölf\nlines"


def test_a_cut_line_is_taken_up_after_the_last_event(view: RunView) -> None:
    asked: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        if len(asked) == 1:
            return httpx.Response(200, stream=Frames([frame(Event(seq=4, kind="note", note="a"))], cut=True))
        if len(asked) == 2:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, stream=Frames([frame(Event(seq=5, kind="run", run=view))]))

    with api_of(handler) as api:
        events = list(api.watch("r", patience=5, closing=threading.Event()))
    assert [event.seq for event in events] == [4, 5]
    assert asked == [None, "4", "4"]


def test_runs_stay_in_the_aggregators_order_whatever_its_clock_said(view: RunView) -> None:
    runs = [view.model_copy(update={"id": name, "created": at}) for name, at in (("b", 9.0), ("a", 3.0))]
    body = [run.model_dump(mode="json") for run in runs]
    with api_of(lambda _: httpx.Response(200, json=body)) as api:
        assert [run.id for run in api.runs()] == ["b", "a"]


def test_watching_gives_up_when_nobody_answers_for_long() -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with api_of(handler) as api, pytest.raises(Unreachable, match="no aggregator answers at http://lab"):
        list(api.watch("r", patience=0.3, closing=threading.Event()))


def test_time_outs_count_while_nobody_answers() -> None:
    now = 0.0

    class Closing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            nonlocal now
            now += timeout or 0.0
            return False

    def handler(_: httpx.Request) -> httpx.Response:
        nonlocal now
        now += 30.0
        raise httpx.ReadTimeout("timed out")

    with api_of(handler) as api, pytest.raises(Unreachable, match="no aggregator answers"):
        list(api.watch("r", patience=60.0, closing=Closing(), clock=lambda: now))
    assert now < 125.0


def test_a_refusal_is_the_error_it_was_at_the_other_end() -> None:
    problem = {
        "type": "urn:roundtable:not-possible",
        "title": "x",
        "status": 409,
        "detail": "run r has finished",
    }

    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer token-of-the-admin"
        return httpx.Response(409, json=problem)

    with api_of(handler) as api, pytest.raises(NotPossible, match="run r has finished"):
        api.resume("r")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>a router's page</html>"),
        httpx.Response(200, json={"what": "else"}),
        httpx.Response(404, text="not found"),
        httpx.Response(502, json=["no", "problem"]),
    ],
)
def test_another_server_at_the_address_is_not_taken_for_an_aggregator(answer: httpx.Response) -> None:
    with api_of(lambda _: answer) as api, pytest.raises(Unreachable) as told:
        api.run("r")
    assert "\n" not in str(told.value)


def test_a_download_that_breaks_leaves_no_file(tmp_path: Path) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Frames([b"half"], cut=True))

    with api_of(handler) as api, pytest.raises(RoundtableError):
        api.download("r", "latest", tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
