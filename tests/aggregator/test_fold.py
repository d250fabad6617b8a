"""The block-wise fold against plain numpy over whole arrays."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aggregator import commit
from aggregator.events import Close
from aggregator.fold import fold, server_groups, stored_groups
from aggregator.verify import verify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roundtable.codec import as_decoded, decode, encode
from roundtable.errors import CorruptStore, RunFailed, StorageFull
from roundtable.layout import pack_header
from roundtable.weights import ArraySpec, Manifest, Weights

from tests.aggregator.on_disk import MANIFEST, RUN, DiskRun, arrays_like

EXAMPLES = np.array([10, 20, 30, 40], np.float64)


def mean(updates: list[Weights], position: int, coefficients: np.ndarray) -> np.ndarray:
    stacked = np.stack([update.arrays[position].astype(np.float64) for update in updates])
    return np.tensordot(coefficients, stacked, 1)


def reference(
    weights: Weights,
    updates: list[Weights],
    coefficients: np.ndarray,
    rate: float,
    velocity: list[Any],
    momentum: float,
) -> list[np.ndarray]:
    """One round of FedAvgM on whole arrays; `velocity` is updated in place."""
    after = []
    for position, (spec, before) in enumerate(zip(weights.manifest.arrays, weights.arrays, strict=True)):
        change = mean(updates, position, coefficients)
        if spec.trainable:
            velocity[position] = momentum * velocity[position] + change
            after.append((before + rate * velocity[position]).astype(spec.dtype))
        elif spec.dtype.startswith("float"):
            after.append((before + change).astype(spec.dtype))
        else:
            after.append((before.astype(np.int64) + np.rint(change).astype(np.int64)).astype(spec.dtype))
    return after


@pytest.mark.parametrize("wire", ["float32", "float16"])
@pytest.mark.parametrize(
    ("aggregation", "coefficients"),
    [("weighted-mean", EXAMPLES / EXAMPLES.sum()), ("uniform-mean", np.full(4, 0.25))],
)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_three_rounds_equal_numpy_over_whole_arrays(
    tmp_path: Path, wire: str, aggregation: str, coefficients: np.ndarray, momentum: float
) -> None:
    run = DiskRun(
        tmp_path,
        wire=wire,
        strategy={
            "aggregation": {"name": aggregation},
            "server": {"learning_rate": 0.7, "momentum": momentum},
        },
    )
    run.initialize()
    weights = arrays_like(MANIFEST, [0])
    velocity: list[Any] = [0.0] * len(MANIFEST.arrays)
    for number in (1, 2, 3):
        run.run_round(number)
        updates = [
            as_decoded(run.update(number, client)["update"], run.experiment.wire) for client in range(4)
        ]
        weights = Weights.of(MANIFEST, reference(weights, updates, coefficients, 0.7, velocity, momentum))
        for spec, found, expected in zip(MANIFEST.arrays, run.weights().arrays, weights.arrays, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6, err_msg=spec.name)
        weights = run.weights()  # rounding is not what is compared, nor should it add up


def test_batch_statistics_never_go_through_the_server_optimizer(tmp_path: Path) -> None:
    run = DiskRun(tmp_path, strategy={"server": {"learning_rate": 0.001, "momentum": 0.9}})
    run.initialize()
    before = run.weights().arrays[2].copy()
    run.run_round(1)
    change = mean([run.update(1, client)["update"] for client in range(4)], 2, EXAMPLES / 100)
    np.testing.assert_allclose(run.weights().arrays[2], before + change, rtol=1e-6)


ADAM = {"name": "adam", "learning_rate": 0.3, "beta_1": 0.8, "beta_2": 0.9, "tau": 0.01}


def test_fedadam_equals_numpy_over_whole_arrays_and_leaves_statistics_alone(tmp_path: Path) -> None:
    run = DiskRun(tmp_path, strategy={"server": ADAM})
    run.initialize()
    weights = [np.asarray(array, np.float64) for array in run.weights().arrays]
    first: list[Any] = [0.0] * len(weights)
    second: list[Any] = [0.01**2] * len(weights)
    for number in (1, 2, 3):
        run.run_round(number)
        updates = [run.update(number, client)["update"] for client in range(4)]
        for position, spec in enumerate(MANIFEST.arrays):
            change = mean(updates, position, EXAMPLES / 100)
            if spec.trainable:
                first[position] = 0.8 * first[position] + 0.2 * change
                second[position] = 0.9 * second[position] + 0.1 * change**2
                change = 0.3 * first[position] / (np.sqrt(second[position]) + 0.01)
            elif spec.dtype != "float32":
                change = np.rint(change)
            weights[position] = weights[position] + change
            np.testing.assert_allclose(
                run.weights().arrays[position], weights[position], rtol=1e-4, atol=1e-5, err_msg=spec.name
            )


def test_fednova_normalizes_what_is_trained_and_averages_the_rest(tmp_path: Path) -> None:
    run = DiskRun(tmp_path, strategy={"aggregation": {"name": "normalized-mean"}})
    run.initialize()
    before = run.weights()
    run.run_round(1)
    updates = [run.update(1, client)["update"] for client in range(4)]
    part, steps = EXAMPLES / 100, np.array([1, 2, 3, 4])
    normalized = part * (part @ steps) / steps
    for position, coefficients in ((0, normalized), (1, normalized), (2, part), (5, normalized)):
        expected = before.arrays[position] + mean(updates, position, coefficients)
        np.testing.assert_allclose(run.weights().arrays[position], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("server", [ADAM, {**ADAM, "name": "yogi"}, {"name": "adagrad"}])
def test_an_adaptive_server_killed_between_any_two_rounds_goes_on_as_if_nothing_had_been(
    tmp_path: Path, server: dict[str, Any]
) -> None:
    """Its state is a file that the ledger names, as momentum is; `verify` folds each round again."""
    heads = []
    for place, kills in (("straight", False), ("killed", True)):
        (tmp_path / place).mkdir()
        run = DiskRun(tmp_path / place, strategy={"server": server}, keep={"updates": "all"})
        run.initialize()
        for number in (1, 2, 3):
            run.begin(number, range(4))
            for client in range(4):
                run.accept(number, client)
                if kills and client == 2:
                    run.reopen()
            heads.append(run.close(number, range(4)).entry_hash)
            if kills:
                run.reopen()
        report = verify(tmp_path / place, RUN)
        assert (report.problems, report.folded) == ([], [1, 2, 3])
    assert heads[:3] == heads[3:]


def test_a_counter_may_go_down_and_an_unsigned_one_too(tmp_path: Path) -> None:
    run = DiskRun(tmp_path, clients={"count": 1})
    run.initialize()
    before = [array.copy() for array in run.weights().arrays]
    run.begin(1, [0])
    update = run.update(1, 0)["update"]
    arrays = list(update.arrays)
    arrays[3] = np.asarray(-4, np.int64)
    arrays[4] = np.asarray([255, 1, 0], np.uint8)  # −1, 1, 0 as unsigned differences come out
    run.accept(1, 0, {"update": Weights.of(MANIFEST, arrays)})
    run.close(1, [0])
    assert run.weights().arrays[3] == before[3] - 4
    assert (run.weights().arrays[4] == before[4] + np.array([255, 1, 0], np.uint8)).all()


def test_control_variates_follow_scaffold(tmp_path: Path) -> None:
    """c ← c + |S|/N · mean(Δcᵢ), and each participant's cᵢ is kept (Karimireddy et al. 2020, lines 16–17)."""
    run = DiskRun(tmp_path, strategy={"objective": {"name": "control-variates"}})
    run.initialize()
    trained = MANIFEST.trainable
    first = run.store.last_commit(RUN)
    assert first is not None
    message = {"weights": MANIFEST, "broadcast": trained}
    start = stored_groups(run.files.message(first.message), message)
    assert all((array == 0).all() for array in start["broadcast"].arrays)

    control = [np.zeros(spec.shape) for spec in trained.arrays]
    for number, cohort in ((1, (0, 1)), (2, (1, 3))):
        run.run_round(number, cohort)
        sent = [run.update(number, client) for client in cohort]
        control = [
            before + 2 / 4 * mean([update["broadcast"] for update in sent], position, np.full(2, 0.5))
            for position, before in enumerate(control)
        ]
        last = run.store.last_commit(RUN)
        assert last is not None
        broadcast = stored_groups(run.files.message(last.message), message)["broadcast"]
        for found, expected in zip(broadcast.arrays, control, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    states = run.store.client_states(RUN)
    assert set(states) == {0, 1, 3}
    for client, number in ((0, 1), (1, 2), (3, 2)):
        kept = stored_groups(run.files.state(states[client]), {"state": trained})["state"]
        for found, expected in zip(kept.arrays, run.update(number, client)["state"].arrays, strict=True):
            np.testing.assert_array_equal(found, expected)
    assert len(run.files.kept("states")) == 3  # client 1's state of round 1 is gone


def test_with_a_float16_wire_clients_fetch_float16_and_the_checkpoint_stays_float32(tmp_path: Path) -> None:
    run = DiskRun(tmp_path, wire="float16")
    run.initialize()
    run.run_round(1)
    last = run.store.last_commit(RUN)
    assert last is not None
    assert last.message != last.weights
    data = run.files.message(last.message).read_bytes()
    assert len(data) < run.files.weights(last.weights).stat().st_size
    seen = decode(data, {"weights": MANIFEST}, wire="float16")
    assert seen.digest == last.message
    for found, exact in zip(
        seen.groups["weights"].arrays, as_decoded(run.weights(), "float16").arrays, strict=True
    ):
        np.testing.assert_array_equal(found, exact)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(4)),
    block=st.integers(1, 60),
    momentum=st.sampled_from([0.0, 0.5]),
)
def test_arrival_order_and_block_size_do_not_change_a_bit(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], block: int, momentum: float
) -> None:
    strategy = {
        "server": {"momentum": momentum, "learning_rate": 0.3},
        "objective": {"name": "control-variates"},
    }
    run = DiskRun(tmp_path_factory.mktemp("fold"), strategy=strategy)
    run.initialize()
    run.run_round(1)
    run.begin(2, range(4))
    for client in order:
        run.accept(2, client)
    plan = commit.plan_round(run.store, run.files, run.store.run(RUN), Close(2, 1, (0, 1, 2, 3), (), 0)).plan
    assert plan is not None
    folded = fold(run.files, plan, block)
    assert folded == fold(run.files, plan)

    other = DiskRun(tmp_path_factory.mktemp("fold"), strategy=strategy)
    other.initialize()
    other.run_round(1)
    assert other.run_round(2).weights_hash == folded.weights


