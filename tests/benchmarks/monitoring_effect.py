"""`make bench-monitoring`: what monitoring does to the seconds of a round, and what its own containers take.

One run of the compose lab; its monitoring is frozen and let go again in turn: with, without, without, with,
and so on (ABBA: a machine that slowly changes passes for no effect, and every second block needs no switch).

- A block is 30 s by the clock, three readings of 10 s and six writes of 5 s. A health check comes every 60 s,
  and begins anew when a container is let go: 60 s later the second of two blocks with monitoring on end is
  under way, so that the two hold one check of each container, as any two such blocks do. In a shorter one
  some of it falls in or out by chance, or never.
- The 5 s after a switch do not count: the switch itself takes CPU, and Telegraf, let go, reads and writes at
  once what it missed. A round is the time from one commit to the next and counts where all of it is in a
  block.
- Nobody is asked anything within a block: the rounds are read from the run's history at the end.
- The lab's own sending of points is part of the effect, its making of them is not: while Telegraf is frozen,
  requests hang and fail 5 s later, and who pauses between tries is back up to 16 s after the switch. One
  request a second takes a process a thousandth of a core, so those seconds do not matter; a point is made in
  24 us.
- Both blocks of a pair are close in time, and each pair makes one ratio. Tried on simulated noise (white,
  drifting, in bursts), Student's interval of seven such pairs held what it promises; the bootstrap's, of so
  few, held 86 %, and fits of the drift were no narrower. `monitoring_figures` does that arithmetic.
- What cannot be controlled is told: the load at the beginning, and the time that the hypervisor took.

Not part of the tests: it needs Docker, a quiet machine and ten minutes. Images that can be neither found nor
pulled are made of programs on this machine (`tests.stack.monitoring_images`).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from roundtable import experiment as experiments
from roundtable.errors import RoundtableError, RunFailed

from tests.benchmarks.monitoring_figures import AT_MOST, Block, effect, told, used
from tests.stack import monitoring_images
from tests.stack.compose_stack import Stack, engine_answers

WARM_UP = 10  # rounds before the first block: tracing, the first fetch of everything
BLOCK = 30.0  # seconds
SETTLE = 5.0  # seconds after a switch
FEWEST = 8  # rounds in a block
FOR_EVER = 100_000  # rounds
EXPERIMENT = """name = "monitoring-effect"
task = "mnist"
[task_options]
model = "mlp"
[clients]
count = {clients}
[partition]
kind = "fixed"
size = 2500
[rounds]
count = {rounds}
"""


class Engine:
    """What it tells of containers, and what it takes itself where it runs on this machine."""

    def __init__(self) -> None:
        address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        if not address.startswith("unix://"):
            raise RunFailed(f"DOCKER_HOST={address}: CPU and memory can be read at an engine's socket alone")
        socket = address.removeprefix("unix://")
        self._api = httpx.Client(
            transport=httpx.HTTPTransport(uds=socket), base_url="http://engine", timeout=30
        )

    def stats(self, container: str) -> tuple[float, float]:
        reply = self._api.get(
            f"/v1.41/containers/{container}/stats", params={"stream": "false", "one-shot": "true"}
        )
        return used(reply.raise_for_status().json())

    def own_cpu(self) -> float | None:
        """Seconds of dockerd, containerd, its shims and what they started and have seen end, health checks
        above all; None where the engine is not among this machine's processes."""
        seconds, found = 0.0, False
        for process in psutil.process_iter(["name", "cpu_times"]):
            name, times = process.info["name"], process.info["cpu_times"]
            if times and (name == "dockerd" or name.startswith("containerd")):
                found = found or name == "dockerd"
                seconds += times.user + times.system + times.children_user + times.children_system
        return seconds if found else None


@dataclass(frozen=True)
class Window:
    """A block while the run goes on: when it was, in Unix seconds, and what was used; rounds come later."""

    monitored: bool
    begun: float
    ended: float
    cpu_s: dict[str, float]
    rss_mb: dict[str, float]
    stolen: float  # of the time of all cores


