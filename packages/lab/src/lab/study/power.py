"""What was drawn, where the kernel tells: RAPL's counters of the processors, else a board's own power sensor.

Counters of packages count everything that runs on the machine, and wrap around; reading them may need root.
https://docs.kernel.org/power/powercap/powercap.html; AMD's processors show the same under the same name. A
Jetson's INA3221 tells watts, which are sampled and added up; its first channel is what the whole board draws.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from roundtable.types import Seconds

ROOT = Path("/sys/class/powercap")
DRIVERS = Path("/sys/bus/i2c/drivers")
EVERY: Seconds = 1.0  # a sensor is asked; asking takes a millisecond
MICRO = 1e-6


@dataclass(frozen=True)
class Reading:
    """Microjoules by counter, and where each wraps around."""

    counters: dict[str, tuple[int, int]]

    def joules_since(self, before: Reading) -> float | None:
        """Nothing where no counter could be read both times."""
        both = self.counters.keys() & before.counters.keys()
        if not both:
            return None
        used = 0
        for name in both:
            now, wraps = self.counters[name]
            then, _ = before.counters[name]
            used += now - then if now >= then else now + wraps - then
        return used * MICRO


def read(root: Path | None = None) -> Reading:
    """Of the packages (intel-rapl:0, :1 …), which their cores are parts of.

    Not of the platform's own counter (`psys`), which has the packages in it and stands beside them.
    """
    counters = {}
    for folder in sorted((root or ROOT).glob("intel-rapl:[0-9]*")):
        if folder.name.count(":") > 1:
            continue
        try:
            if not (folder / "name").read_text().startswith("package"):
                continue
            wraps = int((folder / "max_energy_range_uj").read_text())
            counters[folder.name] = (int((folder / "energy_uj").read_text()), wraps)
        except (OSError, ValueError):
            continue  # there, but not for us
    return Reading(counters)


def watts(drivers: Path | None = None) -> float | None:
    """What a Jetson draws now; nothing where there is no such sensor."""
    where = drivers or DRIVERS
    try:
        for volts in sorted(where.glob("ina3221/*/hwmon/hwmon*/in1_input")):  # Xavier, Orin: mV and mA
            return int(volts.read_text()) * int(volts.with_name("curr1_input").read_text()) * MICRO
        for power in sorted(where.glob("ina3221x/*/iio:device*/in_power0_input")):  # Nano: mW
            return int(power.read_text()) / 1000
    except (OSError, ValueError):
        pass  # there, but not for us
    return None


@dataclass
class Meter:
    """Energy from when it was made: by counters where there are any, else by samples of a sensor."""

    start: Reading = field(default_factory=lambda: read())
    _sampled: float = 0.0
    _last: tuple[Seconds, float] | None = None

    def sample(self, now: Seconds) -> None:
        """To be called again and again. `now`: of any clock that does not jump."""
        if self.start.counters or (self._last is not None and now - self._last[0] < EVERY):
            return
        drawn = watts()
        if drawn is None:
            return
        if self._last is not None:
            self._sampled += (now - self._last[0]) * (drawn + self._last[1]) / 2
        self._last = now, drawn

    def joules(self) -> float | None:
        if self.start.counters:
            return read().joules_since(self.start)
        return self._sampled or None
