"""FedAdam, FedYogi and FedAdagrad against Algorithm 2 of Reddi et al. 2021, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
from roundtable.strategy import Server, Strategy
from roundtable.strategy.adagrad import ServerAdagrad
from roundtable.strategy.adam import ServerAdam
from roundtable.strategy.sgd import ServerSGD
from roundtable.strategy.yogi import ServerYogi
from roundtable.types import Float64

from tests.roundtable.regressions import RATE, clients_of, federate, slope

SERVERS = [
    ServerAdam(learning_rate=0.05, beta_1=0.8, beta_2=0.95, tau=0.01),
    ServerYogi(learning_rate=0.05, beta_1=0.8, beta_2=0.95, tau=0.01),
    ServerAdagrad(learning_rate=0.05, beta_1=0.8, tau=0.01),
    ServerAdagrad(learning_rate=0.05, tau=0.01),
]
IDS = ["adam", "yogi", "adagrad", "adagrad without momentum"]


def algorithm_2(server: Server, updates: list[Float64]) -> list[Float64]:
    """The paper's pseudocode, line by line; Δ are given."""
    x, m, v, xs = np.zeros(4), np.zeros(4), np.full(4, server.tau**2), []
    for delta in updates:
        m = server.beta_1 * m + (1 - server.beta_1) * delta
        if server.name == "adagrad":
            v = v + delta**2
        elif server.name == "yogi":
            v = v - (1 - server.beta_2) * delta**2 * np.sign(v - delta**2)
        else:
            v = server.beta_2 * v + (1 - server.beta_2) * delta**2
        x = x + server.learning_rate * m / (np.sqrt(v) + server.tau)
        xs.append(x)
    return xs


@pytest.mark.parametrize("server", SERVERS, ids=IDS)
def test_each_is_the_papers_pseudocode(server: Server) -> None:
    draw = np.random.default_rng(3)
    updates = [scale * draw.standard_normal(4) for scale in (1, 0.1, 3, 0.01, 0.5)]
    weights, slots, ours = np.zeros(4), {name: np.zeros(4) for name in server.slots}, []
    for number, update in enumerate(updates, 1):
        slots, weights = server.apply(slots, weights, update, number)
        assert set(slots) == set(server.slots)
        ours.append(weights)
    np.testing.assert_allclose(ours, algorithm_2(server, updates), rtol=1e-12)


@pytest.mark.parametrize("server", SERVERS, ids=IDS)
def test_each_federates_as_the_paper_says(server: Server) -> None:
    """All of Algorithm 2, with one local step a client, so that Δ is −η_l times the mean gradient."""
    data = clients_of(sizes=(20, 20, 20))
    x, updates = np.zeros(4), []
    for _ in range(6):
        updates.append(np.mean([-RATE * slope(x, *client) for client in data], axis=0))
        x = algorithm_2(server, updates)[-1]
    ours = federate(Strategy(server=server), data, 6, 1)
    np.testing.assert_allclose(ours[-1], x, rtol=1e-10)


def test_adams_first_two_steps_by_hand() -> None:
    server = ServerAdam(learning_rate=0.1, beta_1=0.5, beta_2=0.75, tau=1.0)
    slots, weights = server.apply(
        {"mean": np.zeros(1), "square": np.zeros(1)}, np.zeros(1), np.array([2.0]), 1
    )
    assert (slots["mean"], slots["square"]) == ([1.0], [1.75])  # 0.75·1 + 0.25·4
    assert weights == pytest.approx([0.1 / (np.sqrt(1.75) + 1)])
    slots, after = server.apply(slots, weights, np.array([0.0]), 2)
    assert (slots["mean"], slots["square"]) == ([0.5], [0.75 * 1.75])
    assert after == pytest.approx(weights + 0.05 / (np.sqrt(0.75 * 1.75) + 1))


@pytest.mark.parametrize("server", SERVERS, ids=IDS)
def test_a_block_at_a_time_is_the_whole_at_once(server: Server) -> None:
    weights, update, mean, square = np.random.default_rng(0).standard_normal((4, 100))
    before = {"mean": mean, "square": square**2}
    for number in (1, 2):
        slots, whole = server.apply(before, weights, update, number)
        for part in (slice(0, 33), slice(33, 100)):
            pieces = {name: array[part] for name, array in before.items()}
            part_slots, part_weights = server.apply(pieces, weights[part], update[part], number)
            assert part_weights.tolist() == whole[part].tolist()
            for name, slot in part_slots.items():
                assert slot.tolist() == slots[name][part].tolist()


def test_what_is_given_is_left_as_it_is() -> None:
    arrays = [np.ones(3) for _ in range(4)]
    for array in arrays:
        array.flags.writeable = False
    for server in SERVERS:
        server.apply({"mean": arrays[0], "square": arrays[1]}, arrays[2], arrays[3], 1)


def test_without_momentum_no_array_is_kept_for_it() -> None:
    assert ServerAdagrad().slots == ("square",)
    assert ServerAdam().slots == ("mean", "square")


def test_steps_do_not_depend_on_the_size_of_the_updates() -> None:
    """The point of adaptivity: updates a thousand times as small, and the same progress (tau aside)."""
    for server in (ServerAdam(tau=1e-9), ServerYogi(tau=1e-9), ServerAdagrad(tau=1e-9)):
        ends = []
        for scale in (1.0, 1e-3):
            weights, slots = np.zeros(1), {name: np.zeros(1) for name in server.slots}
            for number in range(1, 20):
                slots, weights = server.apply(slots, weights, np.array([scale * (1 + number % 2)]), number)
            ends.append(weights[0])
        assert ends[0] == pytest.approx(ends[1], rel=1e-3), server.name


def test_a_rare_feature_is_learnt_where_plain_averaging_has_hardly_begun() -> None:
    """The paper finds adaptive servers ahead where gradients are sparse: one feature is a tenth as loud."""
    draw = np.random.default_rng(5)
    features = draw.standard_normal((40, 4)) * [1, 1, 1, 0.1]
    data = [(features[part], features[part] @ np.ones(4)) for part in (slice(0, 20), slice(20, 40))]
    averaged = federate(Strategy(), data, 60, 5)[-1]
    assert abs(averaged[3] - 1) > 0.7
    for server in (
        ServerAdam(learning_rate=0.1),
        ServerYogi(learning_rate=0.1),
        ServerAdagrad(learning_rate=0.3),
    ):
        adapted = federate(Strategy(server=server), data, 60, 5)[-1]
        assert abs(adapted[3] - 1) < 0.35, server.name
        assert np.abs(adapted[:3] - 1).max() < 0.35, server.name


def test_yogi_forgets_a_large_update_more_slowly_than_adam() -> None:
    steps = {}
    for server in (ServerAdam(), ServerYogi()):
        weights, slots = np.zeros(1), {name: np.zeros(1) for name in server.slots}
        for number, update in enumerate([10.0] + [0.01] * 300, 1):
            slots, weights = server.apply(slots, weights, np.array([update]), number)
        steps[server.name] = slots["square"][0]
    assert steps["yogi"] > 5 * steps["adam"]


def test_a_large_tau_is_server_momentum() -> None:
    """√v stays at τ, where it began, and η·m/(√v + τ) is (η/2τ)·m: FedAvgM with (1 − β₁) times its steps."""
    data = clients_of()
    yogi = ServerYogi(learning_rate=2e6, tau=1e6, beta_1=0.9)
    heavy = ServerSGD(learning_rate=0.1, momentum=0.9)
    ours, theirs = (federate(Strategy(server=server), data, 10, 3)[-1] for server in (yogi, heavy))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
