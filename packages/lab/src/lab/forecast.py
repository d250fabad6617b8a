"""What an experiment's machines come to before anything is run: seconds a round, who is late, what is in
vain.

Exact for the virtual clock, whose rounds are played here as the aggregator will play them, from the sizes of
clients and of the model alone. For the real clock it is what links and speeds add up to; without
`samples_per_second` training is taken to cost nothing, and what is refused then could not end in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from roundtable.errors import InvalidExperiment
from roundtable.experiment import Experiment
from roundtable.fleet import LOOKS, Conditions, Fleet, Load, play
from roundtable.tasks.loading import build
from roundtable.types import ClientId, Seconds
from roundtable.weights import ArraySpec, Manifest

from lab import data
from lab.native import Folders
from lab.results import Spread

ROUNDS = 200  # played at most

Arrivals = dict[ClientId, Seconds]


@dataclass(frozen=True)
class Cost:
    """What a round costs a kind of machine: its middle client, by examples, without jitter."""

    name: str
    clients: int
    download: Seconds
    compute: Seconds | None  # None: nobody has said how fast the plain machine is
    upload: Seconds


@dataclass(frozen=True)
class Forecast:
    costs: tuple[Cost, ...]
    rounds: int  # that were played; none where the plain machine's speed is not known
    seconds: Seconds  # of these
    late: int
    dropped: int


def forecast(experiment: Experiment, spread: Spread, folders: Folders) -> Forecast | None:
    """None where all machines are plain and the clock is real. Raises InvalidExperiment, InvalidTask."""
    machines = experiment.machines
    if machines.clock == "real" and not machines.profiles:
        return None
    sizes = [sum(row) for row in spread.counts]
    return of_loads(experiment, _loads(experiment, weighed(experiment, folders), sizes))


def refuse_impossible(experiment: Experiment, sizes: Sequence[int], weigh: Callable[[], Manifest]) -> None:
    """By speeds, latencies and losses alone, which is quick; then, where a deadline makes links matter, with
    the model's bytes, whose arrays `weigh` tells.

    `sizes`: examples of each client. Raises InvalidExperiment.
    """
    machines = experiment.machines
    if machines.profiles or machines.clock == "virtual":
        of_loads(experiment, _loads(experiment, Manifest(()), sizes))
    links = any(profile.up_mbit or profile.down_mbit for profile in machines.profiles.values())
    if links and experiment.rounds.deadline is not None:
        of_loads(experiment, _loads(experiment, weigh(), sizes))


def _loads(experiment: Experiment, manifest: Manifest, sizes: Sequence[int]) -> list[Load]:
    return [Load.of(experiment, manifest, trained_on(experiment, size)) for size in sizes]


def of_loads(experiment: Experiment, loads: Sequence[Load]) -> Forecast:
    """`loads`: of each client. Raises InvalidExperiment where a round cannot reach its quorum."""
    fleet = Fleet(experiment.machines, experiment.clients.count, experiment.seed)
    _check_fastest(experiment, fleet, loads)
    costs = tuple(_costs(experiment, fleet, loads))
    if experiment.machines.samples_per_second is None:
        return Forecast(costs, 0, 0.0, 0, 0)
    total, late, dropped = 0.0, 0, 0
    rounds = min(experiment.rounds.count, ROUNDS)
    for number in range(1, rounds + 1):
        seconds, missing, lost = _played(experiment, fleet, loads, number)
        total, late, dropped = total + seconds, late + missing, dropped + lost
    return Forecast(costs, rounds, total, late, dropped)


def trained_on(experiment: Experiment, size: int) -> int:
    """Of a client's examples, those that it does not hold out."""
    return size - math.floor(size * experiment.clients.holdout)


