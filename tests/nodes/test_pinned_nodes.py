"""Three nodes with samples of their own: each is counted, described and trained on at home and nowhere else,
and no sample crosses the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from lab.api import Api, read_token
from roundtable.experiment import parse
from roundtable.messages import ENDED, CreateRun, RunDetail
from roundtable.tasks import find

from tests.nodes.conftest import ROOT, Hosts, wait_for
from tests.nodes.recorder import Recorder

SIZES = {"north": 120, "east": 200, "south": 80}
PINNED = parse(
    {
        "name": "pinned",
        "task": "digits",
        "clients": {"count": 3},
        "rounds": {"count": 2},
        "partition": {"kind": "pinned"},
        "training": {"threads": {"intra": 1, "inter": 1}},
    }
)


def folders(root: Path) -> dict[str, np.ndarray]:
    """Each node's folder; its x [n, 8, 8] uint8. South has only odd digits."""
    data = find("digits", {}, Path("tasks")).task.load(ROOT / "datasets")
    rows = np.random.default_rng(3).permutation(len(data.x_train))
    odd = rows[data.y_train[rows] % 2 == 1]
    chosen = {"north": rows[:120], "east": rows[120:320], "south": odd[-80:]}
    for name, own in chosen.items():
        (root / name).mkdir(parents=True)
        np.savez(root / name / "data.npz", x=data.x_train[own], y=data.y_train[own])
    return {name: data.x_train[own] for name, own in chosen.items()}


def spellings(x: np.ndarray) -> Iterator[bytes]:
    """An example [8, 8] as it could be sent: raw, as floats, scaled as the model scales it, as JSON. Its
    middle rows, so that no head or padding is needed to find it."""
    middle = x[2:6]
    for array in (
        middle,
        *(middle.astype(kind) / scale for kind in ("f2", "f4", "f8") for scale in (1, 16, 255)),
    ):
        yield np.ascontiguousarray(array).tobytes()
    yield ",".join(map(str, middle.ravel())).encode()


def leaks(samples: dict[str, np.ndarray], sent: bytes) -> list[str]:
    return [
        f"{node}[{index}]"
        for node, x in samples.items()
        for index, example in enumerate(x)
        if any(spelling in sent for spelling in spellings(example))
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_nodes_train_on_their_own_samples_and_none_leaves_its_node(
    hosts: Hosts, tmp_path: Path
) -> None:
    samples = folders(tmp_path / "data")
    _, url = hosts.aggregator(POLL_SECONDS="1", LOST_AFTER="60")
    wire = Recorder(url)
    for name in SIZES:
        hosts.start(
            name,
            *("-m", "worker"),
            AGGREGATOR_URL=wire.url,
            JOIN_TOKEN_FILE=str(hosts.join_token),
            NODE_NAME=name,
            DATA_DIR=str(tmp_path / "data" / name),
        )
    with Api(url, read_token(hosts.admin_token)) as api:
        wait_for(lambda: len(api.workers()) == 3, lambda: f"three workers, not {api.workers()}")
        run = api.create(CreateRun(experiment=PINNED))[0].id
        wait_for(lambda: api.run(run).state in ENDED, lambda: f"the end of {api.run(run)}")
        detail, workers = api.run(run), {worker.id: worker for worker in api.workers()}
    check_homes(detail, workers)
    check_traffic(detail, wire)
    sent = b"".join(bytes(buffer) for buffer in wire.up)
    assert len(sent) > 10_000 and leaks(samples, sent) == []
    httpx.put(f"{wire.url}/v1/orders/o/update", content=samples["east"][7].tobytes())  # as a leak would look
    wire.close()
    assert leaks(samples, b"".join(bytes(buffer) for buffer in wire.up)) == ["east[7]"]


def check_homes(detail: RunDetail, workers: dict[str, Any]) -> None:
    """Each client trained on one node, in every round, with all that this node counted."""
    assert detail.state == "finished"
    rounds = [record for record in detail.history if record.round]
    homes = [
        {(workers[worker].node, account.clients) for worker, account in record.workers.items()}
        for record in rounds
    ]
    assert {node for node, _ in homes[0]} == set(SIZES) and all(len(clients) == 1 for _, clients in homes[0])
    assert homes[0] == homes[1]
    assert [record.num_examples for record in rounds] == [sum(SIZES.values())] * 2
    assert all(worker.pinned for worker in workers.values())


def check_traffic(detail: RunDetail, wire: Recorder) -> None:
    """What came in is what the aggregator wrote down: updates, each of the model's size, and little else."""
    requests = wire.requests
    joins = [body for method, path, body in requests if path == "/v1/join"]
    assert sorted(int(found) for body in joins for found in [_examples(body)]) == sorted(SIZES.values())
    updates = [body for method, _, body in requests if method == "PUT"]
    assert len(updates) == 3 * 2 + 1  # three nodes, two rounds; and the first weights
    parameters = 4 * (64 * 32 + 32 + 32 * 10 + 10)  # bytes of float32
    assert all(parameters <= len(body) <= parameters + 2048 for body in updates)
    trained = [body for body in updates if b'"account"' in body[:2048]]
    assert len(trained) == 3 * 2
    assert sum(record.bytes_up for record in detail.history) == sum(map(len, trained))
    others = sum(len(body) for method, _, body in requests if method != "PUT")
    assert others < 64 * 1024  # joins, polls, results of evaluations


def _examples(body: bytes) -> int:
    import json

    return int(json.loads(body)["pinned"]["examples"])


def test_the_search_for_samples_finds_one_in_each_spelling() -> None:
    x = np.random.default_rng(0).integers(0, 17, (5, 8, 8)).astype(np.uint8)
    for spelling in (
        x[3].tobytes(),
        (x[3] / np.float32(16)).astype("f4").tobytes(),
        str(x[3].ravel().tolist()).replace(" ", "").encode(),
    ):
        assert leaks({"a": x}, b"before" + spelling + b"after") == ["a[3]"]
    assert leaks({"a": x}, x[3].tobytes()[:40]) == []
