"""A worker written from docs/protocol.md alone: JSON, bytes and BLAKE3, nothing of ours."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
ARRAYS = [
    {"name": "kernel", "shape": [2, 2], "dtype": "float32", "trainable": True},
    {"name": "bias", "shape": [2], "dtype": "float32", "trainable": True},
    {"name": "count", "shape": [], "dtype": "int64", "trainable": False},
]
CODES = {"float32": "F32", "int64": "I64"}


def named(group, arrays):
    return [(f"{group}/{position:04d}/{spec['name']}", spec) for position, spec in enumerate(arrays)]


def pack(groups, metadata):
    """groups: {name: (specs, arrays)} → safetensors bytes."""
    table, data = {"__metadata__": metadata}, b""
    for group, (specs, arrays) in groups.items():
        for (name, spec), array in zip(named(group, specs), arrays, strict=True):
            raw = np.asarray(array, spec["dtype"]).tobytes()
            offsets = [len(data), len(data) + len(raw)]
            table[name] = {"dtype": CODES[spec["dtype"]], "shape": spec["shape"], "data_offsets": offsets}
            data += raw
    header = json.dumps(table).encode()
    return len(header).to_bytes(8, "little") + header + data


def unpack(body):
    """→ {tensor name: (code, shape, raw bytes)}"""
    length = int.from_bytes(body[:8], "little")
    table = json.loads(body[8 : 8 + length])
    table.pop("__metadata__", None)
    data = body[8 + length :]
    return {
        name: (entry["dtype"], entry["shape"], data[slice(*entry["data_offsets"])])
        for name, entry in table.items()
    }


def digest(tensors, groups):
    """groups: {name: specs}. As the page tells it."""
    names = [pair for group in sorted(groups) for pair in named(group, groups[group])]
    text = ""
    for name, spec in names:
        code, shape, _ = tensors[name]
        size = "x".join(map(str, shape)) or "scalar"
        text += f"{name} {code} {size} {'trainable' if spec['trainable'] else 'fixed'}\n"
    return blake3(text.encode() + b"".join(tensors[name][2] for name, _ in names)).hexdigest()


def test_the_pages_example_hashes_to_what_it_says():
    found = re.search(r"whose hash is\s+`([0-9a-f]{64})`", PAGE.read_text())
    bias = [{"name": "bias", "shape": [3], "trainable": True}]
    raw = bytes.fromhex("0000803f 00000040 00004040")
    assert digest({"weights/0000/bias": ("F32", [3], raw)}, {"weights": bias}) == found[1]


def test_the_page_lists_every_endpoint_with_its_token(open_lab):
    async def schema():
        async with open_lab() as lab:
            return (await lab.http.get("/openapi.json")).json()

    rows = re.findall(r"^\| `(GET|PUT|POST) (/[^`?]*)[^`]*` \| (\w+) \|", PAGE.read_text(), re.M)
    listed = {(method, path): token for method, path, token in rows}
    served = {
        (method.upper(), path): next(iter(operation.get("security", [{"none": []}])[0])).split()[0]
        for path, operations in asyncio.run(schema())["paths"].items()
        for method, operation in operations.items()
    }
    assert listed == served


async def test_such_a_worker_takes_a_run_to_its_end(open_lab, make_experiment):
    experiment = make_experiment(rounds={"count": 2})
    done = asyncio.Event()

    async def worker(http, join_token):
        join = {
            "protocol": 1,
            "instance": "0123456789abcdef",
            "host": "h",
            "node": "n",
            "arch": "a",
            "cpus": 1,
        }
        join |= {"memory_bytes": 1, "accelerator": None, "pinned": None, "code": "7" * 64}
        reply = await http.post("/v1/join", json=join, headers={"Authorization": f"Bearer {join_token}"})
        headers = {"Authorization": f"Bearer {reply.json()['session_token']}"}
        holding = {}
        while not done.is_set():
            reply = (await http.post("/v1/poll", json={"holding": list(holding)}, headers=headers)).json()
            for order in reply["cancel"]:
                holding.pop(order, None)
            holding |= {order["id"]: order for order in reply["give"]}
            for order in list(holding.values()):
                path = f"/v1/orders/{order['id']}"
                if order["kind"] == "initialize":
                    told = {"arrays": ARRAYS, "task_hash": "1" * 64, "data_hash": "2" * 64}
                    told |= {"train_examples": 8, "test_examples": 4, "metrics": ["loss", "accuracy"]}
                    first = [np.ones((2, 2)), np.zeros(2), np.int64(5)]
                    body = pack({"weights": (ARRAYS, first)}, {"initialized": json.dumps(told)})
                    reply = await http.put(f"{path}/update", content=body, headers=headers)
                    assert (reply.status_code, reply.json()) == (200, {"duplicate": False})
                elif order["kind"] == "stop":
                    assert re.fullmatch(r"[0-9a-f]{64}", order["head"])
                    reply = await http.post(f"{path}/result", json={"status": "done"}, headers=headers)
                    assert reply.status_code == 204
                    done.set()
                else:
                    reply = await http.get(f"/v1/weights/{order['weights']}", headers=headers)
                    tensors = unpack(reply.content)
                    assert reply.headers["etag"] == f'"{order["weights"]}"'
                    assert digest(tensors, {"weights": ARRAYS}) == order["weights"]
                    cached = headers | {"If-None-Match": reply.headers["etag"]}
                    assert (
                        await http.get(f"/v1/weights/{order['weights']}", headers=cached)
                    ).status_code == 304
                    if order["kind"] == "evaluate":
                        sums = {"loss": 2.0, "accuracy": 1}
                        evaluated = {"num_examples": 2, "sums": sums, "seconds": 0.1}
                        result = {"status": "done", "evaluated": evaluated}
                        reply = await http.post(f"{path}/result", json=result, headers=headers)
                        assert reply.status_code == 204
                    else:
                        update = [np.full((2, 2), order["client"]), np.ones(2), np.int64(1)]
                        account = {"account": json.dumps({"num_examples": 2, "num_steps": 1})}
                        body = pack({"update": (ARRAYS, update)}, account)
                        reply = await http.put(f"{path}/update", content=body, headers=headers)
                        assert reply.status_code == 200
                del holding[order["id"]]

    async with open_lab() as lab:
        run = await lab.create(experiment)
        await asyncio.wait_for(worker(lab.http, lab.service.tokens.join), 20)
        detail = await lab.ended(run["id"])
        assert detail["state"] == "finished" and detail["history"][-1]["accuracy"] == 0.5
        assert re.fullmatch(r"[0-9a-f]{64}", detail["environment"]["code"])  # and what the worker told:
        assert [view["code"] for view in (await lab.http.get("/v1/workers")).json()] == ["7" * 64]
        reply = await lab.http.get(f"/v1/runs/{run['id']}/model")
        tensors = unpack(reply.content)
        values = [np.frombuffer(tensors[name][2], spec["dtype"]) for name, spec in named("weights", ARRAYS)]
        np.testing.assert_array_equal(values[0], np.full(4, 1 + 2 * 1.5))  # clients 0 … 3, two rounds
        np.testing.assert_array_equal(values[1], np.full(2, 2))
        np.testing.assert_array_equal(values[2], [7])