def test_an_update_whose_arrays_come_in_another_file_order_folds_the_same(tmp_path: Path) -> None:
    """Our files lie in manifest order and are folded in long runs; a peer's need not."""
    straight, shuffled = DiskRun(tmp_path / "a"), DiskRun(tmp_path / "b")
    for run in (straight, shuffled):
        run.initialize()
        run.begin(1, [0, 1])
        run.accept(1, 1)
    straight.accept(1, 0)
    update = shuffled.update(1, 0)["update"]
    accepted = straight.store.updates(RUN, 1, 1)[0]
    place = shuffled.files.spool.path((1, 1), 0, accepted.digest)
    names = [(f"update/{at:04d}/{spec.name}", spec) for at, spec in enumerate(MANIFEST.arrays)]
    codes = {"float32": "F32", "int64": "I64", "uint8": "U8"}
    backwards = list(reversed(list(zip(names, update.arrays, strict=True))))
    header = pack_header([(name, codes[spec.dtype], spec.shape) for (name, spec), _ in backwards], {})
    place.write_bytes(header + b"".join(array.tobytes() for _, array in backwards))
    shuffled.store.accept_update(RUN, accepted)
    assert shuffled.close(1, [0, 1]).weights_hash == straight.close(1, [0, 1]).weights_hash


