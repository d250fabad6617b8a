"""A worker, and a check of the aggregator, written from docs/protocol.md alone: JSON, bytes and BLAKE3.
Nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from roundtable.strategy import Strategy

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
ARRAYS = [
    {"name": "kernel", "shape": [2, 2], "dtype": "float32", "trainable": True},
    {"name": "bias", "shape": [2], "dtype": "float32", "trainable": True},
    {"name": "count", "shape": [], "dtype": "int64", "trainable": False},
    {"name": "moving", "shape": [3], "dtype": "float32", "trainable": False},
]
TRAINED = ARRAYS[:2]
FIRST = [np.ones((2, 2)), np.zeros(2), np.int64(5), np.array([1.0, -2.0, 0.5])]
CODES = {"float32": "F32", "int64": "I64", "float16": "F16"}


def named(group, arrays):
    return [(f"{group}/{position:04d}/{spec['name']}", spec) for position, spec in enumerate(arrays)]


def on_wire(array, spec, wire):
    """As the page has the aggregator send it."""
    array = np.asarray(array, spec["dtype"])
    halved = wire == "float16" and array.dtype == np.float32 and not (abs(array) >= 65520).any()
    return array.astype(np.float16) if halved else array


def tensors_of(groups, wire="float32"):
    """groups: {name: (specs, arrays)} → {tensor name: (code, shape, raw bytes)}"""
    sent = {
        name: (on_wire(array, spec, wire), spec["shape"])
        for group, (specs, arrays) in groups.items()
        for (name, spec), array in zip(named(group, specs), arrays, strict=True)
    }
    return {name: (CODES[array.dtype.name], shape, array.tobytes()) for name, (array, shape) in sent.items()}


def pack(tensors, metadata):
    """→ safetensors bytes."""
    table, data = {"__metadata__": metadata}, b""
    for name, (code, shape, raw) in tensors.items():
        offsets = [len(data), len(data) + len(raw)]
        table[name] = {"dtype": code, "shape": shape, "data_offsets": offsets}
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


def read(tensors, group, specs):
    """The group's arrays as decoded: [float32 or int64]"""
    dtypes = {code: np.dtype(name) for name, code in CODES.items()}
    found = []
    for name, spec in named(group, specs):
        code, shape, raw = tensors[name]
        found.append(np.frombuffer(raw, dtypes[code]).reshape(shape).astype(spec["dtype"]))
    return found


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


