"""The virtual clock: what a round comes to follows from when updates would have been in, and from nothing
else. Held against the same machine by the real clock, in a lab where everything takes exactly that long."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aggregator.events import (
    Accept,
    AcceptAgain,
    BeginRound,
    Close,
    Command,
    End,
    EvaluationArrived,
    Event,
    Give,
    InitializeArrived,
    Key,
    PauseAsked,
    Reject,
    ResumeAsked,
    RoundCommitted,
    RoundScored,
    Score,
    Started,
    TimePassed,
    UpdateArrived,
    Wake,
    WorkerArrived,
    WorkerGone,
)
from aggregator.rounds import Rounds
from aggregator.terms import Issued, Recovered, Settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from roundtable.experiment import Experiment, parse
from roundtable.fleet import Fleet, Load

CLIENTS, ROUNDS = 8, 3


def experiment(clock: str, profiles: dict[str, Any], seed: int = 1, **rounds: Any) -> Experiment:
    fraction = rounds.pop("fraction", 1.0)
    return parse(
        {
            "name": "x",
            "task": "digits",
            "seed": seed,
            "clients": {"count": CLIENTS, "fraction": fraction},
            "rounds": {"count": ROUNDS, **rounds},
            "evaluation": {"every": 100, "shards": 1},
            "machines": {"clock": clock, "samples_per_second": 100, "profiles": profiles},
        }
    )


def load(client: int) -> Load:
    return Load(samples=100 + 10 * client, bytes_down=100_000, bytes_up=100_000)


@dataclass
class Driver:
    """What both drivers need: round 0 made, evaluations answered, rounds committed as soon as they close."""

    settings: Settings
    recovered: Recovered | None = None
    now: float = 0.0
    closes: list[Close] = field(default_factory=list)
    end: End | None = None
    trained: list[Key] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rounds = Rounds(self.settings, self.recovered)
        assert self.rounds.fleet is not None
        self.fleet: Fleet = self.rounds.fleet

    def arrival(self, key: Key) -> float:
        return self.fleet.arrival(key.round, key.trial, key.client, load(key.client))

    def tell(self, event: Event) -> list[Command]:
        """And what follows from it by itself; all commands."""
        said, events = list[Command](), [event]
        while events:
            commands = self.rounds.handle(events.pop(0))
            said += commands
            for command in commands:
                if isinstance(command, Close):
                    self.closes += [command] if command.round else []
                    events.append(RoundCommitted(command.round, self.now))
                elif isinstance(command, Score):
                    events.append(RoundScored(command.round, 0.5, self.now))
                elif isinstance(command, End):
                    self.end = command
                elif isinstance(command, Give):
                    key = command.key
                    if key.kind == "initialize":
                        events.append(InitializeArrived(key, command.attempt, command.worker, "w", self.now))
                    elif key.kind == "evaluate":
                        events.append(EvaluationArrived(key, command.attempt, command.worker, self.now))
                    else:
                        self.trained.append(key)
                        self.given(command)
                elif isinstance(command, BeginRound | Wake):
                    self.heard(command)
        return said

    def given(self, give: Give) -> None:
        raise NotImplementedError

    def heard(self, command: BeginRound | Wake) -> None: ...


class Simulated(Driver):
    """The real clock, in a lab where an update is in exactly when its client's machine would have it in."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.coming: list[tuple[float, int, Give]] = []
        self.wake: float | None = None
        self.began: list[float] = []

    def heard(self, command: BeginRound | Wake) -> None:
        if isinstance(command, Wake):
            self.wake = command.at
        elif command.trial == 1:
            self.began.append(self.now)

    def given(self, give: Give) -> None:
        key = give.key
        if not self.fleet.drops(key.round, key.trial, key.client):
            heapq.heappush(self.coming, (self.now + self.arrival(key), key.client, give))

    def run(self) -> list[tuple[Any, ...]]:
        self.tell(WorkerArrived("w1", "n1", False, 0.0))
        self.tell(Started(0.0))
        while self.end is None:
            first = self.coming[0][0] if self.coming else None
            if first is not None and (self.wake is None or first <= self.wake):
                self.now, _, give = heapq.heappop(self.coming)
                key = give.key
                arrived = UpdateArrived(key, give.attempt, give.worker, f"u{key}", self.now)
                before = len(self.closes)
                self.tell(arrived)
            else:
                assert self.wake is not None
                self.now, before = self.wake, len(self.closes)
                self.tell(TimePassed(self.now))
            for index in range(before, len(self.closes)):  # a close carries what the virtual clock would say
                seconds = self.now - self.began[index]
                self.closes[index] = replace(self.closes[index], virtual_seconds=seconds)
        return outcome(self)