def test_a_mean_that_would_not_be_finite_fails_the_run_and_leaves_nothing(tmp_path: Path) -> None:
    run = DiskRun(tmp_path, strategy={"server": {"learning_rate": 1e30}})
    run.initialize()
    run.begin(1, [0])
    run.accept(1, 0, {"update": arrays_like(MANIFEST, [1], 1e20)})
    before = run.everything()
    with pytest.raises(RunFailed, match=r"round 1.*not finite.*learning_rate"):
        run.close(1, [0])
    assert run.everything() == before


@pytest.mark.parametrize("nth", [0, 1, 2, 3, 5, 8])
def test_a_disk_that_fills_up_in_mid_fold_leaves_nothing_and_the_repeat_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    strategy = {"server": {"momentum": 0.9}, "objective": {"name": "control-variates"}}
    run, undisturbed = DiskRun(tmp_path / "a", strategy=strategy), DiskRun(tmp_path / "b", strategy=strategy)
    for each in (run, undisturbed):
        each.initialize()
        each.begin(1, range(4))
        for client in range(4):
            each.accept(1, client)
    before = run.everything()
    real, calls = os.pwrite, iter(range(1000))

    def full(file: int, data: Any, offset: int) -> int:
        if next(calls) == nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StorageFull, match="no space left"):
            run.close(1, range(4))
    assert not [name for name in run.everything() if name.endswith(".part")]
    assert before <= run.everything()
    assert run.store.last_commit(RUN).round == 0  # type: ignore[union-attr]
    assert run.close(1, range(4)).entry_hash == undisturbed.close(1, range(4)).entry_hash


