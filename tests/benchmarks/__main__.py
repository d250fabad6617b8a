"""`python -m tests.benchmarks`: the lab against its references, in one run on one machine; writes
bench-core.json.

Never part of the tests: times mean something on a quiet machine only. `--quick` is a look, not a result.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import arithmetic, coordination, memory, simulated_round, startup
from tests.benchmarks.results import Figure, table, write

# MB → (rounds, rounds of warm-up), thorough and quick; ratio to reach
_SIZES = {0.8: ((200, 20), (40, 10), 4.0), 20.0: ((30, 5), (6, 2), 3.0), 100.0: ((12, 3), (3, 2), 3.0)}


def _coordination(quick: bool) -> list[Callable[[], Figure]]:
    return [
        lambda size=size, counts=counts, at_most=at_most: coordination.measure(
            size, *counts[quick], "process", at_most
        )
        for size, (*counts, at_most) in _SIZES.items()
    ]


def _durability(quick: bool) -> list[Callable[[], Figure]]:
    return [
        lambda size=size: coordination.measure(size, *_SIZES[size][quick], "power", None)
        for size in (0.8, 20.0)
    ]


_BENCHMARKS: dict[str, Callable[[bool], list[Callable[[], Figure]]]] = {
    "coordination": _coordination,
    "durability": _durability,
    "simulated_round": lambda quick: [lambda: simulated_round.measure(*((2, 1) if quick else (5, 2)))],
    "floor": lambda quick: [lambda: arithmetic.measure(3 if quick else 8)],
    "memory": lambda quick: [
        lambda: memory.aggregator(20.0 if quick else 100.0, 20, 1 if quick else 3),
        lambda: memory.worker(30 if quick else 100),
    ],
    "startup": lambda quick: [lambda: startup.measure(1 if quick else 3)],
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "only", nargs="*", metavar="BENCHMARK", help=f"of {', '.join(_BENCHMARKS)}; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="fewer and smaller: to see that it works")
    parser.add_argument("--output", type=Path, help="default: bench-core.json, or bench-NAMES.json")
    options = parser.parse_args()
    if unknown := set(options.only) - set(_BENCHMARKS):
        parser.error(
            f"no benchmark is called {', '.join(sorted(unknown))}: choose from {', '.join(_BENCHMARKS)}"
        )
    print(f"{time.strftime('%Y-%m-%d %H:%M')} · {_machine()}", flush=True)
    figures: list[Figure] = []
    output = options.output or Path(
        f"bench-{'-'.join(options.only) or 'core'}.json"
    )  # a part leaves the whole
    for name in options.only or _BENCHMARKS:
        for measure in _BENCHMARKS[name](options.quick):
            started = time.monotonic()
            figures.append(measure())
            write(figures, output)  # what has been measured stays, whatever happens to the rest
            print(
                f"{table(figures[-1:]).splitlines()[-1]}   ({time.monotonic() - started:.0f} s)", flush=True
            )
    print(f"\n{table(figures)}\n\nwritten to {output}")
    missed = [figure.name for figure in figures if figure.met is False]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 0


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    python = platform.python_version()
    return f"{cores} cores {platform.machine()}, {memory_gib:.0f} GiB, Python {python}, {_cpu()}"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU unknown"
    )


if __name__ == "__main__":
    sys.exit(main())
