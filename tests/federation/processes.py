"""A lab of real processes on loopback, each of which can be stopped, frozen, killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lab.api import Api, read_token
from roundtable.errors import Unreachable
from roundtable.experiment import Experiment, parse
from roundtable.messages import ENDED, CreateRun, RunDetail

ROOT = Path(__file__).parents[2]
LOST_AFTER = 4.0  # seconds
PATIENCE = 240.0  # seconds that anything may take: many workers importing TensorFlow on a busy machine

T = TypeVar("T")


@dataclass
class Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()  # frozen ones, too
        self.process.wait(10)
        if self.process.stdin is not None:
            self.process.stdin.close()


@dataclass
class Lab:
    """`folder` holds the aggregator's state, the logs and the user's tasks."""

    folder: Path
    port: int = 0
    aggregator: Child | None = None
    workers: dict[str, Child] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def tasks(self) -> Path:
        return self.folder / "tasks"

    @cached_property
    def api(self) -> Api:
        return Api(self.url, read_token(self._token("admin")))

    def _token(self, kind: str) -> Path:
        path = self.state / "tokens" / kind
        return self.wait(lambda: path if path.exists() else None, f"the aggregator's {kind} token")

    # --- processes

    def _start(self, name: str, command: list[str], environment: dict[str, str]) -> Child:
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, *command, "--exit-on-eof"],
                cwd=ROOT,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
                stdin=subprocess.PIPE,  # its end is their signal to go, should this process die
                stdout=subprocess.DEVNULL,
                stderr=file,
            )
        return Child(name, process, log)

    def start_aggregator(self) -> Child:
        command = ["-m", "aggregator", "--port", str(self.port), "--state-dir", str(self.state)]
        settings = {"LOST_AFTER": str(LOST_AFTER), "POLL_SECONDS": "1"}
        self.aggregator = self._start("aggregator", command, settings)
        return self.aggregator

    def kill_aggregator(self) -> None:
        assert self.aggregator is not None
        self.aggregator.kill()

    def start_worker(self, name: str, **environment: str) -> Child:
        settings = {
            "AGGREGATOR_URL": self.url,
            "JOIN_TOKEN_FILE": str(self._token("join")),
            "NODE_NAME": name,
            "TASKS_DIR": str(self.tasks),
            "DATASETS_DIR": str(ROOT / "datasets"),
        }
        self.workers[name] = self._start(name, ["-m", "worker"], settings | environment)
        return self.workers[name]

    def have_workers(self, *names: str) -> None:
        """Exactly these, started where they are not up; all of them have joined."""
        for name, child in list(self.workers.items()):
            if name not in names or child.process.poll() is not None:
                child.kill()
                del self.workers[name]
        for name in names:
            if name not in self.workers:
                self.start_worker(name)
        self.wait_for_workers(*names)

    def wait_for_workers(self, *names: str) -> None:
        """Until these are present, and no others."""

        def present() -> bool | None:
            found = [worker.node for worker in self.api.workers() if worker.state == "present"]
            return sorted(found) == sorted(names) or None

        self.wait(present, f"workers {', '.join(names)} and no others")

    def freeze_in_mid_round(self, run: str, name: str) -> Child:
        """SIGSTOP a worker while the round waits for it, among others perhaps. Do so early in the run."""
        child = self.workers[name]
        there = [worker for worker in self.api.workers() if (worker.node, worker.state) == (name, "present")]
        clients = {client for worker in there for client in worker.clients}
        child.signal(signal.SIGSTOP)

        def waits(detail: RunDetail) -> bool:
            return bool(clients & set(detail.cohort) - set(detail.arrived))

        self.wait_for(run, waits, f"a round that waits for {name}")
        return child

    def stop(self) -> None:
        """Everything, for good."""
        for child in [*self.workers.values(), *([self.aggregator] if self.aggregator else [])]:
            child.kill()

    # --- runs

    def submit(self, experiment: Experiment) -> str:
        return self.api.create(CreateRun(experiment=experiment, again=True))[0].id

    def run(self, experiment: Experiment) -> RunDetail:
        return self.wait_for_end(self.submit(experiment))

    def wait_for_end(self, run: str) -> RunDetail:
        return self.wait_for(run, lambda detail: detail.state in ENDED, "its end")

    def wait_for_round(self, run: str, number: int) -> RunDetail:
        """Until this round is under way."""
        return self.wait_for(
            run,
            lambda detail: detail.state == "running" and detail.round >= number - 1,
            f"its round {number}",
        )

    def wait_for(self, run: str, condition: Callable[[RunDetail], bool], what: str) -> RunDetail:
        def look() -> RunDetail | None:
            detail = self.api.run(run)
            return detail if condition(detail) else None

        return self.wait(look, f"run {run}: {what}")

    def stop_runs(self) -> None:
        for run in self.api.runs():
            if run.state not in ENDED:
                self.api.stop(run.id)
                self.wait_for_end(run.id)

    def wait(self, look: Callable[[], T | None], what: str) -> T:
        """The first answer that is something. An aggregator that is away is no answer."""
        until = time.monotonic() + PATIENCE
        step = threading.Event()
        while time.monotonic() < until:
            try:
                if (found := look()) is not None:
                    return found
            except Unreachable:
                pass
            step.wait(0.03)
        logs = [(path.name, path.read_text(errors="replace")[-1500:]) for path in self.folder.glob("*.log")]
        words = "\n".join(f"--- {name}\n{text}" for name, text in logs)
        raise AssertionError(f"waited in vain for {what}\n{words}")


def experiment(name: str, **sections: Any) -> Experiment:
    return parse({"name": name, "task": "digits", **sections})
