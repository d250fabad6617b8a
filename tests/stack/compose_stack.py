"""The compose stack under a project name of its own, and what tests ask of it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
FILES = ("compose.yaml", "tests/stack/compose.test.yaml")


def docker(*words: str, timeout: float = 120) -> str:
    """The command's output; fails with what it said."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr[-3000:]}"
    return done.stdout


def engine_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@dataclass
class Stack:
    """Use `up`, and `down` at the end whatever happened."""

    project: str = field(default_factory=lambda: f"roundtable-test-{os.getpid()}")
    port: int = field(default_factory=_free_port)
    settings: dict[str, str] = field(default_factory=dict)  # over the tests' own
    files: tuple[str, ...] = FILES

    def compose(self, *words: str, timeout: float = 120) -> str:
        done = self.attempt(*words, timeout=timeout)
        assert done.returncode == 0, f"compose {' '.join(words)}: {done.stderr[-3000:]}"
        return done.stdout

    def attempt(self, *words: str, timeout: float = 120, **settings: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", "--profile", "slow", *words]
        return subprocess.run(
            command, cwd=ROOT, env=self._env | settings, capture_output=True, text=True, timeout=timeout
        )

    def make(self, *words: str, timeout: float = 120, **settings: str) -> subprocess.CompletedProcess[str]:
        """As a user does it."""
        return subprocess.run(
            ["make", *words],
            cwd=ROOT,
            env=self._env | settings,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def lab(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("lab"), *words, "--url", f"http://127.0.0.1:{self.port}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)

    @property
    def _env(self) -> dict[str, str]:
        own = {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": ":".join(self.files),
            "COMPOSE_ENV_FILES": os.devnull,
            "PORT": str(self.port),
            "GRAFANA_PORT": str(self.port + 1 if self.port < 65535 else 3000),
            "EXPERIMENT": "experiments/mnist.toml",
            "START_WORKERS": "5",
            "AGGREGATOR_IMAGE": "roundtable-aggregator:test",
            "WORKER_IMAGE": "roundtable-worker:test",
        }
        return os.environ | own | self.settings

    def up(self, workers: int, slow: int = 0) -> None:
        scale = ("--scale", f"worker={workers}", "--scale", f"worker-slow={slow}")
        self.compose("up", "-d", "--no-build", *scale, timeout=300)

    def down(self, *words: str) -> None:
        self.compose("down", "--timeout", "5", *words)

    def containers(self, service: str) -> list[str]:
        """Short ids of those that run."""
        return [identity[:12] for identity in self.compose("ps", "-q", service).split()]

    def inspect(self, container: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", container))
        return found[0]

    def last_words(self, service: str) -> list[str]:
        """What this service's containers wrote, without time and name."""
        # Compose tells a terminal to clear lines, though there is none.
        told = self.compose("logs", "--no-color", "--no-log-prefix", service)
        return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", told).splitlines()

    # --- the aggregator

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        url = f"http://127.0.0.1:{self.port}{path}"
        if body is None:
            reply = httpx.get(url, timeout=10)
        else:
            headers = {"Authorization": f"Bearer {self.token('admin/token')}"}
            reply = httpx.post(url, json=body, timeout=10, headers=headers)
        assert reply.is_success, f"{url}: {reply.status_code} {reply.text}"
        return reply.json()

    def token(self, name: str) -> str:
        return self.compose("exec", "-T", "aggregator", "cat", f"/tokens/{name}").strip()

    def present(self) -> list[dict[str, Any]]:
        return [worker for worker in self.ask("/v1/workers") if worker["state"] == "present"]

    def beyond(self, run: str, rounds: int = 2, seconds: float = 300) -> dict[str, Any]:
        """The run, once it has committed so many more rounds than now."""
        target = self.until(lambda: self.ask(f"/v1/runs/{run}"), seconds)["round"] + rounds

        def there() -> dict[str, Any] | None:
            detail: dict[str, Any] = self.ask(f"/v1/runs/{run}")
            assert detail["state"] not in ("failed", "stopped"), detail["reason"]
            return detail if detail["round"] >= target else None

        return self.until(there, seconds)

    def verify(self, run: str) -> None:
        """The ledger's chain, and every kept file against it."""
        words = ("python", "-m", "aggregator", "verify", run, "--state-dir", "/state")
        self.compose("exec", "-T", "aggregator", *words)

    # --- the database

    def points(self, query: str) -> list[dict[str, Any]]:
        """The series of the answer, which comes in several results where there are several series."""
        words = ("influx", "-database", "lab", "-format", "json", "-execute", query)
        answer = json.loads(self.compose("exec", "-T", "influxdb", *words))
        assert not any("error" in result for result in answer["results"]), answer
        return [series for result in answer["results"] for series in result.get("series", [])]

    # --- waiting

    def until(self, check: Callable[[], Any], seconds: float, every: float = 0.5) -> Any:
        """What `check` says, once it says something; what answers nothing (yet) is asked again."""
        deadline, pause, last = time.monotonic() + seconds, threading.Event(), "nothing"
        while time.monotonic() < deadline:
            try:
                if found := check():
                    return found
            except httpx.TransportError as error:
                last = repr(error)
            pause.wait(every)
        logs = self.attempt("logs", "--tail", "15").stdout
        raise AssertionError(f"not within {seconds:g} s ({last})\n{logs}")
