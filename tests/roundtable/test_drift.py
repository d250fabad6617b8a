"""What FedNova, SCAFFOLD and FedProx are for, as published, on regressions whose optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from roundtable.errors import InvalidExperiment, RunFailed
from roundtable.experiment import Training, parse
from roundtable.strategy import Strategy
from roundtable.strategy.control_variates import ControlVariates
from roundtable.strategy.means import UniformMean, WeightedMean
from roundtable.strategy.normalized import NormalizedMean
from roundtable.strategy.part import Share
from roundtable.strategy.plain import Plain
from roundtable.strategy.proximal import Proximal

from tests.roundtable.regressions import RATE, clients_of, federate, optimum, slope

worth = NormalizedMean().worth


def walked(num_steps: int, momentum: float, pull: float) -> float:
    """The sum of the weights that local steps give to gradients: each gradient by itself, step by step."""
    weights = []
    for at in range(num_steps):
        velocity, distance = 0.0, 0.0
        for step in range(num_steps):
            velocity = momentum * velocity + (step == at) - pull * distance
            distance += velocity
        weights.append(distance)
    return float(sum(weights))


class TestWorth:
    """‖a‖₁ of Wang et al. 2020, section 4."""

    def test_of_plain_sgd_it_is_the_number_of_steps(self) -> None:
        assert worth(188, 0.0, 0.0) == 188

    @pytest.mark.parametrize("steps", [1, 2, 30])
    @pytest.mark.parametrize("rho", [0.5, 0.9])
    def test_with_momentum_it_is_the_papers_closed_form(self, steps: int, rho: float) -> None:
        closed = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
        assert worth(steps, rho, 0.0) == pytest.approx(closed, rel=1e-12)

    @pytest.mark.parametrize("steps", [1, 2, 30])
    @pytest.mark.parametrize("alpha", [0.001, 0.2])
    def test_with_a_proximal_term_it_is_the_papers_closed_form(self, steps: int, alpha: float) -> None:
        assert worth(steps, 0.0, alpha) == pytest.approx((1 - (1 - alpha) ** steps) / alpha, rel=1e-9)

    @given(st.integers(1, 12), st.floats(0, 0.95), st.floats(0, 0.5))
    def test_with_both_it_is_the_sum_of_what_each_gradient_adds(
        self, steps: int, momentum: float, pull: float
    ) -> None:
        assert worth(steps, momentum, pull) == pytest.approx(walked(steps, momentum, pull), rel=1e-9)

    def test_a_number_of_steps_that_nobody_takes_costs_nothing(self) -> None:
        assert worth(2**52, 0.9, 0.0) == pytest.approx(2**52 * 10, rel=1e-6)

    def test_a_mean_that_does_not_ask_for_it_is_not_given_what_overflows(self) -> None:
        """A pull above 2, which FedNova refuses: it grows without bound."""
        strategy = Strategy(objective=Proximal(mu=3.0))
        with np.errstate(all="raise"):
            assert strategy.share(Training(learning_rate=1.0), 100, 5000, None).worth == 1.0


class TestFedNova:
    """Wang et al. 2020, Algorithm 1 and equation 6."""

    UNEQUAL = (2, 10, 40)

    def test_is_the_papers_pseudocode(self) -> None:
        data, x, expected = clients_of(), np.zeros(4), []
        total = sum(len(y) for _, y in data)
        for _ in range(5):
            p = [len(y) / total for _, y in data]
            d = []
            for (features, targets), steps in zip(data, self.UNEQUAL, strict=True):
                y = x
                for _ in range(steps):
                    y = y - RATE * slope(y, features, targets)
                d.append((x - y) / (RATE * steps))
            tau = sum(pi * steps for pi, steps in zip(p, self.UNEQUAL, strict=True))
            x = x - tau * RATE * sum(pi * di for pi, di in zip(p, d, strict=True))
            expected.append(x)
        ours = federate(Strategy(aggregation=NormalizedMean()), data, 5, self.UNEQUAL)
        np.testing.assert_allclose(ours, expected, rtol=1e-10)

    @pytest.mark.parametrize("momentum", [0.0, 0.8])
    def test_removes_the_objective_inconsistency_that_fedavg_has(self, momentum: float) -> None:
        """Theorem 1: FedAvg with unequal steps finds the optimum of another mean of the clients' losses."""
        data, rounds = clients_of(spread=3.0, sizes=(20, 20, 20)), round(600 * (1 - momentum))
        far, near = (
            np.linalg.norm(
                federate(Strategy(aggregation=mean), data, rounds, self.UNEQUAL, RATE / 10, momentum)[-1]
                - optimum(data)
            )
            for mean in (WeightedMean(), NormalizedMean())
        )
        assert far > 0.3
        assert near < 0.2 * far

    @pytest.mark.parametrize("objective", [Plain(), Proximal(mu=0.5)])
    def test_with_equal_steps_is_fedavg(self, objective: Plain) -> None:
        data = clients_of()
        averaged, normalized = (
            federate(Strategy(objective=objective, aggregation=mean), data, 5, 7, momentum=0.5)
            for mean in (WeightedMean(), NormalizedMean())
        )
        np.testing.assert_allclose(normalized, averaged, rtol=1e-12)

    def test_batch_statistics_are_averaged_whatever_the_steps(self) -> None:
        shares = [Share(10, 1, worth=1.0), Share(30, 9, worth=9.0)]
        assert NormalizedMean().averaging(shares).tolist() == [0.25, 0.75]
        assert NormalizedMean().coefficients(shares).tolist() == pytest.approx([1.75, 0.75 * 7 / 9])

    def test_an_update_without_a_step_fails_the_run_by_name(self) -> None:
        with pytest.raises(RunFailed, match="no local step"):
            NormalizedMean().coefficients([Share(10, 0, worth=0.0)])

    @pytest.mark.parametrize("momentum", [0.0, 0.5, 0.8, 0.9, 0.92, 0.95, 0.98, 0.99, 0.999])
    def test_whatever_local_training_is_allowed_any_number_of_steps_is_worth_something(
        self, momentum: float
    ) -> None:
        allowed = min(1.0, 10 * (1 - momentum))
        for share in (0.1, 0.3, 0.6, 0.8, 0.9, 0.999):
            objective = Proximal(mu=share * allowed)
            strategy = Strategy(objective=objective, aggregation=NormalizedMean())
            strategy.check(Training(learning_rate=1.0, momentum=momentum))
            assert min(worth(steps, momentum, objective.pull) for steps in range(1, 250)) > 0.15

    @pytest.mark.parametrize(
        ("training", "objective", "said"),
        [
            ({"optimizer": "adam"}, {"name": "plain"}, 'allowed with it: training.optimizer = "sgd"'),
            (
                {"learning_rate": 0.5},
                {"name": "proximal", "mu": 2.0},
                "strategy.objective.mu: found 2 .*mu below 2",
            ),
            (
                {"learning_rate": 0.1, "momentum": 0.99},
                {"name": "proximal", "mu": 9.0},
                "strategy.objective.mu: found 9 .*momentum = 0.99.*mu below 1",
            ),
        ],
    )
    def test_local_training_that_it_is_not_defined_for_is_refused(
        self, training: dict[str, object], objective: dict[str, object], said: str
    ) -> None:
        strategy = {"aggregation": {"name": "normalized-mean"}, "objective": objective}
        with pytest.raises(InvalidExperiment, match=said):
            parse({"name": "x", "task": "mnist", "training": training, "strategy": strategy})