def test_the_page_tells_of_every_part_of_a_strategy_what_becomes_of_updates():
    section = PAGE.read_text().partition("## From updates to weights")[2].partition("\n## ")[0]
    schema = Strategy.model_json_schema()["properties"]
    parts = ("objective", "aggregation", "server")
    named = {name for part in parts for name in schema[part]["discriminator"]["mapping"]} - {"plain"}
    assert {name for name in named if f"`{name}`" not in section} == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"learning_rate": 1e-05}},
        {"strategy": {"aggregation": {"name": "uniform-mean"}, "server": {"name": "sgd", "momentum": 0.9}}},
        {
            "strategy": {
                "aggregation": {"name": "normalized-mean"},
                "objective": {"name": "proximal", "mu": 0.5},
                "server": {"name": "adam"},
            },
            "training": {"momentum": 0.9},
        },
        {"strategy": {"server": {"name": "yogi", "beta_1": 0.0}}, "wire": "float16"},
        {
            "strategy": {
                "objective": {"name": "control-variates"},
                "server": {"name": "adagrad", "beta_1": 0.5},
            },
            "wire": "float16",
            "clients": {"count": 4, "fraction": 0.5},
        },
    ],
)
async def test_such_a_worker_takes_a_run_to_its_end_and_its_ledger_is_what_the_page_says(
    open_lab, make_experiment, changes
):
    experiment = make_experiment(**{"rounds": {"count": 3}, **changes})
    sent, plans, heads = {}, [], []  # (round, client) → (account, tensors)

    async def worker(http, join_token):
        join = {
            "protocol": 1,
            "instance": "0123456789abcdef",
            "host": "h",
            "node": "n",
            "arch": "a",
            "cpus": 1,
        }
        join |= {"memory_bytes": 1, "accelerator": None, "pinned": None}
        reply = await http.post("/v1/join", json=join, headers={"Authorization": f"Bearer {join_token}"})
        headers = {"Authorization": f"Bearer {reply.json()['session_token']}"}
        holding = {}
        while not heads:
            reply = (await http.post("/v1/poll", json={"holding": list(holding)}, headers=headers)).json()
            for order in reply["cancel"]:
                holding.pop(order, None)
            holding |= {order["id"]: order for order in reply["give"]}
            for order in list(holding.values()):
                path = f"/v1/orders/{order['id']}"
                if order["kind"] == "initialize":
                    told = {"arrays": ARRAYS, "task_hash": "1" * 64, "data_hash": "2" * 64}
                    told |= {"train_examples": 8, "test_examples": 4, "metrics": ["loss", "accuracy"]}
                    weights = tensors_of({"weights": (ARRAYS, FIRST)})
                    body = pack(weights, {"initialized": json.dumps(told)})
                    reply = await http.put(f"{path}/update", content=body, headers=headers)
                    assert (reply.status_code, reply.json()) == (200, {"duplicate": False})
                elif order["kind"] == "stop":
                    reply = await http.post(f"{path}/result", json={"status": "done"}, headers=headers)
                    assert reply.status_code == 204
                    heads.append(order["head"])
                else:
                    plan = (await http.get(f"/v1/runs/{order['run']}/plan", headers=headers)).json()
                    controls = plan["experiment"]["strategy"]["objective"]["name"] == "control-variates"
                    reply = await http.get(f"/v1/weights/{order['weights']}", headers=headers)
                    tensors = unpack(reply.content)
                    assert reply.headers["etag"] == f'"{order["weights"]}"'
                    groups = {"weights": ARRAYS} | ({"broadcast": TRAINED} if controls else {})
                    assert digest(tensors, groups) == order["weights"]
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
                        client = order["client"]
                        draw = np.random.default_rng([order["round"], client])
                        update = [
                            draw.normal(size=(2, 2)),
                            draw.normal(size=2),
                            np.int64(client),
                            draw.normal(size=3),
                        ]
                        own = {"update": (ARRAYS, update)}
                        if controls:
                            own["state"] = own["broadcast"] = (TRAINED, update[:2])
                            if order["state"]:
                                state = unpack(
                                    (await http.get(f"/v1/states/{order['state']}", headers=headers)).content
                                )
                                assert digest(state, {"state": TRAINED}) == order["state"]
                        wire = plan["experiment"]["wire"] if client else "float32"  # "as its sender likes"
                        account = {"num_examples": 3 + client, "num_steps": 1 + client}
                        tensors = tensors_of(own, wire)
                        sent[order["round"], client] = account, tensors
                        plans[:] = [plan]
                        body = pack(tensors, {"account": json.dumps(account)})
                        reply = await http.put(f"{path}/update", content=body, headers=headers)
                        assert reply.status_code == 200
                del holding[order["id"]]

    async with open_lab() as lab:
        run = await lab.create(experiment)
        await asyncio.wait_for(worker(lab.http, lab.service.tokens.join), 20)
        detail = await lab.ended(run["id"])
        assert detail["state"] == "finished" and detail["history"][-1]["accuracy"] == 0.5
        entries = (await lab.http.get(f"/v1/runs/{run['id']}/ledger")).json()
        model = unpack((await lab.http.get(f"/v1/runs/{run['id']}/model")).content)
        weights = check_ledger(entries, plans[0]["experiment"], sent, heads[0])
        for found, expected in zip(read(model, "weights", ARRAYS), weights, strict=True):
            np.testing.assert_array_equal(found, expected)


