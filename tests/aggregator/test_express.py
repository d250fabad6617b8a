"""The shorter way to poll, weights and update answers as the app does, but for the words on faulty JSON."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from aggregator import express
from aggregator.app import create_app
from aggregator.express import Express
from aggregator.problems import JSON_LIMIT

pytestmark = pytest.mark.anyio

NOBODY = {"Authorization": "Bearer nonsense"}
DIGEST = "0" * 64
ORDER = "/v1/orders/r.1.1.train.c0.1/update"


@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        ("POST", "/v1/poll", {"json": {"holding": []}}),
        ("POST", "/v1/poll", {"json": {"holding": []}, "headers": NOBODY}),
        ("POST", "/v1/poll", {"content": b"{no", "headers": NOBODY}),
        ("POST", "/v1/poll", {"content": b"", "headers": {}}),
        ("POST", "/v1/poll", {"json": {"holding": 5}}),
        ("POST", "/v1/poll", {"json": {"unheard": "of"}}),
        ("POST", "/v1/poll", {"json": []}),
        ("POST", "/v1/poll", {"content": b"x" * (JSON_LIMIT + 1)}),
        ("GET", "/v1/poll", {}),
        ("GET", f"/v1/weights/{DIGEST}", {}),
        ("GET", f"/v1/weights/{DIGEST}", {"headers": NOBODY}),
        ("GET", "/v1/weights/", {}),
        ("GET", "/v1/weights/a/b", {}),
        ("GET", "/v1/weights/..%2F..%2Fetc", {}),
        ("HEAD", f"/v1/weights/{DIGEST}", {}),
        ("PUT", ORDER, {"content": b"abc"}),
        ("PUT", ORDER, {"content": b"abc", "headers": NOBODY}),
        ("PUT", "/v1/orders//update", {"content": b"abc"}),
        ("PUT", "/v1/orders/a/b/update", {"content": b"abc"}),
        ("PUT", "/v1/orders/nonsense/update", {"content": b"abc"}),
        ("POST", ORDER, {"content": b"abc"}),
        ("GET", "/v1/nothing", {}),
    ],
)
async def test_it_answers_as_the_app_does(
    open_lab: Any, method: str, path: str, options: dict[str, Any]
) -> None:
    async with open_lab(poll_seconds=0.01) as lab:
        worker = await lab.joined()
        headers = {"Authorization": f"Bearer {worker.token}"} | options.pop("headers", {})
        replies = []
        for app in (create_app(lab.service), Express(create_app(lab.service))):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://lab") as http:
                reply = await http.request(method, path, headers=headers, **options)
                replies.append((reply.status_code, _told(reply), _kept(reply)))
    assert replies[0] == replies[1]


def _told(reply: httpx.Response) -> Any:
    if reply.status_code != 422:
        return reply.content
    return {name: value for name, value in reply.json().items() if name != "detail"}


def _kept(reply: httpx.Response) -> list[tuple[str, str]]:
    return [pair for pair in reply.headers.multi_items() if pair[0] != "content-length"]


async def test_a_fault_of_ours_is_answered_and_logged(
    open_lab: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(express.orders, "weights", broken)
    async with open_lab() as lab:
        reply = await lab.http.get(f"/v1/weights/{DIGEST}")
    assert (reply.status_code, reply.json()["type"]) == (500, "urn:roundtable:error")
    assert any(record.exc_info for record in caplog.records)