class TestScaffoldWithAPartOfTheClients:
    """Karimireddy et al. 2020, Algorithm 1, option II, with a cohort S of N clients a round."""

    @staticmethod
    def cohort(number: int) -> list[int]:
        return sorted(np.random.default_rng(number).permutation(4)[:2].tolist())

    def test_is_the_papers_pseudocode(self) -> None:
        data, steps = clients_of(sizes=(20, 20, 20, 20)), 4
        x, c, ci, expected = np.zeros(4), np.zeros(4), [np.zeros(4)] * 4, []
        for number in range(1, 9):
            dy, dc = [], []
            for i in self.cohort(number):
                y = x
                for _ in range(steps):
                    y = y - RATE * (slope(y, *data[i]) - ci[i] + c)
                plus = ci[i] - c + (x - y) / (steps * RATE)
                dy.append(y - x)
                dc.append(plus - ci[i])
                ci[i] = plus
            x = x + np.mean(dy, axis=0)
            c = c + len(dc) / 4 * np.mean(dc, axis=0)
            expected.append(x)
        scaffold = Strategy(objective=ControlVariates(), aggregation=UniformMean())
        ours = federate(scaffold, data, 8, steps, cohort=self.cohort)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)  # states are float32

    def test_settles_at_the_optimum_where_fedavg_goes_to_and_fro(self) -> None:
        data = clients_of(spread=3.0, sizes=(20, 20, 20, 20))
        last = {}
        for objective in (Plain(), ControlVariates()):
            strategy = Strategy(objective=objective, aggregation=UniformMean())
            rounds = federate(strategy, data, 400, 10, cohort=self.cohort)[-50:]
            last[objective.name] = max(np.linalg.norm(x - optimum(data)) for x in rounds)
        assert last["plain"] > 1.0
        assert last["control-variates"] < 0.05

    def test_the_control_variates_are_the_clients_gradients_in_the_end(self) -> None:
        """At the optimum cᵢ = ∇fᵢ(x*), and c, their mean, is zero: that is what corrects the drift."""
        data = clients_of(spread=3.0, sizes=(20, 20, 20))
        best, part = optimum(data).astype(np.float32), ControlVariates()
        gradients = [slope(best, *client).astype(np.float32) for client in data]
        mean = np.mean(gradients, axis=0)
        np.testing.assert_allclose(mean, 0, atol=1e-5)
        for client, kept in zip(data, gradients, strict=True):
            direction = part.gradient(slope(best, *client), best, best, mean, kept)
            np.testing.assert_allclose(direction, 0, atol=1e-5)  # no client moves


class TestFedProx:
    """Li et al. 2020."""

    def test_a_large_mu_pulls_updates_towards_nothing(self) -> None:
        """The local optimum of F + mu/2·‖w − w₀‖² is ∇F/mu away for a large mu."""
        data = clients_of(spread=3.0)
        lengths = [
            np.linalg.norm(federate(Strategy(objective=Proximal(mu=mu)), data, 1, 200, 0.5 / (mu + 20))[0])
            for mu in (0.01, 1.0, 100.0, 10_000.0)
        ]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[3] < 1e-3 * lengths[0]
        gradient = sum(len(y) * slope(np.zeros(4), x, y) for x, y in data) / 60
        assert lengths[3] == pytest.approx(np.linalg.norm(gradient) / 10_000, rel=0.02)

    def test_the_first_local_step_is_fedavgs(self) -> None:
        data = clients_of()
        ours = federate(Strategy(objective=Proximal(mu=5.0)), data, 3, 1)
        np.testing.assert_allclose(ours, federate(Strategy(), data, 3, 1), rtol=1e-12)