def check_ledger(entries, experiment, sent, head):
    """The last weights; `sent`: (round, client) → (account, tensors)."""
    strategy, wire = experiment["strategy"], experiment["wire"]
    controls = strategy["objective"]["name"] == "control-variates"
    sent_groups = {"update": ARRAYS} | ({"state": TRAINED, "broadcast": TRAINED} if controls else {})
    weights = [np.asarray(array, spec["dtype"]) for array, spec in zip(FIRST, ARRAYS, strict=True)]
    kept, previous = {}, "0" * 64
    for number, entry in enumerate(entries):
        clients = [part["client"] for part in entry["participants"]]
        assert (entry["round"], entry["previous"], bool(clients)) == (number, previous, number > 0)
        for part in entry["participants"]:
            account, tensors = sent[number, part["client"]]
            assert {name: part[name] for name in account} == account
            assert part["update"] == digest(tensors, sent_groups)
            state = tensors_of({"state": (TRAINED, read(tensors, "state", TRAINED))}) if controls else None
            assert part["state"] == (state and digest(state, {"state": TRAINED}))
        if number:
            weights, kept = fold(experiment, weights, kept, [sent[number, client] for client in clients])
        stored = tensors_of({"weights": (ARRAYS, weights)})
        assert entry["weights_hash"] == digest(stored, {"weights": ARRAYS})
        message = {"weights": (ARRAYS, weights)}
        if controls:
            message["broadcast"] = (
                TRAINED,
                kept.get("broadcast") or [np.zeros(spec["shape"]) for spec in TRAINED],
            )
        tensors = tensors_of(message, wire)
        assert entry["message_hash"] == digest(
            tensors, {group: specs for group, (specs, _) in message.items()}
        )
        remembered = tensors_of({name: (TRAINED, arrays) for name, arrays in kept.items()})
        assert entry["server_hash"] == (digest(remembered, dict.fromkeys(kept, TRAINED)) if kept else None)
        identity = {name: value for name, value in experiment.items() if name not in ("name", "description")}
        assert entry["experiment"] == hash_of(identity)
        previous = hash_of(entry)
    assert previous == head and len(entries) == 4
    return weights


def hash_of(value):
    return blake3(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fold(experiment, weights, kept, sent):
    """ "From updates to weights" → (weights, slots and broadcast), in the manifest's dtypes."""
    strategy, training = experiment["strategy"], experiment["training"]
    examples = [account["num_examples"] for account, _ in sent]
    shares = [count / sum(examples) for count in examples]
    if strategy["aggregation"]["name"] == "uniform-mean":
        shares = [1 / len(sent)] * len(sent)
    trained = shares
    if strategy["aggregation"]["name"] == "normalized-mean":
        pull = strategy["objective"].get("mu", 0.0) * training["learning_rate"]
        lengths = [length(account["num_steps"], training["momentum"], pull) for account, _ in sent]
        whole = sum(share * own for share, own in zip(shares, lengths, strict=True))
        trained = [share * whole / own for share, own in zip(shares, lengths, strict=True)]
    updates = [read(tensors, "update", ARRAYS) for _, tensors in sent]
    after, slots = [], {}
    for position, (before, spec) in enumerate(zip(weights, ARRAYS, strict=True)):
        own = trained if spec["trainable"] else shares
        change = mean(own, [update[position] for update in updates])
        if spec["trainable"]:
            old = {name: arrays[position].astype(float) for name, arrays in kept.items()}
            change, new = step(strategy["server"], change, old)
            for name, array in new.items():
                slots.setdefault(name, []).append(array.astype(spec["dtype"]))
        elif spec["dtype"] == "int64":
            change = np.rint(change).astype(np.int64)
        after.append((before.astype(change.dtype) + change).astype(spec["dtype"]))
    if strategy["objective"]["name"] == "control-variates":
        changes = [read(tensors, "broadcast", TRAINED) for _, tensors in sent]
        slots["broadcast"] = []
        for position, spec in enumerate(TRAINED):
            old = kept["broadcast"][position].astype(float) if kept else np.zeros(spec["shape"])
            change = mean([1 / len(sent)] * len(sent), [own[position] for own in changes])
            slots["broadcast"].append(
                (old + len(sent) / experiment["clients"]["count"] * change).astype(np.float32)
            )
    return after, slots


def mean(shares, arrays):
    return sum(share * array.astype(float) for share, array in zip(shares, arrays, strict=True))


def length(steps, momentum, pull):
    gone = speed = 0.0
    for _ in range(steps):
        speed = momentum * speed + 1 - pull * gone
        gone += speed
    return gone


def step(server, change, old):
    """→ (what is added to the weights, the new slots)"""
    rate = server["learning_rate"]
    if server["name"] == "sgd":
        velocity = server["momentum"] * old.get("velocity", 0.0) + change
        return rate * velocity, ({"velocity": velocity} if server["momentum"] else {})
    square, decay = old.get("square", np.full(change.shape, server["tau"] ** 2)), server.get("beta_2")
    square = {
        "adam": lambda: decay * square + (1 - decay) * change**2,
        "yogi": lambda: square - (1 - decay) * change**2 * np.sign(square - change**2),
        "adagrad": lambda: square + change**2,
    }[server["name"]]()
    beta = server["beta_1"]
    moved = beta * old.get("mean", 0.0) + (1 - beta) * change
    slots = {"square": square} | ({"mean": moved} if beta else {})
    return rate * moved / (np.sqrt(square) + server["tau"]), slots
