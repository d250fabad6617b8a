"""`make bench-monitoring`: what monitoring does to the seconds of a round, and what its own containers take.

One run of the compose lab; its monitoring is frozen and let go again every few rounds: with, without,
without, with, and so on. So neither a machine that slowly changes nor what one set of processes happens to be
like passes for an effect. A round is the time from one commit to the next; those that a switch falls into and
the first after it do not count. The lab's own sending of points goes on in both: its cost is not seen here.
`monitoring_figures` makes the ratio and its interval of it.

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
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import psutil
from roundtable import experiment as experiments
from roundtable.errors import RoundtableError, RunFailed

from tests.benchmarks.monitoring_figures import AT_MOST, Block, effect, told, used
from tests.stack import monitoring_images
from tests.stack.compose_stack import Stack, engine_answers

WARM_UP = 10  # rounds before the first block: tracing, the first fetch of everything
SETTLE = 1  # rounds of each block that do not count, besides those that the switch falls into
FOR_EVER = 100_000  # rounds
EXPERIMENT = """name = "monitoring-effect"
task = "mnist"
[task_options]
model = "mlp"
[clients]
count = {clients}
[partition]
kind = "fixed"
size = 840
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
        """Seconds of dockerd, containerd not included."""
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            times = psutil.Process(int(Path("/var/run/docker.pid").read_text())).cpu_times()
            return times.user + times.system
        return None


@dataclass
class Bench:
    stack: Stack
    services: tuple[str, ...]  # of monitoring, those that there are images for
    workers: int
    rounds: int
    clients: int
    engine: Engine
    run: str = ""
    monitored: bool = True
    containers: dict[str, str] = field(default_factory=dict)  # of monitoring; asking Compose takes time

    def begin(self) -> None:
        """Both images as the code is now, and monitoring up."""
        self.stack.compose("build", "--quiet", "aggregator", "worker", timeout=900)
        self.stack.compose("up", "-d", "--no-build", "--no-deps", "--wait", "influxdb", timeout=180)
        names = [name for name in self.services if name != "influxdb"]
        self.stack.compose("up", "-d", "--no-build", "--no-deps", "influxdb-setup", *names, timeout=300)
        self.containers = {name: self.stack.containers(name)[0] for name in self.services}
        self._seen("the machine's own points", "SELECT last(usage_idle) FROM cpu")

    def block(self, monitored: bool) -> Block:
        """The next rounds of the run; monitoring is as it was left, or is switched."""
        self._switch(monitored)
        cpu, begun = self._cpu(monitored), time.time()
        self._reach(self._done() + SETTLE + self.rounds + 1)
        ended = time.time()  # asking the engine takes it time, and rounds too
        spent = {name: now - cpu[name] for name, now in self._cpu(monitored).items()}
        history = self.stack.ask(f"/v1/runs/{self.run}")["history"]
        commits = [one["committed"] for one in history if begun < one["committed"] <= ended][SETTLE:]
        rss = {name: self.engine.stats(one)[1] for name, one in self.containers.items() if monitored}
        seconds = tuple(later - earlier for earlier, later in itertools.pairwise(commits))
        return Block(monitored, seconds, ended - begun, spent, rss)

    def _switch(self, monitored: bool) -> None:
        if monitored is not self.monitored:
            self.stack.compose("unpause" if monitored else "pause", *self.services)
            self.monitored = monitored

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
        self._reach(WARM_UP)
        recent = "worker =~ /^w/ AND time > now() - 30s"
        self._seen("the aggregator's points", f"SELECT count(round) FROM fl_round WHERE run = '{self.run}'")
        self._seen(
            "workers' containers", f"SELECT last(usage_percent) FROM docker_container_cpu WHERE {recent}"
        )

    def _done(self) -> int:
        view = self.stack.ask(f"/v1/runs/{self.run}")
        if view["state"] in ("failed", "stopped"):
            raise RunFailed(f"{self.run} {view['state']}: {view['reason']}")
        return int(view["round"])

    def _reach(self, number: int) -> None:
        self.stack.until(lambda: self._done() >= number, 900, every=2.0)  # seldom: asking takes time too

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
                bench = Bench(
                    stack, images.services, options.workers, options.rounds, options.clients, engine
                )
                bench.begin()
                bench.start()
                yield bench
            finally:
                stack.attempt("unpause", *images.services)
                stack.down("--volumes")


def measure(bench: Bench, pairs: int) -> Iterator[Block]:
    """With, without, without, with, … ."""
    for number in range(pairs):
        for monitored in (True, False) if number % 2 == 0 else (False, True):
            yield bench.block(monitored)


def main() -> int:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.monitoring_effect", description=__doc__)
    parser.add_argument(
        "--pairs", type=int, default=24, help="pairs of blocks, one with and one without (2 or more)"
    )
    parser.add_argument("--rounds", type=int, default=8, help="of each block that count")
    parser.add_argument("--clients", type=int, default=30, help="of 840 images each: how long a round is")
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
    begun, blocks = time.monotonic(), []
    try:
        with started(options) as bench:
            print(
                f"{options.workers} workers on {cores} cores; monitoring: {', '.join(bench.services)}",
                flush=True,
            )
            for block in measure(bench, options.pairs):
                blocks.append(block)
                print(
                    f"{'with' if block.monitored else 'without':>8}:"
                    f" median {statistics.median(block.seconds):.3f} s,"
                    f" mean {statistics.fmean(block.seconds):.3f} s, {len(block.seconds)} rounds"
                    f"   ({time.monotonic() - begun:.0f} s)",
                    flush=True,
                )
    except RoundtableError as error:
        print(f"bench-monitoring: {error}", file=sys.stderr)
        return 1
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
