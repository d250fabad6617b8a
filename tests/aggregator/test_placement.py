"""Clients are spread evenly, stay where they are, and move only as much as evenness asks."""

from collections import Counter

from aggregator.placement import place, spread
from hypothesis import given
from hypothesis import strategies as st

WORKERS = st.lists(st.sampled_from([f"w{n}" for n in range(1, 13)]), unique=True, min_size=1, max_size=8)
CLIENTS = st.sets(st.integers(0, 40))
HOMES = st.dictionaries(st.integers(0, 40), st.sampled_from([f"w{n}" for n in range(1, 13)]))


def loads(clients, homes, workers):
    return {worker: sum(homes.get(client) == worker for client in clients) for worker in workers}


@given(CLIENTS, HOMES, WORKERS)
def test_no_worker_has_two_more_of_the_cohort_than_another(clients, homes, workers):
    counts = loads(clients, place(clients, homes, workers), workers).values()
    assert sum(counts) == len(clients)
    assert max(counts) - min(counts) <= 1


@given(CLIENTS, HOMES, WORKERS)
def test_whoever_is_not_placed_stays(clients, homes, workers):
    after = place(clients, homes, workers)
    assert {c: w for c, w in after.items() if c not in clients} == {
        c: w for c, w in homes.items() if c not in clients
    }


@given(CLIENTS, HOMES, WORKERS)
def test_placing_again_moves_nobody(clients, homes, workers):
    once = place(clients, homes, workers)
    assert place(clients, once, workers) == once


@given(CLIENTS, HOMES, WORKERS)
def test_nobody_moves_when_the_load_is_even_already(clients, homes, workers):
    counts = loads(clients, homes, workers).values()
    if sum(counts) == len(clients) and max(counts) - min(counts) <= 1:
        assert place(clients, homes, workers) == homes


@given(CLIENTS, HOMES, WORKERS)
def test_as_many_stay_as_evenness_allows(clients, homes, workers):
    """Reference: `least` can stay with each worker, and one more with `extra` of those that have more."""
    after = place(clients, homes, workers)
    stayed = sum(homes.get(client) == after[client] for client in clients)
    own = loads(clients, homes, workers)
    least, extra = divmod(len(clients), len(workers))
    most = sum(min(count, least) for count in own.values())
    most += min(extra, sum(count > least for count in own.values()))
    assert stayed == most


@given(CLIENTS, HOMES, WORKERS, st.randoms())
def test_the_order_of_the_arguments_does_not_matter(clients, homes, workers, random):
    shuffled = list(clients)
    random.shuffle(shuffled)
    items = list(homes.items())
    random.shuffle(items)
    assert place(shuffled, dict(items), workers[::-1]) == place(clients, homes, workers)


@given(CLIENTS, HOMES, WORKERS, st.sets(st.integers(0, 40)))
def test_pinned_clients_never_move(clients, homes, workers, pinned):
    after = place(clients, homes, workers, pinned)
    assert {c: after.get(c) for c in pinned} == {c: homes.get(c) for c in pinned}
    counts = loads(clients - pinned, after, workers).values()
    assert max(counts) - min(counts) <= 1


@given(CLIENTS, HOMES)
def test_without_workers_everybody_stays(clients, homes):
    assert place(clients, homes, []) == homes


def test_ten_clients_on_five_workers_are_two_each_and_a_sixth_takes_one_or_two():
    five = place(range(10), {}, ["w1", "w2", "w3", "w4", "w5"])
    assert Counter(five.values()) == {f"w{n}": 2 for n in range(1, 6)}
    six = place(range(10), five, ["w1", "w2", "w3", "w4", "w5", "w6"])
    assert [six[client] for client in range(10) if six[client] != five[client]] == ["w6"]


def test_when_a_worker_is_gone_only_its_clients_move():
    five = place(range(10), {}, ["w1", "w2", "w3", "w4", "w5"])
    four = place(range(10), five, ["w1", "w2", "w3", "w4"])
    assert {client for client in range(10) if four[client] != five[client]} == {
        client for client in range(10) if five[client] == "w5"
    }


@given(
    st.lists(st.integers(0, 40), unique=True),
    st.dictionaries(WORKERS.map(min), st.integers(0, 5), min_size=1),
)
def test_spreading_fills_up_the_least_loaded(clients, before):
    chosen = spread(clients, before)
    assert list(chosen) == clients
    after = Counter(before)
    after.update(chosen.values())
    receivers = set(chosen.values())
    assert all(after[worker] <= min(after[other] for other in before) + 1 for worker in receivers)