class Collected(Driver):
    """The virtual clock: updates come in any order, from workers that come and go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.out: dict[Key, Give] = {}

    def given(self, give: Give) -> None:
        self.out[give.key] = give

    def event(self, give: Give) -> UpdateArrived:
        key = give.key
        return UpdateArrived(key, give.attempt, give.worker, f"u{key}", self.now, self.arrival(key))

    def run(self, draw: Any) -> list[tuple[Any, ...]]:
        workers = draw(st.integers(1, 3))
        for number in range(workers):
            self.tell(WorkerArrived(f"w{number}", f"n{number}", False, 0.0))
        self.tell(Started(0.0))
        losses = draw(st.integers(0, 3))
        while self.end is None:
            self.now += draw(st.sampled_from([0.0, 0.5, 1e4]))
            if losses and draw(st.booleans()):
                losses -= 1
                lost = f"w{draw(st.integers(0, workers - 1))}"
                self.out = {key: give for key, give in self.out.items() if give.worker != lost}
                self.tell(WorkerGone(lost, self.now))
                self.tell(WorkerArrived(lost, "n" + lost[1:], False, self.now))
            key = draw(st.sampled_from(sorted(self.out)))
            self.tell(self.event(self.out.pop(key)))
            self.out = {key: give for key, give in self.out.items() if key.round >= self.rounds.round}
        return outcome(self)


def outcome(driver: Driver) -> list[tuple[Any, ...]]:
    assert driver.end is not None
    rounds: list[tuple[Any, ...]] = [
        (
            close.round,
            close.trial,
            close.participants,
            close.late,
            close.dropped,
            pytest.approx(close.virtual_seconds),
        )
        for close in driver.closes
    ]
    return [*rounds, (driver.end.state, driver.end.round, driver.end.reason)]


PROFILE = st.fixed_dictionaries(
    {
        "fraction": st.sampled_from([0.25, 0.5]),
        "compute": st.sampled_from([0.1, 0.5, 1.0]),
        "up_mbit": st.sampled_from([0.5, 1.0, 100.0]),
        "latency_ms": st.sampled_from([0, 100, 2000]),
        "drop": st.sampled_from([0.0, 0.3]),
        "availability": st.sampled_from([0.7, 1.0]),
    }
)
RULES = st.fixed_dictionaries(
    {
        "deadline": st.sampled_from([1.2, 3.0, 20.0]),
        "quorum": st.sampled_from([0.25, 0.5, 1.0]),
        "oversample": st.sampled_from([0.0, 0.5]),
        "fraction": st.sampled_from([0.25, 0.5, 0.75]),
        "retries": st.sampled_from([0, 3]),
    }
)


@hypothesis_settings(max_examples=50, deadline=None)
@given(st.data(), PROFILE, PROFILE, RULES, st.integers(0, 50))
def test_it_comes_to_the_same_as_by_the_real_clock_in_whatever_order_updates_come(
    data: Any, one: dict[str, Any], other: dict[str, Any], rules: dict[str, Any], seed: int
) -> None:
    profiles = {"one": one, "other": other}
    real, virtual = (
        Settings.of("r", experiment(clock, profiles, seed, **dict(rules))) for clock in ("real", "virtual")
    )
    assert Collected(virtual).run(data.draw) == Simulated(real).run()


SLOW = {"slow": {"fraction": 0.5, "compute": 0.1}}
CUT = {"deadline": 3.0, "quorum": 0.5}


def begun(profiles: dict[str, Any] = SLOW, recovered: Recovered | None = None, **rules: Any) -> Collected:
    lab = Collected(Settings.of("r", experiment("virtual", profiles, **rules)), recovered)
    lab.tell(WorkerArrived("w1", "n1", False, 0.0))
    lab.tell(Started(0.0))
    return lab


def test_an_update_that_gets_lost_is_not_trained_for() -> None:
    lab = begun({"lossy": {"fraction": 0.5, "drop": 1.0}}, **CUT)
    kept = {client for client in range(CLIENTS) if lab.fleet.name(client) is None}
    assert {key.client for key in lab.trained} == kept
    for give in list(lab.out.values()):
        lab.tell(lab.event(give))
    close = lab.closes[0]
    assert (set(close.participants), set(close.late), close.dropped) == (kept, set(range(CLIENTS)) - kept, 4)
    assert close.virtual_seconds == 3.0  # nobody hears of it before the deadline


def test_it_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    whole = begun(**CUT)
    gives = list(whole.out.values())
    for give in gives:
        whole.tell(whole.event(give))
    for known in range(len(gives) + 1):
        accepted = {give.key.client: f"u{give.key}" for give in gives[:known]}
        recovered = Recovered(
            committed=0,
            accuracies={0: 0.1},
            trial=1,
            cohort=tuple(range(CLIENTS)),
            accepted=accepted,
            arrivals={give.key.client: whole.arrival(give.key) for give in gives[:known]},
            issued={give.key: Issued(give.attempt, "w1") for give in gives[known:]},
        )
        again = begun(recovered=recovered, **CUT)
        for key in [give.key for give in gives[known:]]:
            again.tell(again.event(again.out[key]))
        assert again.closes[0] == whole.closes[0]


def test_one_that_came_too_late_is_told_that_it_is_in_when_it_is_sent_again() -> None:
    lab = begun(**CUT)
    events = [lab.event(give) for give in lab.out.values()]
    rounds = lab.rounds
    commands = list(itertools.chain.from_iterable(rounds.handle(event) for event in events))
    (close,) = (command for command in commands if isinstance(command, Close))
    assert close.late
    late = next(event for event in events if event.key.client in close.late)
    assert rounds.handle(late) == [AcceptAgain(late.key)]
    (answer,) = rounds.handle(replace(late, digest="another"))
    assert isinstance(answer, Reject)


def test_an_update_that_could_not_be_recorded_is_collected_again_before_the_round_is_judged() -> None:
    lab = begun(**CUT)
    *others, last = [lab.event(give) for give in lab.out.values()]
    rounds = lab.rounds
    for event in others:
        rounds.handle(event)
    said = rounds.handle(last)
    (close,) = (command for command in said if isinstance(command, Close))
    assert Accept(last.key, last.digest) in said
    rounds.handle(PauseAsked("full", 1.0, (last.key,)))
    assert not any(isinstance(command, Close) for command in rounds.handle(ResumeAsked(2.0)))
    assert close in rounds.handle(last)


def test_real_time_ends_no_round() -> None:
    lab = begun(**CUT)
    assert not any(isinstance(command, Close) for command in lab.tell(TimePassed(1e6)))
    assert not lab.closes


def test_a_run_whose_clients_are_never_on_together_fails_and_says_what_to_change() -> None:
    lab = begun({"flaky": {"availability": 0.001}})
    assert lab.end is not None
    assert (lab.end.state, lab.end.round) == ("failed", 0)
    assert "round 1: it needs 8 clients that are on" in lab.end.reason
    assert "availability" in lab.end.reason


def test_a_replay_takes_machines_for_plain() -> None:
    body = experiment("virtual", {"lossy": {"drop": 1.0, "fraction": 0.5}}, **CUT)
    assert Settings.of("r", body, ((1, 2),)).fleet is None
