"""Federated linear regression, whose optimum is known, put together from the parts of a strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat

import numpy as np
from roundtable.experiment import Training
from roundtable.strategy import Strategy
from roundtable.types import Float64

Data = Sequence[tuple[Float64, Float64]]  # for each client: features [n, d], targets [n]

RATE = 0.05


def clients_of(seed: int = 0, spread: float = 1.0, sizes: Sequence[int] = (30, 20, 10)) -> Data:
    """Linear regressions whose true weights differ by `spread` from client to client."""
    draw = np.random.default_rng(seed)
    common = draw.standard_normal(4)
    data = []
    for size in sizes:
        features = draw.standard_normal((size, 4)) * draw.uniform(0.3, 2.0, 4)
        data.append((features, features @ (common + spread * draw.standard_normal(4))))
    return data


def slope(weights: Float64, features: Float64, targets: Float64) -> Float64:
    """The gradient of half the mean squared error."""
    return features.T @ (features @ weights - targets) / len(targets)


def optimum(data: Data, by_examples: bool = True) -> Float64:
    """Where the clients' mean loss is least: weighted by examples, or one client one vote."""
    share = [len(targets) if by_examples else 1 for _, targets in data]
    gram = sum(s * x.T @ x / len(y) for s, (x, y) in zip(share, data, strict=True))
    right = sum(s * x.T @ y / len(y) for s, (x, y) in zip(share, data, strict=True))
    return np.linalg.solve(gram, right)


def federate(
    strategy: Strategy,
    data: Data,
    rounds: int,
    steps: int | Sequence[int],
    rate: float = RATE,
    momentum: float = 0.0,
    cohort: Callable[[int], Sequence[int]] | None = None,
) -> list[Float64]:
    """The weights after each round. `steps`: of each client; `cohort`: who takes part in a round, from 1."""
    weights, slots = np.zeros(4), {name: np.zeros(4) for name in strategy.server.slots}
    broadcast, states = np.zeros(4, np.float32), [np.zeros(4, np.float32) for _ in data]
    local_steps = list(repeat(steps, len(data))) if isinstance(steps, int) else list(steps)
    training = Training(learning_rate=rate, momentum=momentum)
    result = []
    for number in range(1, rounds + 1):
        updates, changes, shares = [], [], []
        for client in range(len(data)) if cohort is None else cohort(number):
            features, targets = data[client]
            local, velocity = weights.copy(), np.zeros(4)
            for _ in range(local_steps[client]):
                gradient = slope(local, features, targets)
                gradient = strategy.objective.gradient(gradient, local, weights, broadcast, states[client])
                velocity = momentum * velocity - rate * gradient
                local += velocity
            updates.append(local - weights)
            shares.append(strategy.share(training, len(targets), local_steps[client], None))
            if strategy.objective.controls:
                before = states[client]
                states[client] = strategy.objective.finish(
                    weights, local, local_steps[client], rate, broadcast, before
                )
                changes.append(states[client] - before)
        update = strategy.aggregation.combine(updates, strategy.aggregation.coefficients(shares))
        slots, weights = strategy.server.apply(slots, weights, update, number)
        if strategy.objective.controls:
            mean = np.mean(changes, axis=0)
            broadcast = strategy.objective.advance(broadcast, mean, len(changes), len(data))
        result.append(weights)
    return result
