"""Profiles: what is refused, who has which, and what is drawn for a round."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from roundtable.errors import InvalidExperiment
from roundtable.experiment import Experiment, parse
from roundtable.fleet import Conditions, Fleet, Load, play, transfer
from roundtable.machines import Machines, Profile
from roundtable.weights import ArraySpec, Manifest

PAGE = Path(__file__).parents[2] / "docs" / "experiments.md"
MANIFEST = Manifest((ArraySpec("kernel", (10, 5)), ArraySpec("count", (1,), "int64", trainable=False)))


def experiment(machines: dict[str, Any], **more: Any) -> Experiment:
    return parse({"name": "x", "task": "digits", "machines": machines, **more})


def fleet(profiles: dict[str, Profile], clients: int = 10, seed: int = 1, **machines: Any) -> Fleet:
    return Fleet(Machines(profiles=profiles, **machines), clients, seed)


@pytest.mark.parametrize(
    ("machines", "more", "line"),
    [
        ({"clock": "virtual"}, {}, "machines.samples_per_second: found nothing"),
        ({"clock": "faked"}, {}, 'machines.clock: found "faked"; allowed: "real" or "virtual"'),
        ({"profiles": {"A B": {}}}, {}, "machines.profiles: found the name 'A B'"),
        ({"profiles": {"a": {"latncy_ms": 1}}}, {}, "(did you mean machines.profiles.a.latency_ms?)"),
        (
            {"profiles": {"a": {"latency_ms": 1, "jitter_ms": 2}}},
            {},
            "machines.profiles.a.jitter_ms: found 2",
        ),
        ({"profiles": {"a": {"compute": 0}}}, {}, "machines.profiles.a.compute: found 0"),
        ({"profiles": {"a": {"compute": 1.5}}}, {}, "machines.profiles.a.compute: found 1.5"),
        ({"profiles": {"a": {"availability": 0}}}, {}, "machines.profiles.a.availability: found 0"),
        ({"profiles": {"a": {"up_mbit": 0}}}, {}, "machines.profiles.a.up_mbit: found 0"),
        ({"profiles": {"a": {"fraction": 0.6}, "b": {"fraction": 0.6}}}, {}, "add up to 1.2"),
        ({"profiles": {"a": {"fraction": 0.01}}}, {}, "machines.profiles.a.fraction: found 0.01"),
        ({"profiles": {"a": {"drop": 0.1}}}, {}, "machines.profiles.a.drop: found 0.1, but no deadline"),
        (
            {"profiles": {"a": {"drop": 1, "fraction": 0.5}}},
            {"rounds": {"deadline": 5, "quorum": 0.6}},
            "a round needs 6 updates, and those of 5 of 10 clients always get lost",
        ),
        (
            {"clock": "virtual", "samples_per_second": 1},
            {"partition": {"kind": "pinned"}},
            'machines.clock: found "virtual"',
        ),
    ],
)
def test_what_cannot_work_is_refused_by_its_name(
    machines: dict[str, Any], more: dict[str, Any], line: str
) -> None:
    with pytest.raises(InvalidExperiment) as refusal:
        experiment(machines, **more)
    assert line in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_lost_updates_are_fine_with_a_deadline_and_a_quorum_without_them() -> None:
    experiment({"profiles": {"a": {"drop": 1, "fraction": 0.5}}}, rounds={"deadline": 5, "quorum": 0.5})


def test_profiles_are_part_of_what_identifies_an_experiment_and_their_order_is_not() -> None:
    slow, lossy = {"fraction": 0.5, "compute": 0.5}, {"fraction": 0.2, "latency_ms": 9}
    one = experiment({"profiles": {"slow": slow, "lossy": lossy}})
    other = experiment({"profiles": {"lossy": lossy, "slow": slow}})
    assert one.digest == other.digest != experiment({}).digest
    names = [Fleet(each.machines, 10, 1) for each in (one, other)]
    assert [names[0].name(client) for client in range(10)] == [names[1].name(client) for client in range(10)]


@settings(max_examples=30)
@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=5).filter(lambda shares: sum(shares) <= 1),
    st.integers(1, 300),
    st.integers(0, 9),
)
def test_each_profile_has_its_share_of_the_clients_to_within_one(
    shares: list[float], clients: int, seed: int
) -> None:
    profiles = {f"p{index}": Profile(fraction=share) for index, share in enumerate(shares)}
    found = fleet(profiles, clients, seed)
    names = [found.name(client) for client in range(clients)]
    for name, profile in profiles.items():
        assert abs(names.count(name) - profile.fraction * clients) < 1 + 1e-6
    assert names == [fleet(profiles, clients, seed).name(client) for client in range(clients)]


def test_the_seed_says_who_has_which() -> None:
    profiles = {"slow": Profile(fraction=0.5)}
    drawn = {tuple(fleet(profiles, seed=seed).name(client) for client in range(10)) for seed in range(5)}
    assert len(drawn) > 1


def test_the_plain_machine_has_no_conditions_and_a_profile_has_its_own() -> None:
    assert fleet({}).conditions(1, 1, 0) is None
    profile = Profile(compute=0.25, down_mbit=8, up_mbit=2)
    assert fleet({"a": profile}).conditions(1, 1, 0) == Conditions(compute=0.25, down_mbit=8, up_mbit=2)


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(1, 50), st.integers(1, 3), st.integers(0, 9))
def test_latency_stays_within_its_jitter_and_is_drawn_for_each_request(
    seed: int, round_number: int, trial: int, client: int
) -> None:
    found = fleet({"a": Profile(latency_ms=50, jitter_ms=20)}, seed=seed)
    drawn = found.conditions(round_number, trial, client)
    assert drawn is not None
    assert 0.03 <= drawn.down_delay <= 0.07
    assert 0.03 <= drawn.up_delay <= 0.07
    others = [(round_number + 1, trial, client), (round_number, trial + 1, client), (round_number, trial, 10)]
    wider = fleet({"a": Profile(latency_ms=50, jitter_ms=20)}, clients=11, seed=seed)
    delays = {wider.conditions(*place).down_delay for place in [*others, (round_number, trial, client)]}  # type: ignore[union-attr]
    assert len(delays) == 4


def test_updates_get_lost_as_often_as_the_profile_says() -> None:
    found = fleet({"a": Profile(drop=0.3)})
    lost = sum(found.drops(round_number, 1, client) for round_number in range(200) for client in range(10))
    assert 520 < lost < 680  # 600 ± 4 standard deviations
    assert not any(fleet({"a": Profile()}).drops(1, 1, client) for client in range(10))


def test_clients_are_on_as_often_as_the_profile_says_and_enough_of_them_always() -> None:
    found = fleet({"a": Profile(fraction=0.5, availability=0.6)})
    flaky = {client for client in range(10) if found.name(client)}
    on = [found.on(round_number, 1, range(10), 5) for round_number in range(400)]
    assert all(set(range(10)) - flaky <= set(clients) for clients in on)
    share = sum(len(flaky & set(clients)) for clients in on) / (400 * len(flaky))
    assert 0.55 < share < 0.65
    assert all(len(found.on(round_number, 1, range(10), 9)) >= 9 for round_number in range(50))
    assert found.on(1, 1, range(10), 11) == ()


def test_an_arrival_is_the_sum_of_its_parts() -> None:
    profile = Profile(compute=0.5, down_mbit=8, up_mbit=4, latency_ms=100)
    found = fleet({"slow": profile}, samples_per_second=1000)
    load = Load(samples=500, bytes_down=1_000_000, bytes_up=500_000)
    assert found.arrival(1, 1, 0, load) == pytest.approx(0.1 + 1.0 + 1.0 + 0.1 + 1.0)
    assert fleet({}, samples_per_second=1000).arrival(1, 1, 0, load) == pytest.approx(0.5)


def test_a_load_has_the_bytes_of_the_arrays_on_the_wire() -> None:
    training = {"epochs": 7}
    assert Load.of(experiment({}, training=training), MANIFEST, 3) == Load(21, 208, 208)
    half = experiment({}, training=training, wire="float16")
    assert Load.of(half, MANIFEST, 1) == Load(7, 108, 108)
    controls = experiment({}, strategy={"objective": {"name": "control-variates"}})
    assert Load.of(controls, MANIFEST, 7) == Load(7, 408, 608)


def test_a_round_ends_when_enough_are_in_or_at_its_deadline() -> None:
    arrivals = {3: 1.0, 1: 2.0, 2: 1.0, 0: 3.0}
    assert play(arrivals, 4, None) == ((0, 1, 2, 3), 3.0)
    assert play(arrivals, 1, None) == ((2,), 1.0)  # of those in at once, the lower one
    assert play(arrivals, 3, 2.0) == ((1, 2, 3), 2.0)
    assert play(arrivals, 4, 2.5) == ((1, 2, 3), 2.5)  # the deadline is waited for
    assert play(arrivals, 4, 0.5) == ((), 0.5)
    assert play({}, 2, 7.0) == ((), 7.0)


def test_a_link_without_a_limit_takes_no_time() -> None:
    assert transfer(1_000_000, 8) == 1.0
    assert transfer(1_000_000, None) == 0.0


def test_the_page_tells_every_field_of_a_profile_with_what_it_is_if_left_out() -> None:
    section = PAGE.read_text(encoding="utf-8").split("### `[machines]`")[1].split("\n## ")[0]
    table = section.split("| field of a profile |")[1].split("\n\n")[0]
    told: dict[str, str] = {}
    for names, default in re.findall(r"^\| (`.*?) \| (.*?) \|", table, flags=re.MULTILINE):
        told |= dict.fromkeys(re.findall(r"`(\w+)`", names), default)
    assert told == {
        name: "not limited" if field.default is None else f"{field.default:g}".replace("1", "1.0")
        for name, field in Profile.model_fields.items()
    }


def test_the_protocols_page_shows_an_orders_machine_with_all_its_fields() -> None:
    text = (PAGE.parent / "protocol.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r'`(\{"compute".*?\})`', text)
    assert set(json.loads(shown)) == set(Conditions.model_fields)
    Conditions.model_validate_json(shown)
