"""Each part of a strategy against its paper's pseudocode in plain numpy, and against what the paper found."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from roundtable.errors import RunFailed
from roundtable.experiment import Training
from roundtable.strategy import Strategy
from roundtable.strategy.control_variates import ControlVariates
from roundtable.strategy.means import UniformMean, WeightedMean
from roundtable.strategy.part import Share
from roundtable.strategy.plain import Plain
from roundtable.strategy.proximal import Proximal
from roundtable.strategy.samplers import UniformSampler
from roundtable.strategy.sgd import ServerSGD
from roundtable.types import Float32, Float64

from tests.roundtable.regressions import RATE, clients_of, federate, optimum, slope


class TestFedAvg:
    """McMahan et al. 2017, Algorithm 1."""

    def test_is_the_papers_pseudocode(self) -> None:
        data = clients_of()
        weights = np.zeros(4)
        expected = []
        for _ in range(5):
            total = sum(len(y) for _, y in data)
            following = np.zeros(4)
            for x, y in data:
                local = weights
                for _ in range(3):
                    local = local - RATE * slope(local, x, y)
                following += len(y) / total * local
            expected.append(weights := following)
        np.testing.assert_allclose(federate(Strategy(), data, 5, 3), expected, rtol=1e-12)

    def test_with_one_full_step_is_fedsgd_and_so_gradient_descent_on_all_data(self) -> None:
        data = clients_of(spread=3.0)
        everything = tuple(np.concatenate(parts) for parts in zip(*data, strict=True))
        weights = np.zeros(4)
        for ours in federate(Strategy(), data, 20, 1):
            weights = weights - RATE * slope(weights, *everything)
            np.testing.assert_allclose(ours, weights, rtol=1e-10)

    def test_drifts_away_from_the_optimum_with_many_local_steps_on_unlike_clients(self) -> None:
        data = clients_of(spread=3.0)
        few, many = (federate(Strategy(), data, 400, steps)[-1] for steps in (1, 30))
        assert np.linalg.norm(few - optimum(data)) < 0.05
        assert np.linalg.norm(many - optimum(data)) > 0.2


class TestMeans:
    SHARES = (Share(600, 19), Share(0, 0), Share(200, 7))

    def test_the_weighted_mean_counts_examples(self) -> None:
        assert WeightedMean().coefficients(self.SHARES).tolist() == [0.75, 0.0, 0.25]

    def test_the_uniform_mean_counts_clients(self) -> None:
        assert UniformMean().coefficients(self.SHARES).tolist() == [1 / 3] * 3

    def test_no_examples_at_all_fail_the_run_by_name(self) -> None:
        with pytest.raises(RunFailed, match="none of 2 updates"):
            WeightedMean().coefficients([Share(0, 0), Share(0, 0)])

    @given(st.integers(1, 8), st.integers(0, 40), st.integers(0, 2**32 - 1))
    def test_combine_is_the_sum_in_client_order_in_float64(self, updates: int, size: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        blocks = [draw.standard_normal(size).astype(np.float32) for _ in range(updates)]
        coefficients = draw.uniform(0, 1, updates)
        expected = [0.0] * size
        for block, coefficient in zip(blocks, coefficients, strict=True):
            expected = [e + float(v) * float(coefficient) for e, v in zip(expected, block, strict=True)]
        combined = WeightedMean().combine(blocks, coefficients)
        assert combined.dtype == np.float64
        assert combined.tolist() == expected  # to the bit: Python's floats are float64

    def test_combine_leaves_its_blocks_alone(self) -> None:
        block = np.ones(3, np.float32)
        block.flags.writeable = False
        assert WeightedMean().combine([block, block], np.array([0.5, 0.5])).tolist() == [1, 1, 1]

    def test_a_round_of_the_uniform_mean_is_one_client_one_vote(self) -> None:
        data = clients_of(spread=3.0)
        result = federate(Strategy(aggregation=UniformMean()), data, 400, 1)[-1]
        np.testing.assert_allclose(result, optimum(data, by_examples=False), atol=0.05)


class TestServerSGD:
    """Reddi et al. 2021, Algorithm 1 with SGD; Hsu et al. 2019 with momentum (FedAvgM)."""

    def test_fedavgm_is_the_papers_pseudocode(self) -> None:
        data = clients_of()
        server = ServerSGD(learning_rate=0.7, momentum=0.9)
        weights, velocity, expected = np.zeros(4), np.zeros(4), []
        for _ in range(6):
            total = sum(len(y) for _, y in data)
            delta = sum(len(y) / total * RATE * slope(weights, x, y) for x, y in data)  # w − w_k, averaged
            velocity = 0.9 * velocity + delta
            expected.append(weights := weights - 0.7 * velocity)
        np.testing.assert_allclose(federate(Strategy(server=server), data, 6, 1), expected, rtol=1e-12)

    def test_without_momentum_keeps_nothing(self) -> None:
        server = ServerSGD(learning_rate=0.5)
        assert server.slots == ()
        assert server.apply({}, np.ones(2), np.full(2, 4.0), 1) == ({}, pytest.approx([3.0, 3.0]))

    def test_learning_rate_one_adds_the_update_to_the_bit(self) -> None:
        weights, update = np.array([0.1, 1e9]), np.array([0.2, -1e-9])
        assert ServerSGD().apply({}, weights, update, 1)[1].tolist() == (weights + update).tolist()

    def test_a_block_at_a_time_is_the_whole_at_once(self) -> None:
        server = ServerSGD(learning_rate=0.7, momentum=0.9)
        weights, update, velocity = np.random.default_rng(0).standard_normal((3, 100))
        slots, whole = server.apply({"velocity": velocity}, weights, update, 1)
        for part in (slice(0, 33), slice(33, 100)):
            part_slots, part_weights = server.apply(
                {"velocity": velocity[part]}, weights[part], update[part], 1
            )
            assert part_weights.tolist() == whole[part].tolist()
            assert part_slots["velocity"].tolist() == slots["velocity"][part].tolist()

    def test_momentum_gets_further_in_as_many_rounds(self) -> None:
        data = clients_of(spread=0.0)
        plain, heavy = (
            federate(Strategy(server=ServerSGD(momentum=m)), data, 15, 1, rate=0.02)[-1] for m in (0.0, 0.8)
        )
        assert np.linalg.norm(heavy - optimum(data)) < 0.5 * np.linalg.norm(plain - optimum(data))


class TestProximal:
    """Li et al. 2020, Algorithm 2: clients minimize F(w) + mu/2·‖w − wᵗ‖²."""

    def test_the_direction_is_the_gradient_of_the_papers_objective(self) -> None:
        (x, y), *_ = clients_of()
        start, weights, mu, tiny = np.ones(4), np.array([0.5, -1, 2, 0]), 0.3, 1e-6

        def objective(w: Float64) -> float:
            return float(((x @ w - y) ** 2).mean() / 2 + mu / 2 * ((w - start) ** 2).sum())

        numeric = [
            (objective(weights + tiny * e) - objective(weights - tiny * e)) / (2 * tiny) for e in np.eye(4)
        ]
        ours = Proximal(mu=mu).gradient(slope(weights, x, y), weights, start, None, None)
        np.testing.assert_allclose(ours, numeric, rtol=1e-6)

    def test_a_stronger_pull_drifts_less_from_the_optimum(self) -> None:
        data = clients_of(spread=3.0)
        distances = []
        for objective in (Plain(), Proximal(mu=0.3), Proximal(mu=3.0)):
            final = federate(Strategy(objective=objective), data, 600, 30)[-1]
            distances.append(np.linalg.norm(final - optimum(data)))
        assert distances == sorted(distances, reverse=True)
        assert distances[2] < 0.5 * distances[0]


class TestControlVariates:
    """Karimireddy et al. 2020, Algorithm 1 (SCAFFOLD), option II."""

    def test_is_the_papers_pseudocode(self) -> None:
        data, steps = clients_of(sizes=(20, 20, 20)), 4
        x, c, ci, expected = np.zeros(4), np.zeros(4), [np.zeros(4)] * 3, []
        for _ in range(5):
            dy, dc = [], []
            for i, (features, targets) in enumerate(data):
                y = x
                for _ in range(steps):
                    y = y - RATE * (slope(y, features, targets) - ci[i] + c)
                plus = ci[i] - c + (x - y) / (steps * RATE)
                dy.append(y - x)
                dc.append(plus - ci[i])
                ci[i] = plus
            x = x + np.mean(dy, axis=0)
            c = c + len(data) / 3 * np.mean(dc, axis=0)
            expected.append(x)
        ours = federate(Strategy(objective=ControlVariates()), data, 5, steps)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)  # states are float32

    def test_finds_the_optimum_where_fedavg_drifts(self) -> None:
        data = clients_of(spread=3.0, sizes=(20, 20, 20))
        drifted = federate(Strategy(), data, 300, 30)[-1]
        corrected = federate(Strategy(objective=ControlVariates()), data, 300, 30)[-1]
        assert np.linalg.norm(drifted - optimum(data)) > 0.2
        assert np.linalg.norm(corrected - optimum(data)) < 0.01

    def test_a_part_of_the_clients_moves_the_broadcast_by_its_share(self) -> None:
        moved = ControlVariates().advance(np.array([1.0]), np.array([10.0]), cohort=2, clients=8)
        assert moved.tolist() == [3.5]

    def test_states_keep_their_float32(self) -> None:
        start, end = np.zeros(2, np.float32), np.ones(2, np.float32)
        state = ControlVariates().finish(start, end, 5, 0.1, start, start)
        assert state.dtype == np.float32
        assert state.tolist() == pytest.approx([-2, -2])

    @pytest.mark.parametrize("training", [Training(optimizer="adam"), Training(momentum=0.9)])
    def test_is_refused_with_other_than_plain_sgd(self, training: Training) -> None:
        with pytest.raises(ValueError, match=r"training.optimizer = \"sgd\" and training.momentum = 0"):
            Strategy(objective=ControlVariates()).check(training)

    @pytest.mark.parametrize("objective", [Plain(), Proximal(), ControlVariates()])
    def test_every_objective_fits_plain_sgd(self, objective: Plain) -> None:
        Strategy(objective=objective).check(Training())


class TestObjectives:
    def test_the_plain_one_changes_nothing_and_keeps_nothing(self) -> None:
        gradient = np.ones(3)
        assert Plain().gradient(gradient, gradient, gradient, None, None) is gradient
        assert not Plain().controls
        assert not Proximal().controls
        assert ControlVariates().controls

    def test_asking_the_plain_one_for_a_state_is_a_bug(self) -> None:
        nothing: Float32 = np.zeros(1, np.float32)
        with pytest.raises(NotImplementedError):
            Plain().finish(nothing, nothing, 1, 0.1, nothing, nothing)
        with pytest.raises(NotImplementedError):
            Plain().advance(np.zeros(1), np.zeros(1), 1, 1)


class TestUniformSampler:
    @given(
        st.integers(0, 2**32 - 1),
        st.integers(1, 1000),
        st.integers(1, 5),
        st.lists(st.integers(0, 99_999), unique=True, max_size=30),
        st.integers(1, 40),
    )
    def test_draws_ascending_clients_without_repeats(
        self, seed: int, number: int, attempt: int, eligible: list[int], size: int
    ) -> None:
        cohort = UniformSampler().sample(seed, number, attempt, eligible, size, {})
        assert len(cohort) == min(size, len(eligible))
        assert set(cohort) <= set(eligible)
        assert list(cohort) == sorted(set(cohort))
        again = UniformSampler().sample(seed, number, attempt, list(reversed(eligible)), size, {})
        assert again == cohort

    def test_another_seed_round_or_attempt_is_another_draw(self) -> None:
        cohorts = {
            UniformSampler().sample(seed, number, attempt, range(1000), 20, {})
            for seed, number, attempt in product((1, 2), (1, 2), (1, 2))
        }
        assert len(cohorts) == 8

    def test_every_client_is_as_likely_as_another(self) -> None:
        counts = np.zeros(20)
        for number in range(1, 2001):
            counts[list(UniformSampler().sample(1, number, 1, range(20), 5, {}))] += 1
        assert 400 <= counts.min() <= counts.max() <= 600  # 500 ± 5 standard deviations


class TestComposition:
    def test_defaults_are_fedavg(self) -> None:
        assert Strategy() == Strategy(
            sampler=UniformSampler(), objective=Plain(), aggregation=WeightedMean(), server=ServerSGD()
        )
        assert ServerSGD().learning_rate == 1
        assert ServerSGD().momentum == 0

    @pytest.mark.parametrize(
        "table",
        [
            {},
            {"objective": {"name": "proximal", "mu": 0.1}},
            {"objective": {"name": "control-variates"}, "aggregation": {"name": "uniform-mean"}},
            {"server": {"learning_rate": 0.5, "momentum": 0.9}},
        ],
    )
    def test_survives_json(self, table: dict[str, object]) -> None:
        strategy = Strategy.model_validate(table)
        assert Strategy.model_validate_json(strategy.model_dump_json()) == strategy
        assert Strategy.model_validate(json.loads(strategy.model_dump_json())) == strategy

    @pytest.mark.parametrize(
        "table",
        [
            {"objective": {"name": "proximal", "mu": 0}},
            {"objective": {"name": "plain", "mu": 1}},
            {"objective": {"name": "unheard-of"}},
            {"server": {"momentum": 1.0}},
            {"server": {"learning_rate": -1.0}},
            {"aggregation": {"name": "median"}},
            {"sampler": {"name": "oort"}},
        ],
    )
    def test_refuses_what_it_does_not_know(self, table: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            Strategy.model_validate(table)

    def test_parts_are_values(self) -> None:
        with pytest.raises(ValidationError):
            Strategy().server.momentum = 0.5  # type: ignore[misc]
        assert Proximal(mu=0.1) == Proximal(mu=0.1) != Proximal(mu=0.2)
