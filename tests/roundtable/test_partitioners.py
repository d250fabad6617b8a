"""Every way to spread a data set is seeded, leaves no client without, and does what its paper says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from roundtable.errors import InvalidExperiment, InvalidTask
from roundtable.partitioners import (
    Contiguous,
    Dirichlet,
    FixedSize,
    Iid,
    Partitioner,
    Pinned,
    QuantitySkew,
    Shards,
)
from roundtable.types import Int64

LABELS = np.random.default_rng(7).permutation(np.repeat(np.arange(10), 600))  # [6000], balanced


@st.composite
def splits(draw: st.DrawFn) -> tuple[Partitioner, Int64, int, int]:
    """A partitioner with data that suffice for it: (partitioner, labels, clients, seed)."""
    clients = draw(st.integers(1, 12))
    total = draw(st.integers(clients * 5, 400))
    labels = np.array(
        draw(st.lists(st.integers(0, draw(st.integers(0, 9))), min_size=total, max_size=total)), np.int64
    )
    minimum = st.integers(1, 5)
    partitioner = draw(
        st.one_of(
            st.just(Iid()),
            st.just(Contiguous()),
            st.builds(Shards, shards_per_client=st.integers(1, 5)),
            st.builds(Dirichlet, alpha=st.floats(0.3, 1e6), min_size=st.just(1)),
            st.builds(QuantitySkew, sigma=st.none() | st.floats(0, 10), min_size=minimum),
            st.builds(
                QuantitySkew,
                distribution=st.just("dirichlet"),
                alpha=st.none() | st.floats(1e-3, 1e6),
                min_size=minimum,
            ),
            st.builds(FixedSize, size=st.integers(1, total // clients)),
            st.builds(FixedSize, size=st.integers(1, total), overlap=st.just(True)),
        )
    )
    return partitioner, labels, clients, draw(st.integers(0, 2**32 - 1))


class TestEveryPartitioner:
    @given(splits())
    @settings(max_examples=150, deadline=None)
    def test_gives_each_client_sorted_examples_of_its_own(
        self, split: tuple[Partitioner, Int64, int, int]
    ) -> None:
        partitioner, labels, clients, seed = split
        try:
            parts = partitioner.split(labels, clients, seed)
        except InvalidExperiment:
            assert isinstance(
                partitioner, Dirichlet
            )  # the one that may find no draw; TestDirichlet says when
            return
        assert len(parts) == clients
        for part in parts:
            assert part.dtype == np.int64
            assert part.ndim == 1
            assert len(part) >= getattr(partitioner, "min_size", 1)
            assert np.all(np.diff(part) > 0)
            assert part[0] >= 0
            assert part[-1] < len(labels)
        everything = np.concatenate(parts)
        if isinstance(partitioner, FixedSize):
            assert [len(part) for part in parts] == [partitioner.size] * clients
            if not partitioner.overlap:
                assert len(np.unique(everything)) == len(everything)
        else:
            assert np.array_equal(np.sort(everything), np.arange(len(labels)))

    @given(splits())
    @settings(max_examples=50, deadline=None)
    def test_is_a_function_of_labels_clients_and_seed_alone(
        self, split: tuple[Partitioner, Int64, int, int]
    ) -> None:
        partitioner, labels, clients, seed = split
        try:
            once = partitioner.split(labels, clients, seed)
        except InvalidExperiment:
            return
        np.random.seed(3)
        again = partitioner.split(labels.copy(), clients, seed)
        assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))

    @pytest.mark.parametrize(
        "partitioner",
        [
            Iid(),
            Shards(),
            Dirichlet(),
            QuantitySkew(),
            FixedSize(size=100),
            FixedSize(size=100, overlap=True),
        ],
        ids=lambda partitioner: partitioner.kind,
    )
    def test_another_seed_gives_other_partitions(self, partitioner: Partitioner) -> None:
        one, other = (partitioner.split(LABELS, 10, seed) for seed in (1, 2))
        assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    @pytest.mark.parametrize(
        "partitioner",
        [
            Iid(),
            Contiguous(),
            Shards(shards_per_client=1),
            Dirichlet(min_size=1),
            QuantitySkew(min_size=1),
            FixedSize(size=1),
        ],
        ids=lambda partitioner: partitioner.kind,
    )
    def test_more_clients_than_examples_are_refused_with_what_would_do(
        self, partitioner: Partitioner
    ) -> None:
        with pytest.raises(InvalidExperiment, match=r"(clients.count|partition.size): found .*5"):
            partitioner.split(np.zeros(5, np.int64), 6, 1)

    def test_labels_that_are_no_list_are_the_tasks_fault(self) -> None:
        with pytest.raises(InvalidTask, match=r"\(4, 10\)"):
            Iid().split(np.zeros((4, 10)), 2, 1)

    @pytest.mark.parametrize("labels", [LABELS.astype(np.uint8), LABELS.astype(str), LABELS * -1.0])
    def test_labels_may_be_of_any_sortable_kind(self, labels: np.ndarray) -> None:
        assert sum(map(len, Dirichlet().split(labels, 5, 1))) == 6000
        assert sum(map(len, Shards().split(labels, 5, 1))) == 6000

    @pytest.mark.parametrize(
        "table",
        [
            {"kind": "iid"},
            {"kind": "contiguous"},
            {"kind": "shards", "shards_per_client": 3},
            {"kind": "dirichlet", "alpha": 0.1, "min_size": 1},
            {"kind": "quantity", "sigma": 0.5},
            {"kind": "quantity", "distribution": "dirichlet", "alpha": 2.0},
            {"kind": "fixed", "size": 840},
            {"kind": "pinned"},
        ],
    )
    def test_is_chosen_by_kind_and_survives_json(self, table: dict[str, object]) -> None:
        adapter = TypeAdapter[Partitioner](Partitioner)
        partitioner = adapter.validate_python(table)
        assert {key: getattr(partitioner, key) for key in table} == table
        assert adapter.validate_json(adapter.dump_json(partitioner)) == partitioner


class TestIid:
    def test_sizes_differ_by_one_at_most_and_labels_are_spread(self) -> None:
        parts = Iid().split(LABELS, 7, 1)
        assert {len(part) for part in parts} == {857, 858}
        for part in parts:
            assert np.bincount(LABELS[part], minlength=10).min() > 50


class TestContiguous:
    def test_keeps_the_files_order(self) -> None:
        parts = Contiguous().split(LABELS, 3, 1)
        assert [part.tolist() for part in parts] == [
            list(range(2000)),
            list(range(2000, 4000)),
            list(range(4000, 6000)),
        ]


class TestShards:
    def test_two_shards_give_two_labels_at_most_where_labels_fill_whole_shards(self) -> None:
        parts = Shards(shards_per_client=2).split(LABELS, 100, 1)  # 200 shards of 30: 20 a label
        assert {len(part) for part in parts} == {60}
        assert {len(np.unique(LABELS[part])) for part in parts} == {1, 2}

    def test_a_shard_that_straddles_a_boundary_adds_a_label(self) -> None:
        parts = Shards(shards_per_client=2).split(LABELS[:-7], 90, 1)
        assert max(len(np.unique(LABELS[part])) for part in parts) in (3, 4)

    def test_too_few_examples_for_the_shards_are_refused(self) -> None:
        asked = "partition.shards_per_client: found 4 for 3 clients, 12 of 10 examples"
        with pytest.raises(
            InvalidExperiment, match=f"^{asked}; allowed: at most 3, or clients.count at most 2$"
        ):
            Shards(shards_per_client=4).split(np.zeros(10), 3, 1)

    @pytest.mark.parametrize(
        ("partitioner", "field"),
        [
            (Shards(shards_per_client=2000), "shards_per_client"),
            (Dirichlet(min_size=2000), "min_size"),
            (QuantitySkew(min_size=2000), "min_size"),
        ],
        ids=["shards", "dirichlet", "quantity"],
    )
    def test_what_is_too_much_for_any_client_is_the_field_at_fault(
        self, partitioner: Partitioner, field: str
    ) -> None:
        with pytest.raises(
            InvalidExperiment, match=rf"^partition.{field}: found 2000 for 10 .*; allowed: at most 143$"
        ):
            partitioner.split(np.zeros(1438), 10, 1)


def skew(parts: list[Int64]) -> float:
    """The mean over clients of the share of its commonest label: 0.1 for IID, 1 for one label each."""
    return float(np.mean([np.bincount(LABELS[part]).max() / len(part) for part in parts]))


class TestDirichlet:
    def test_a_large_alpha_is_nearly_iid(self) -> None:
        parts = Dirichlet(alpha=1e6).split(LABELS, 10, 1)
        assert max(abs(len(part) - 600) for part in parts) <= 15
        for part in parts:
            assert np.abs(np.bincount(LABELS[part], minlength=10) - 60).max() <= 15

    def test_a_smaller_alpha_is_more_skewed(self) -> None:
        skews = [skew(Dirichlet(alpha=alpha).split(LABELS, 10, 1)) for alpha in (100, 1, 0.1, 0.03)]
        assert skews == sorted(skews)
        assert skews[0] < 0.15
        assert skews[-1] > 0.6

    def test_proportions_are_those_of_the_distribution(self) -> None:
        """One client's share of a label is Beta(alpha, alpha·(K−1)): for two clients at alpha 1, uniform."""
        shares = [
            len(Dirichlet(alpha=1, min_size=1).split(np.zeros(2000), 2, seed)[0]) / 2000
            for seed in range(400)
        ]
        deciles = np.histogram(shares, bins=10, range=(0, 1))[0]
        assert 20 <= deciles.min() <= deciles.max() <= 65  # 40 ± 4 standard deviations

    def test_no_client_falls_below_the_minimum(self) -> None:
        for seed in range(20):
            assert min(map(len, Dirichlet(alpha=0.1, min_size=40).split(LABELS, 10, seed))) >= 40

    def test_a_minimum_that_no_draw_reaches_is_refused_in_time_with_a_remedy(self) -> None:
        with pytest.raises(
            InvalidExperiment, match=r"partition.min_size: found 500.*raise a small partition.alpha"
        ):
            Dirichlet(alpha=0.05, min_size=500).split(LABELS, 10, 1)

    def test_an_alpha_so_small_that_draws_underflow_is_refused_or_split(self) -> None:
        try:
            parts = Dirichlet(alpha=1e-9, min_size=1).split(LABELS, 10, 1)
        except InvalidExperiment as error:
            assert "partition.alpha" in str(error)
        else:
            assert sum(map(len, parts)) == 6000


