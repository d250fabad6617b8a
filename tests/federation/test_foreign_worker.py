"""Workers written from docs/protocol.md alone take runs of the real aggregator's process to their end.

What they compute is foretold here in plain numpy, hash by hash, from what the page says of the aggregator.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import httpx
import numpy as np
import pytest
from blake3 import blake3

from tests.federation import foreign_worker as foreign
from tests.federation.foreign_worker import MANIFEST, Arrays, ForeignWorker, digest
from tests.federation.processes import Lab, experiment

CLIENTS, ROUNDS = 4, 3
START = "0" * 64
SECTIONS: dict[str, Any] = {
    "clients": {"count": CLIENTS},
    "rounds": {"count": ROUNDS},
    "training": {"epochs": 2, "batch_size": 3, "learning_rate": 0.1},
    "evaluation": {"shards": 3},
}
SCAFFOLD = {"objective": {"name": "control-variates"}, "aggregation": {"name": "uniform-mean"}}


@pytest.fixture(scope="module")
def aggregator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A process with no workers but the foreign ones."""
    lab = Lab(tmp_path_factory.mktemp("foreign"))
    try:
        lab.start_aggregator()
        lab.wait(lab.api.runs, "the aggregator")
        yield lab
    finally:
        lab.stop()


@pytest.fixture
def lab(aggregator: Lab) -> Iterator[Lab]:
    yield aggregator
    aggregator.stop_runs()


def make_worker(lab: Lab, node: str) -> ForeignWorker:
    return ForeignWorker(lab.url, (lab.state / "tokens" / "join").read_text().strip(), node)


def read(lab: Lab, path: str) -> httpx.Response:
    reply = httpx.get(lab.url + path)
    reply.raise_for_status()
    return reply


