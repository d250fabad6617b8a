"""What the processors have drawn, where the kernel tells: RAPL's counters in /sys/class/powercap.

Counters of packages count everything that runs on the machine, and wrap around; reading them may need root.
https://docs.kernel.org/power/powercap/powercap.html; AMD's processors show the same under the same name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/class/powercap")
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