class TestQuantitySkew:
    def test_no_spread_is_equal_sizes(self) -> None:
        assert {len(part) for part in QuantitySkew(sigma=0.0).split(LABELS, 7, 1)} == {857, 858}

    def test_more_spread_is_more_unequal_and_labels_stay_spread(self) -> None:
        spreads = []
        for sigma in (0.1, 1.0, 2.0):
            parts = QuantitySkew(sigma=sigma).split(LABELS, 20, 1)
            spreads.append(np.std([len(part) for part in parts]))
            for part in parts:
                if len(part) >= 100:
                    assert np.bincount(LABELS[part]).max() / len(part) < 0.25
        assert spreads == sorted(spreads)
        assert spreads[-1] > 3 * spreads[0]

    def test_sizes_are_log_normal(self) -> None:
        labels = np.zeros(1_000_000, np.uint8)
        sizes = [len(part) - 1 for part in QuantitySkew(sigma=0.8, min_size=1).split(labels, 500, 1)]
        assert np.std(np.log(sizes)) == pytest.approx(0.8, rel=0.1)

    @pytest.mark.parametrize(
        ("table", "words"),
        [
            ({"alpha": 1.0}, "alpha: found 1.0"),
            ({"distribution": "dirichlet", "sigma": 1.0}, "sigma: found 1.0"),
        ],
    )
    def test_a_parameter_of_the_other_distribution_is_refused(
        self, table: dict[str, object], words: str
    ) -> None:
        with pytest.raises(ValidationError, match=words):
            QuantitySkew.model_validate(table)