@dataclass
class Bench:
    stack: Stack
    services: tuple[str, ...]  # of monitoring, those that there are images for
    workers: int
    clients: int
    engine: Engine
    run: str = ""
    monitored: bool = True
    containers: dict[str, str] = field(default_factory=dict)  # of monitoring; asking Compose takes time
    clock: threading.Event = field(default_factory=threading.Event)  # never set: a block ends by time

    def begin(self) -> None:
        """Both images as the code is now, and monitoring up."""
        self.stack.compose("build", "--quiet", "aggregator", "worker", timeout=900)
        self.stack.compose("up", "-d", "--no-build", "influxdb-setup", *self.services, timeout=300)
        self.containers = {name: self.stack.containers(name)[0] for name in self.services}
        self._seen("the machine's own points", "SELECT last(usage_idle) FROM cpu")

    def window(self, monitored: bool) -> Window:
        """The next block of the run; monitoring is as it was left, or is switched."""
        if monitored is not self.monitored:
            for container in self.containers.values():
                self.stack.until(lambda one=container: self._switched(one, monitored), 30)
            self.monitored = monitored
            self.clock.wait(SETTLE)
        cpu, stolen, begun = self._cpu(monitored), psutil.cpu_times(), time.time()
        self.clock.wait(BLOCK)
        ended, now = time.time(), psutil.cpu_times()
        spent = {name: seconds - cpu[name] for name, seconds in self._cpu(monitored).items()}
        rss = {name: self.engine.stats(one)[1] for name, one in self.containers.items() if monitored}
        share = (getattr(now, "steal", 0.0) - getattr(stolen, "steal", 0.0)) / (sum(now) - sum(stolen))
        return Window(monitored, begun, ended, spent, rss, share)

    def _switched(self, container: str, monitored: bool) -> bool:
        """False where it is to be tried again: what has just begun a health check cannot always be frozen."""
        words = ["docker", "unpause" if monitored else "pause", container]
        return subprocess.run(words, capture_output=True, timeout=60).returncode == 0

    def blocks(self, windows: Sequence[Window]) -> list[Block]:
        """With the rounds that are wholly within."""
        commits = [one["committed"] for one in self._view()["history"]]
        rounds = list(itertools.pairwise(commits))
        return [
            Block(
                one.monitored,
                tuple(end - start for start, end in rounds if one.begun <= start and end <= one.ended),
                one.ended - one.begun,
                one.cpu_s,
                one.rss_mb,
                one.stolen,
            )
            for one in windows
        ]

    def start(self) -> None:
        """The run, past its first rounds, and seen by monitoring: what sees nothing costs nothing."""
        scale = f"worker={self.workers}"
        lab = ("--scale", scale, "aggregator", "worker")
        self.stack.compose("up", "-d", "--no-build", "--no-deps", *lab)
        hosts = set(self.stack.containers("worker"))
        self.stack.until(lambda: {worker["host"] for worker in self.stack.present()} >= hosts, 300)
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            file = Path(folder) / "experiment.toml"
            file.write_text(EXPERIMENT.format(clients=self.clients, rounds=FOR_EVER), encoding="utf-8")
            body = experiments.load(file).model_dump(mode="json")
        self.run = self.stack.ask("/v1/runs", {"experiment": body})["id"]
        view = self.stack.until(lambda: view if (view := self._view())["round"] >= WARM_UP else None, 600)
        recent = statistics.median(record["seconds"] for record in view["history"][-4:])
        if FEWEST * recent > BLOCK:
            raise RunFailed(
                f"a round takes {recent:.1f} s here, and a block of {BLOCK:g} s is to hold {FEWEST}:"
                " wait until nothing else runs, or give fewer --clients"
            )
        now = "worker =~ /^w/ AND time > now() - 30s"
        self._seen("the aggregator's points", f"SELECT count(round) FROM fl_round WHERE run = '{self.run}'")
        self._seen("workers' containers", f"SELECT last(usage_percent) FROM docker_container_cpu WHERE {now}")

    def _view(self) -> dict[str, Any]:
        view: dict[str, Any] = self.stack.ask(f"/v1/runs/{self.run}")
        if view["state"] in ("failed", "stopped"):
            raise RunFailed(f"{self.run} {view['state']}: {view['reason']}")
        return view

    def _cpu(self, monitored: bool) -> dict[str, float]:
        """Seconds so far."""
        seconds = {name: self.engine.stats(one)[0] for name, one in self.containers.items() if monitored}
        own = self.engine.own_cpu()
        return seconds if own is None else seconds | {"dockerd": own}

    def _seen(self, what: str, query: str) -> None:
        try:
            self.stack.until(lambda: self.stack.points(query), 40)
        except AssertionError as error:
            said = "\n".join(self.stack.last_words("telegraf")[-3:])
            raise RunFailed(
                f"{what} are not in InfluxDB, so nothing is measured; Telegraf says: {said}"
            ) from error