def hashed(body: dict[str, Any]) -> str:
    return blake3(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def checked_head(entries: list[dict[str, Any]]) -> str:
    """The ledger's last hash; AssertionError where an entry does not follow from the one before it."""
    before = START
    for number, entry in enumerate(entries):
        assert (entry["round"], entry["previous"]) == (number, before)
        before = hashed(entry)
    return before


def mean(updates: list[Arrays], shares: list[float]) -> Arrays:
    """In float64 and in client order."""
    scaled = [
        [share * array.astype(np.float64) for array in arrays]
        for share, arrays in zip(shares, updates, strict=True)
    ]
    return [sum(terms[1:], terms[0]) for terms in zip(*scaled, strict=True)]


def added(old: np.ndarray, step: np.ndarray) -> np.ndarray:
    if old.dtype.kind == "i":
        return old + np.rint(step).astype(old.dtype)
    return (old.astype(np.float64) + step).astype(old.dtype)


def foretold(plan: dict[str, Any]) -> Iterator[tuple[Arrays, dict[str, Any]]]:
    """Round by round from 0: the weights after it, and what the ledger's entry says of it."""
    wire = plan["wire"]
    scaffold = plan["strategy"]["objective"]["name"] == "control-variates"
    weights, broadcast = foreign.initial(plan["seed"]), foreign.zeros()
    states = [foreign.zeros() for _ in range(CLIENTS)]
    parts: list[dict[str, Any]] = []
    while True:
        message = {"weights": foreign.on_wire(weights, wire)}
        if scaffold:
            message["broadcast"] = foreign.on_wire(broadcast, wire)
        hashes = {
            "server_hash": digest({"broadcast": broadcast}, MANIFEST) if scaffold and parts else None,
            "weights_hash": digest({"weights": weights}, MANIFEST),
            "message_hash": digest(message, MANIFEST),
        }
        yield weights, hashes | {"participants": parts}

        seen = {group: foreign.float32(arrays) for group, arrays in message.items()}
        parts, updates, changes = [], [], []
        for client in range(CLIENTS):
            control = seen.get("broadcast", foreign.zeros())
            done = foreign.train(plan, client, seen["weights"], states[client], control)
            sent = {"update": foreign.on_wire(done.update, wire)}
            kept = None
            if scaffold:
                states[client] = done.state
                sent |= {"state": done.state, "broadcast": foreign.on_wire(done.change, wire)}
                kept = digest({"state": done.state}, MANIFEST)
                changes.append(foreign.float32(sent["broadcast"]))
            counts = {"num_examples": done.num_examples, "num_steps": done.num_steps}
            parts.append({"client": client, "update": digest(sent, MANIFEST), "state": kept, **counts})
            updates.append(foreign.float32(sent["update"]))
        shares = [1 / CLIENTS] * CLIENTS
        if scaffold:
            broadcast = [added(*pair) for pair in zip(broadcast, mean(changes, shares), strict=True)]
        else:
            shares = [part["num_examples"] / sum(one["num_examples"] for one in parts) for part in parts]
        weights = [added(*pair) for pair in zip(weights, mean(updates, shares), strict=True)]


@pytest.mark.parametrize(
    "differing",
    [{}, {"wire": "float16"}, {"wire": "float16", "strategy": SCAFFOLD}],
    ids=["float32", "float16", "float16-with-control-variates"],
)
def test_two_foreign_workers_end_a_run_with_the_weights_and_hashes_that_the_page_foretells(
    lab: Lab, differing: dict[str, Any]
) -> None:
    workers = [make_worker(lab, node) for node in ("foreign-a", "foreign-b")]
    with ThreadPoolExecutor(len(workers)) as threads:
        running = [threads.submit(worker.run) for worker in workers]

        def told_to_stop() -> bool | None:
            for future in running:
                if future.done():
                    future.result()  # raises
            return all(run in worker.stopped for worker in workers) or None

        try:
            lab.wait_for_workers("foreign-a", "foreign-b")
            run = lab.submit(experiment("foreign", **SECTIONS, **differing))
            lab.wait(told_to_stop, "stop orders")
        finally:
            for worker in workers:
                worker.closing.set()
    assert [future.result() for future in running] == [None, None]
    assert [worker.refusals for worker in workers] == [[], []]

    detail = read(lab, f"/v1/runs/{run}").json()
    entries = read(lab, f"/v1/runs/{run}/ledger").json()
    assert detail["state"] == "finished" and len(entries) == ROUNDS + 1
    identity = {
        key: value for key, value in detail["experiment"].items() if key not in ("name", "description")
    }
    assert {entry["experiment"] for entry in entries} == {hashed(identity)}
    foretelling = foretold(detail["experiment"])
    for entry in entries:
        weights, said = next(foretelling)
        assert {key: entry[key] for key in said} == said
        assert (entry["task_hash"], entry["data_hash"]) == (foreign.TASK_HASH, foreign.DATA_HASH)

    model = read(lab, f"/v1/runs/{run}/model")
    groups, _ = foreign.decode(model.content)
    for found, expected in zip(groups["weights"], weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert model.headers["ETag"] == f'"{digest(groups, MANIFEST)}"' == f'"{entries[-1]["weights_hash"]}"'
    message = foreign.on_wire(weights, detail["experiment"]["wire"])
    sums = foreign.evaluate(foreign.float32(message), *foreign.TEST)
    assert detail["accuracy"] == sums["accuracy"] / len(foreign.TEST[0])

    fetched = {digest: etag for worker in workers for digest, etag in worker.fetched.items()}
    assert all(etag == f'"{computed}"' for computed, etag in fetched.items())
    assert {entry["message_hash"] for entry in entries} <= set(fetched)
    sent = {digest for worker in workers for digest in worker.sent.values()}
    assert {part["update"] for entry in entries for part in entry["participants"]} <= sent

    assert {worker.stopped[run] for worker in workers} == {detail["head"]} == {checked_head(entries)}
    entries[1]["participants"][0]["num_examples"] += 1
    with pytest.raises(AssertionError):
        checked_head(entries)


def test_an_update_counts_once_and_a_wrong_one_not_at_all(lab: Lab) -> None:
    run = lab.submit(experiment("foreign-step-by-step", **SECTIONS | {"rounds": {"count": 1}}))
    worker = make_worker(lab, "foreign-c")
    worker.join()

    def train_orders() -> list[dict[str, Any]] | None:
        new = worker.poll()
        for order in new:
            if order["kind"] != "train":
                worker.carry_out(order)
        return [order for order in new if order["kind"] == "train"] or None

    orders = lab.wait(train_orders, "train orders")
    first = orders[0]
    groups, metadata = worker.trained(first)

    def with_kernel(value: float) -> bytes:
        kernel = groups["update"][0].copy()
        kernel[0, 0] = value
        return foreign.encode({"update": [kernel, *groups["update"][1:]]}, MANIFEST, metadata)

    def refusal(reply: httpx.Response) -> tuple[int, str]:
        assert reply.headers["Content-Type"] == "application/problem+json"
        return reply.status_code, reply.json()["type"]

    honest = foreign.encode(groups, MANIFEST, metadata)
    narrowed = foreign.encode({"update": foreign.float16(groups["update"])}, MANIFEST, metadata)
    put = f"/v1/orders/{first['id']}/update"
    assert refusal(worker.put(first["id"], with_kernel(np.nan))) == (422, "urn:roundtable:not-finite")
    assert refusal(worker.put(first["id"], narrowed)) == (422, "urn:roundtable:dtype-mismatch")
    assert worker.http.put(put, content=iter([honest])).status_code == 411  # chunked: no Content-Length
    assert httpx.put(lab.url + put, content=honest).status_code == 401

    reply = worker.put(first["id"], honest)
    assert (reply.status_code, reply.json()) == (200, {"duplicate": False})
    before = read(lab, f"/v1/runs/{run}").json()
    assert before["arrived"] == [first["client"]]
    reply = worker.put(first["id"], honest)
    assert (reply.status_code, reply.json()) == (200, {"duplicate": True})
    assert refusal(worker.put(first["id"], with_kernel(0.5))) == (409, "urn:roundtable:already-accepted")
    assert read(lab, f"/v1/runs/{run}").json() == before

    weights = f"/v1/weights/{first['weights']}"
    assert worker.http.get(weights, headers={"If-None-Match": f'"{first["weights"]}"'}).status_code == 304

    del worker.holding[first["id"]]
    for order in orders[1:]:
        worker.carry_out(order)

    def stopped() -> bool | None:
        for order in worker.poll():
            worker.carry_out(order)
        return run in worker.stopped or None

    lab.wait(stopped, "the stop order")
    worker.leave()
    worker.http.close()
    entries = read(lab, f"/v1/runs/{run}/ledger").json()
    _, (_, said) = islice(foretold(before["experiment"]), 2)
    assert entries[1]["participants"] == said["participants"]
    assert worker.stopped[run] == checked_head(entries)
