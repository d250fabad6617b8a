"""The virtual clock under any interleaving, with crashes and full disks: what comes of a round is known."""

from __future__ import annotations

from dataclasses import replace

from aggregator.events import UpdateArrived
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize
from roundtable.fleet import Fleet, Load, play
from roundtable.machines import Machines, Profile

from tests.aggregator.test_rounds_interleaved import Disk, Interleaving, experiments

SLOW = {"slow": Profile(fraction=0.5, compute=0.1, latency_ms=400, jitter_ms=400)}


class RememberingDisk(Disk):
    """With when what it accepted would have been in, as the driver works it out from its rows."""

    arrivals = staticmethod(lambda _disk: {})

    def recover(self):
        return replace(super().recover(), arrivals=self.arrivals(self))


class VirtualInterleaving(Interleaving):
    @initialize(
        settings=experiments().filter(lambda settings: not settings.pinned),
        there=st.sets(st.sampled_from(["w1", "w2", "w3", "w4"])),
    )
    def begin(self, settings, there):
        machines = Machines(clock="virtual", samples_per_second=100.0, profiles=SLOW)
        self.fleet = Fleet(machines, max(settings.clients, 2), settings.seed)
        super().begin(replace(settings, fleet=self.fleet), there)

    def power_on(self):
        if not isinstance(self.disk, RememberingDisk):
            self.disk = RememberingDisk()
            self.disk.arrivals = lambda disk: {
                client: self.arrival(disk.begun.round, disk.begun.trial, client) for client in disk.accepted
            }
        super().power_on()

    def arrival(self, round_number, trial, client):
        return self.fleet.arrival(round_number, trial, client, Load(100 * (1 + client), 0, 0))

    def reply(self, worker, key, attempt, digest=None, kind=None):
        if (kind or key.kind) != "train":
            return super().reply(worker, key, attempt, digest, kind)
        client = key.client if 0 <= key.client < self.settings.clients else 0
        arrival = self.arrival(key.round, key.trial, client)
        return self.tell(UpdateArrived(key, attempt, worker, digest or str(key), self.now, arrival))

    def check_close(self, close):
        disk, settings = self.disk, self.settings
        if close.round == 0:
            super().check_close(close)
            return
        if settings.due(disk.committed):
            assert disk.committed in disk.accuracies, "closed before the round before it was scored"
        cohort = disk.begun.cohort
        assert sorted(disk.accepted) == list(cohort), "closed before every update was collected"
        foreseen, target = [], min(settings.cohort_of(close.round), len(cohort))
        for trial in range(1, close.trial + 1):
            asked = settings.sampler.sample(
                settings.seed,
                close.round,
                trial,
                range(settings.clients),
                settings.asked(close.round),
                {},
            )
            arrivals = {client: self.arrival(close.round, trial, client) for client in asked}
            foreseen.append(play(arrivals, target, settings.deadline))
        participants, seconds = foreseen[-1]
        assert close.participants == participants
        assert close.virtual_seconds == sum(passed for _, passed in foreseen[:-1]) + seconds
        assert all(len(counted) < settings.needed(close.round) for counted, _ in foreseen[:-1])
        assert len(participants) >= settings.needed(close.round)
        assert sorted(close.participants + close.late) == list(cohort)


TestVirtualInterleaving = VirtualInterleaving.TestCase
TestVirtualInterleaving.settings = hypothesis_settings(
    Interleaving.TestCase.settings,
    max_examples=25,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