@contextlib.contextmanager
def started(options: argparse.Namespace) -> Iterator[Bench]:
    """The lab without a block yet; gone at the end, with its volumes and what was built to stand in."""
    engine = Engine()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        override = Path(folder) / "compose.bench.yaml"
        with monitoring_images.found() as images:
            override.write_text(json.dumps({"services": images.overrides}), encoding="utf-8")  # JSON is YAML
            stack = Stack(
                project=f"roundtable-bench-{os.getpid()}",
                settings={"EXPERIMENT": "", "START_WORKERS": "", "TELEMETRY_URL": "http://telegraf:8186"},
                files=("compose.yaml", str(override)),
            )
            try:
                bench = Bench(stack, images.services, options.workers, options.clients, engine)
                bench.begin()
                bench.start()
                yield bench
            finally:
                stack.attempt("unpause", *images.services)
                stack.down("--volumes")


def order(pairs: int) -> Iterator[bool]:
    """With, without, without, with, … ."""
    for number in range(pairs):
        yield from (True, False) if number % 2 == 0 else (False, True)


def main() -> int:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.monitoring_effect", description=__doc__)
    parser.add_argument(
        "--pairs", type=int, default=7, help="of blocks of 30 s, one with and one without (2 or more)"
    )
    parser.add_argument("--clients", type=int, default=10, help="of 2500 images each: how long a round is")
    parser.add_argument(
        "--workers", type=int, default=min(5, cores), help="as many as cores, so that all of them are busy"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("bench-monitoring.json"), help="where the figures go"
    )
    options = parser.parse_args()
    if options.pairs < 2:
        parser.error("--pairs: one pair has no interval: give 2 or more")
    if not engine_answers():
        parser.error("no Docker engine answers: docker info says more")
    if (load := os.getloadavg()[0]) > 0.5:
        print(
            f"note: the load is {load:.1f}: this machine is not quiet, and the interval will be wide",
            flush=True,
        )
    begun, windows = time.monotonic(), []
    try:
        with started(options) as bench:
            print(
                f"{options.workers} workers on {cores} cores; monitoring: {', '.join(bench.services)}",
                flush=True,
            )
            for monitored in order(options.pairs):
                windows.append(bench.window(monitored))
                name = "with" if monitored else "without"
                print(f"{name:>8}: block {len(windows)}   ({time.monotonic() - begun:.0f} s)", flush=True)
            blocks = bench.blocks(windows)
    except RoundtableError as error:
        print(f"bench-monitoring: {error}", file=sys.stderr)
        return 1
    if not all(block.seconds for block in blocks):
        print("bench-monitoring: a block holds no whole round: give fewer --clients", file=sys.stderr)
        return 1
    for block in blocks:
        print(
            f"{'with' if block.monitored else 'without':>8}: median {statistics.median(block.seconds):.3f} s,"
            f" mean {statistics.fmean(block.seconds):.3f} s, {len(block.seconds)} rounds"
        )
    options.output.write_text(
        json.dumps([asdict(block) for block in blocks], indent=1) + "\n", encoding="utf-8"
    )
    print(f"\n{told(blocks)}\n\nwritten to {options.output}")
    found = effect(blocks, median=False)
    if (resolution := found.resolution) > AT_MOST - 1:
        print(
            f"this machine was too unquiet: only an effect above {resolution:.1%} could be told",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
