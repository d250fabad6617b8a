"""Unequal machines: the `[machines]` table of an experiment. A profile is a client's link and compute.

`fleet` says what it does to whom and when.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from roundtable.types import Seconds

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,59}")

Share = Annotated[float, Field(gt=0, le=1)]
Mbit = Annotated[float, Field(ge=0.01, le=100_000)]
Milliseconds = Annotated[float, Field(ge=0, le=60_000)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Profile(_Table):
    """A kind of machine. The defaults are the plain one: full speed, and nothing between it and the lab."""

    fraction: Share = 1.0  # of the clients
    compute: Annotated[float, Field(ge=0.001, le=1)] = 1.0  # share of the plain machine's speed
    down_mbit: Mbit | None = None  # megabits a second; None: not limited
    up_mbit: Mbit | None = None
    latency_ms: Milliseconds = 0.0  # of each request
    jitter_ms: Milliseconds = 0.0  # at most this much more or less of it, uniform
    drop: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability that an update gets lost
    availability: Share = 1.0  # probability of being on when a round begins

    @model_validator(mode="after")
    def _fits(self) -> Profile:
        if self.jitter_ms > self.latency_ms:
            raise ValueError(
                f"jitter_ms: found {self.jitter_ms:g}, more than latency_ms = {self.latency_ms:g}; "
                "allowed: at most the latency"
            )
        return self


PLAIN: Final = Profile()


class Machines(_Table):
    """`clock`: real seconds, with links and speeds acted out by workers; or virtual ones, added up."""

    clock: Literal["real", "virtual"] = "real"
    samples_per_second: Annotated[float, Field(gt=0, le=1e12)] | None = (
        None  # the plain machine trains so many
    )
    profiles: dict[str, Profile] = {}

    @model_validator(mode="after")
    def _fits(self) -> Machines:
        for name in self.profiles:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"profiles: found the name {name[:80]!r}; "
                    "allowed: 1 to 60 small letters, digits and hyphens, a letter or digit first"
                )
        total = sum(profile.fraction for profile in self.profiles.values())
        if total > 1 + 1e-9:
            raise ValueError(
                f"profiles: found fractions that add up to {total:g}; allowed: 1 at most, for all profiles"
            )
        if self.clock == "virtual" and self.samples_per_second is None:
            raise ValueError(
                'samples_per_second: found nothing, which clock = "virtual" cannot do without; '
                "allowed: a number above 0 (`lab calibrate` measures it)"
            )
        return self

    def check(self, clients: int, needed: int, deadline: Seconds | None, pinned: bool) -> None:
        """Raises ValueError where no round of this experiment could end. `needed`: updates that a round
        needs."""
        if self.clock == "virtual" and pinned:
            raise ValueError(
                'machines.clock: found "virtual", but with partition.kind = "pinned" clients are machines of '
                'their own; allowed: "real"'
            )
        sizes = self.sizes(clients)
        for name, profile in self.profiles.items():
            where = f"machines.profiles.{name}"
            if not sizes[name]:
                raise ValueError(
                    f"{where}.fraction: found {profile.fraction:g}, which is none of {clients} clients; "
                    "allowed: a fraction that makes one at least"
                )
            if profile.drop and deadline is None:
                raise ValueError(
                    f"{where}.drop: found {profile.drop:g}, but no deadline after which a round goes on "
                    "without; allowed: 0, or set rounds.deadline"
                )
        silent = sum(sizes[name] for name, profile in self.profiles.items() if profile.drop == 1)
        if clients - silent < needed:
            raise ValueError(
                f"machines.profiles: a round needs {needed} updates, and those of {silent} of {clients} "
                "clients always get lost (drop = 1); allowed: a smaller drop, or lower rounds.quorum"
            )

    def sizes(self, clients: int) -> dict[str, int]:
        """How many of `clients` have each profile; together not more than there are, rounded as a whole."""
        bounds = [0.0]
        for name in sorted(self.profiles):
            bounds.append(bounds[-1] + self.profiles[name].fraction * clients)
        ends = [min(math.floor(bound + 0.5 + 1e-9), clients) for bound in bounds]
        return {name: ends[index + 1] - ends[index] for index, name in enumerate(sorted(self.profiles))}
