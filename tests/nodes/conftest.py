"""An aggregator as a process that speaks TLS, with certificates made as `make certs` makes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lab import certificates

ROOT = Path(__file__).parents[2]
# A worker as it is, but for TensorFlow, which takes seconds to import.
QUICK = """
import os, sys, types
sys.modules["worker.trainer"] = types.SimpleNamespace(Trainer=None)
import worker.runtime
worker.runtime.accelerator = lambda: None
import worker.__main__ as process
os._exit(process.main(sys.argv[1:]))
"""
WAIT = 240.0  # seconds that anything may take: workers importing TensorFlow on a busy machine


@dataclass
class Process:
    """One child with its log in a file; ended with the test."""

    child: subprocess.Popen[bytes]
    log: Path

    @property
    def lines(self) -> list[str]:
        return self.log.read_text(errors="replace").splitlines()

    def says(self, *words: str) -> str:
        """The first line that has all of these words, once it is there."""
        return wait_for(
            lambda: next((line for line in self.lines if all(word in line for word in words)), None),
            lambda: f"{words} in {self.log.name}:\n" + "\n".join(self.lines[-30:]),
        )

    def field(self, *words: str, name: str = "detail") -> str:
        return str(json.loads(self.says(*words))[name])

    def code(self) -> int:
        return self.child.wait(WAIT)

    def leave(self) -> None:
        """As one that is told to."""
        self.child.terminate()
        self.child.wait(WAIT)

    def end(self) -> None:
        self.child.kill()
        self.child.wait(WAIT)
        if self.child.stdin is not None:
            self.child.stdin.close()


def wait_for(look: Callable[[], object], what: Callable[[], str]):
    until, step = time.monotonic() + WAIT, threading.Event()
    while time.monotonic() < until:
        if found := look():
            return found
        step.wait(0.02)
    raise AssertionError(f"waited in vain for {what()}")


@dataclass
class Hosts:
    """Starts processes, each with a log in `folder`."""

    folder: Path
    processes: list[Process] = field(default_factory=list)

    def start(self, name: str, *command: str, before: Sequence[str] = (), **environment: str) -> Process:
        """`before`: words in front of the command."""
        log = self.folder / f"{name}-{len(self.processes)}.log"
        with log.open("wb") as file:
            child = subprocess.Popen(
                [*before, sys.executable, *command, "--exit-on-eof"],
                cwd=ROOT,
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)} | environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(Process(child, log))
        return self.processes[-1]

    def aggregator(self, **environment: str) -> tuple[Process, str]:
        """The process and the address that it says."""
        state = self.folder / "state"
        given = {"AGGREGATOR_PORT": "0", **environment}
        process = self.start("aggregator", "-m", "aggregator", "--state-dir", str(state), **given)
        return process, process.says("listening ").split()[1]

    def node(
        self, name: str, url: str, changed: str = "", before: Sequence[str] = (), **environment: str
    ) -> Process:
        """A worker that can do all but train. `changed`: Python that goes before it."""
        token = str(self.join_token)
        settings = {"AGGREGATOR_URL": url, "JOIN_TOKEN_FILE": token, "NODE_NAME": name, **environment}
        return self.start(name, "-c", f"{changed}\n{QUICK}", before=before, **settings)

    @property
    def join_token(self) -> Path:
        return self.folder / "state" / "tokens" / "join"

    @property
    def admin_token(self) -> Path:
        return self.folder / "state" / "tokens" / "admin"

    def end(self) -> None:
        for process in reversed(self.processes):
            process.end()


@pytest.fixture(scope="session")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, server.pem and their keys, for this machine."""
    folder = tmp_path_factory.mktemp("certs")
    certificates.make(folder, ["lab.local"])
    return folder


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    running = Hosts(tmp_path)
    yield running
    running.end()


def tls(certs: Path) -> dict[str, str]:
    return {"TLS_CERT_FILE": str(certs / "server.pem"), "TLS_KEY_FILE": str(certs / "server.key")}