def _played(
    experiment: Experiment, fleet: Fleet, loads: Sequence[Load], number: int
) -> tuple[Seconds, int, int]:
    """(seconds, late, dropped) of a round. Raises InvalidExperiment where every retry misses the quorum."""
    rounds, passed, best = experiment.rounds, 0.0, 0
    for trial in range(1, rounds.retries + 2):
        on = fleet.on(number, trial, range(experiment.clients.count), experiment.quorum)
        if not on:
            raise InvalidExperiment(
                f"machines.profiles: round {number} needs {experiment.quorum} clients that are on, and"
                f" {LOOKS} looks never find so many; allowed: a higher availability, or a lower rounds.quorum"
            )
        cohort = experiment.strategy.sampler.sample(experiment.seed, number, trial, on, experiment.asked, {})
        lost = [client for client in cohort if fleet.drops(number, trial, client)]
        arrivals: Arrivals = {
            client: fleet.arrival(number, trial, client, loads[client])
            for client in cohort
            if client not in lost
        }
        counted, seconds = play(arrivals, min(experiment.cohort_size, len(cohort)), rounds.deadline)
        if len(counted) >= experiment.quorum:
            missing = set(cohort) - set(counted)
            return passed + seconds, len(missing - set(lost)), len(missing & set(lost))
        passed, best = passed + seconds, max(best, len(counted))
    words = "" if experiment.machines.clock == "virtual" else " if machines take what their profiles say"
    raise InvalidExperiment(
        f"machines.profiles: round {number} fails{words}: it needs {experiment.quorum} updates, and at the "
        f"deadline of {rounds.deadline:g} s has {best} at most in each of {rounds.retries + 1} trials; "
        "allowed: a longer rounds.deadline, a lower rounds.quorum, or faster machines"
    )


def _check_fastest(experiment: Experiment, fleet: Fleet, loads: Sequence[Load]) -> None:
    """Whether the fastest quorum there could be is in at the deadline, each client at its luckiest."""
    deadline, needed = experiment.rounds.deadline, experiment.quorum
    if deadline is None:
        return
    times = sorted(
        _fastest(experiment, fleet, client, load)
        for client, load in enumerate(loads)
        if fleet.profile(client).drop < 1
    )
    if times[needed - 1] > deadline:
        raise InvalidExperiment(
            f"rounds.deadline: found {deadline:g}, but a round needs {needed} updates, and the fastest "
            f"{needed} clients take {times[needed - 1]:.3g} s; allowed: more, or a lower rounds.quorum"
        )


def _fastest(experiment: Experiment, fleet: Fleet, client: ClientId, load: Load) -> Seconds:
    profile = fleet.profile(client)
    ideal = _typical(fleet, client).model_copy(
        update=dict.fromkeys(("down_delay", "up_delay"), (profile.latency_ms - profile.jitter_ms) / 1000)
    )
    compute = _compute(experiment, ideal, load) or 0.0
    return ideal.download(load.bytes_down) + compute + ideal.upload(load.bytes_up)


def _costs(experiment: Experiment, fleet: Fleet, loads: Sequence[Load]) -> list[Cost]:
    names = [fleet.name(client) for client in range(len(loads))]
    costs = []
    for name in [*sorted(experiment.machines.profiles), None]:
        clients = [client for client, its in enumerate(names) if its == name]
        if not clients:
            continue
        samples = int(median(loads[client].samples for client in clients))
        load = Load(samples, loads[0].bytes_down, loads[0].bytes_up)
        typical = _typical(fleet, clients[0])
        costs.append(
            Cost(
                name or "plain",
                len(clients),
                typical.download(load.bytes_down),
                _compute(experiment, typical, load),
                typical.upload(load.bytes_up),
            )
        )
    return costs


def _typical(fleet: Fleet, client: ClientId) -> Conditions:
    profile = fleet.profile(client)
    return Conditions(
        compute=profile.compute,
        down_mbit=profile.down_mbit,
        up_mbit=profile.up_mbit,
        down_delay=profile.latency_ms / 1000,
        up_delay=profile.latency_ms / 1000,
    )


def _compute(experiment: Experiment, conditions: Conditions, load: Load) -> Seconds | None:
    speed = experiment.machines.samples_per_second
    return None if speed is None else load.samples / (speed * conditions.compute)


def weighed(experiment: Experiment, folders: Folders) -> Manifest:
    """The arrays of the task's model, whose names do not matter here. Raises InvalidTask."""
    task = data.task_of(experiment, folders.tasks).task
    with data.calling(f"task {experiment.task}: model() failed"):
        held = build(task, experiment.task).weights
    return Manifest(
        tuple(
            ArraySpec("weights", tuple(variable.shape), str(variable.dtype), bool(variable.trainable))
            for variable in held
        )
    )
