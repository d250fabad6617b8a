"""Whole runs through the real app, held against numpy doing the same alone."""

from __future__ import annotations

import numpy as np
import pytest

from roundtable import codec

pytestmark = pytest.mark.anyio


async def latest(lab, run):
    reply = await lab.http.get(f"/v1/runs/{run}/model", params={"which": "latest"})
    assert reply.status_code == 200, reply.text
    return list(codec.decode(reply.content, {"weights": lab.task.manifest}).groups["weights"].arrays)


def federated_average(task, rounds, steps, rate, clients=4):
    """McMahan et al. 2017, Algorithm 1, all clients in every round."""
    weights = task.first()
    for _ in range(rounds):
        sizes = np.array([len(task.data[client][0]) for client in range(clients)], np.float64)
        total = [np.zeros(array.shape, np.float64) for array in weights]
        for client, share in enumerate(sizes / sizes.sum()):
            end = task.train(weights, client, steps=steps, rate=rate)
            for position, (after, before) in enumerate(zip(end, weights, strict=True)):
                total[position] += (after - before) * share
        weights = [(a + t).astype(np.float32) for a, t in zip(weights, total, strict=True)]
    return weights


async def test_a_run_ends_with_the_weights_that_numpy_computes(open_lab, make_experiment):
    async with open_lab() as lab:
        workers = [await lab.joined(number) for number in (1, 2)]
        async with lab.working(*workers):
            run = await lab.create(make_experiment())
            detail = await lab.ended(run["id"])
        assert detail["state"] == "finished", detail["reason"]
        expected = federated_average(lab.task, rounds=3, steps=3, rate=0.05)
        for found, array in zip(await latest(lab, run["id"]), expected, strict=True):
            np.testing.assert_array_equal(found, array)