class TestFixedSize:
    def test_more_clients_change_nobodys_examples(self) -> None:
        for partitioner in (FixedSize(size=84), FixedSize(size=84, overlap=True)):
            few, many = partitioner.split(LABELS, 10, 1), partitioner.split(LABELS, 50, 1)
            assert all(np.array_equal(a, b) for a, b in zip(few, many, strict=False))

    def test_examples_that_do_not_suffice_are_refused_with_both_ways_out(self) -> None:
        with pytest.raises(
            InvalidExperiment, match=r"8400 of 6000.*at most 600, or partition.overlap = true"
        ):
            FixedSize(size=840).split(LABELS, 10, 1)

    def test_overlapping_draws_share_examples_but_repeat_none(self) -> None:
        parts = FixedSize(size=840, overlap=True).split(LABELS, 10, 1)
        assert all(len(np.unique(part)) == 840 for part in parts)
        assert len(np.unique(np.concatenate(parts))) < 8400

    def test_a_client_cannot_have_more_than_there_is(self) -> None:
        with pytest.raises(InvalidExperiment, match="at most 6000"):
            FixedSize(size=6001, overlap=True).split(LABELS, 1, 1)


class TestPinned:
    def test_has_nothing_to_split(self) -> None:
        with pytest.raises(InvalidExperiment, match="lie on the nodes"):
            Pinned().split(LABELS, 3, 1)
