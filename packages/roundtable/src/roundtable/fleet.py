"""Which client has which machine, and what befalls it in a round.

Everything here is a pure function of (machines, K, seed, round, trial, client): who is on, whose update gets
lost, how long a request takes. So it is the same under the real clock, where workers act it out, and under
the virtual one, where the aggregator adds it up.

    Fleet ┬ on(round, trial, …)              who can be asked
          ├ conditions(round, trial, client) what an order tells its worker (real)
          └ arrival(round, trial, client, …) when an update is in, in seconds after it was asked (virtual)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict

from roundtable.experiment import Experiment
from roundtable.machines import PLAIN, Machines, Profile
from roundtable.types import ClientId, Seconds
from roundtable.weights import Manifest

LOOKS: Final = 1000  # at who is on, before a round that needs more is given up
MBIT: Final = 1e6 / 8  # bytes
_ASSIGNED, _ON, _LINK = 0xA551, 0x0417, 0x711C  # what is drawn


class Conditions(BaseModel):
    """What a client's machine is like for one order: its profile, and what was drawn for this round."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    compute: float = 1.0  # share of this worker's speed
    down_mbit: float | None = None  # megabits a second; None: not limited
    up_mbit: float | None = None
    down_delay: Seconds = 0.0  # of each request that fetches: latency ± jitter
    up_delay: Seconds = 0.0  # of the one that hands in
    dropped: bool = False  # the update gets lost: hand in nothing

    def download(self, nbytes: int) -> Seconds:
        return self.down_delay + transfer(nbytes, self.down_mbit)

    def upload(self, nbytes: int) -> Seconds:
        return self.up_delay + transfer(nbytes, self.up_mbit)


@dataclass(frozen=True)
class Load:
    """What a client has to do in a round: samples to train on (examples × epochs), and bytes each way."""

    samples: int
    bytes_down: int
    bytes_up: int

    @classmethod
    def of(cls, experiment: Experiment, manifest: Manifest, examples: int) -> Load:
        """Of a client with so many examples. Bytes are those of the arrays as the wire sends them: headers
        and accounts, a few hundred bytes that vary, are left out, and arrays that would overflow as float16
        are taken to fit. So it repeats.

        With control variates (SCAFFOLD) a broadcast comes down besides, and a change and a state go up.
        """
        weights = _wire_bytes(manifest, experiment.wire)
        controls = _wire_bytes(manifest.trainable, experiment.wire) * experiment.strategy.objective.controls
        return cls(examples * experiment.training.epochs, weights + controls, weights + 2 * controls)


class Fleet:
    """The machines of K clients. Its draws are numpy's PCG64: the same numpy, the same machines."""

    def __init__(self, machines: Machines, clients: int, seed: int) -> None:
        self.machines = machines
        self._seed = seed
        order = _draw(seed, _ASSIGNED).permutation(clients)
        self._names: dict[ClientId, str] = {}
        first = 0
        for name, size in machines.sizes(clients).items():
            self._names |= {int(client): name for client in order[first : first + size]}
            first += size
        self._availability = np.array([self.profile(client).availability for client in range(clients)])

    @property
    def virtual(self) -> bool:
        return self.machines.clock == "virtual"

    def name(self, client: ClientId) -> str | None:
        """Its profile's; None: the plain machine."""
        return self._names.get(client)

    def profile(self, client: ClientId) -> Profile:
        name = self._names.get(client)
        return PLAIN if name is None else self.machines.profiles[name]

    def on(
        self, round_number: int, trial: int, eligible: Sequence[ClientId], needed: int
    ) -> Sequence[ClientId]:
        """Those of `eligible` that are on, at the first look that finds `needed` of them; nobody where none
        of LOOKS looks does."""
        if (self._availability == 1).all():
            return eligible
        for look in range(LOOKS):
            chances = _draw(self._seed, _ON, round_number, trial, look).random(len(self._availability))
            on = [client for client in eligible if chances[client] < self._availability[client]]
            if len(on) >= needed:
                return on
        return ()

    def conditions(self, round_number: int, trial: int, client: ClientId) -> Conditions | None:
        """None: the plain machine, about which there is nothing to say."""
        if client not in self._names:
            return None
        profile = self.profile(client)
        down, up, lost = _draw(self._seed, _LINK, round_number, trial, client).random(3)
        return Conditions(
            compute=profile.compute,
            down_mbit=profile.down_mbit,
            up_mbit=profile.up_mbit,
            down_delay=(profile.latency_ms + (2 * down - 1) * profile.jitter_ms) / 1000,
            up_delay=(profile.latency_ms + (2 * up - 1) * profile.jitter_ms) / 1000,
            dropped=bool(lost < profile.drop),
        )

    def drops(self, round_number: int, trial: int, client: ClientId) -> bool:
        """Whether its update gets lost."""
        conditions = self.conditions(round_number, trial, client)
        return conditions is not None and conditions.dropped

    def arrival(self, round_number: int, trial: int, client: ClientId, load: Load) -> Seconds:
        """When its update is in, in virtual seconds after it was asked. Raises ValueError without a speed."""
        conditions = self.conditions(round_number, trial, client) or _PLAIN_CONDITIONS
        speed = self.machines.samples_per_second
        if speed is None:
            raise ValueError("machines.samples_per_second: found nothing; allowed: a number above 0")
        compute = load.samples / (speed * conditions.compute)
        return conditions.download(load.bytes_down) + compute + conditions.upload(load.bytes_up)


def transfer(nbytes: int, mbit: float | None) -> Seconds:
    """Seconds that a link of so many megabits a second takes."""
    return 0.0 if mbit is None else nbytes / (mbit * MBIT)


def play(
    arrivals: Mapping[ClientId, Seconds], target: int, deadline: Seconds | None
) -> tuple[tuple[ClientId, ...], Seconds]:
    """Whose updates are in when a round ends, ascending, and when that is, in seconds after it began.

    It ends when `target` updates are in, at the same instant the lower client first, or at the deadline; what
    comes with the deadline is in. Without a deadline all have to come.
    """
    ordered = sorted((seconds, client) for client, seconds in arrivals.items())
    counted = [(seconds, client) for seconds, client in ordered if deadline is None or seconds <= deadline]
    counted = counted[:target]
    ended = counted[-1][0] if len(counted) == target or deadline is None else deadline
    return tuple(sorted(client for _, client in counted)), ended


_PLAIN_CONDITIONS: Final = Conditions()


def _wire_bytes(manifest: Manifest, wire: str) -> int:
    return sum(
        spec.nbytes // (2 if wire == "float16" and spec.dtype == "float32" else 1) for spec in manifest.arrays
    )


def _draw(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