def test_a_short_write_is_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, halting = DiskRun(tmp_path / "a"), DiskRun(tmp_path / "b")
    straight.initialize()
    expected = straight.run_round(1).weights_hash
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: real(file, data[:3], offset))
    halting.initialize()
    assert halting.run_round(1).weights_hash == expected


@pytest.mark.parametrize("damage", ["missing", "cut short", "another shape"])
def test_inputs_that_changed_on_disk_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    run = DiskRun(tmp_path)
    run.initialize()
    run.begin(1, [0])
    accepted = run.accept(1, 0)
    path = run.files.spool.path((1, 1), 0, accepted.digest)
    if damage == "missing":
        path.unlink()
    elif damage == "cut short":
        os.truncate(path, path.stat().st_size - 1)
    else:
        other = encode({"update": arrays_like(Manifest((ArraySpec("kernel", (2,)),)), [1])})
        path.write_bytes(b"".join(bytes(buffer) for buffer in other.buffers))
    with pytest.raises(CorruptStore, match=f"{accepted.digest}.*(missing|damaged).*start the run anew"):
        run.close(1, [0])


def test_a_fold_holds_blocks_and_not_models_in_memory(tmp_path: Path) -> None:
    """tracemalloc sees numpy's allocations: a fold of 6 updates of 4 MB allocates less than one of them."""
    import tracemalloc

    manifest = Manifest((ArraySpec("kernel", (1_000_000,)),))
    run = DiskRun(tmp_path, manifest, strategy={"server": {"momentum": 0.9}}, clients={"count": 6})
    run.initialize()
    run.begin(1, range(6))
    for client in range(6):
        run.accept(1, client)
    closing = commit.plan_round(run.store, run.files, run.store.run(RUN), Close(1, 1, tuple(range(6)), (), 0))
    tracemalloc.start()
    try:
        commit.carry_out(run.files, closing)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < manifest.nbytes / 1.5


def test_the_server_keeps_what_its_strategy_needs(tmp_path: Path) -> None:
    plain = DiskRun(tmp_path / "a")
    assert server_groups(MANIFEST, plain.experiment.strategy) == {}
    plain.initialize()
    plain.run_round(1)
    assert plain.files.kept("server") == []
    momentum = DiskRun(tmp_path / "b", strategy={"server": {"momentum": 0.9}})
    assert list(server_groups(MANIFEST, momentum.experiment.strategy)) == ["velocity"]


def test_a_plan_whose_slots_are_another_models_is_refused(tmp_path: Path) -> None:
    run = DiskRun(tmp_path, strategy={"server": {"momentum": 0.9}})
    run.initialize()
    run.run_round(1)
    run.begin(2, [0])
    run.accept(2, 0)
    closing = commit.plan_round(run.store, run.files, run.store.run(RUN), Close(2, 1, (0,), (), 0))
    assert closing.plan is not None
    wrong = replace(closing.plan, server=closing.plan.weights)
    with pytest.raises(CorruptStore, match="velocity"):
        fold(run.files, wrong)
