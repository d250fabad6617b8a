"""A lab on this machine without containers: one aggregator and any number of workers as child processes.

The state folder `RUNS_DIR/.aggregator/` belongs to one lab at a time (a lock that dies with its owner). Its
address is written there, so that `lab status` in another terminal finds the lab that is up; commands that
need an aggregator when none is up start one for as long as they take.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

from roundtable.errors import InvalidSetting, NotPossible, Unreachable
from roundtable.types import Seconds

from lab import children
from lab.api import Api, read_token
from lab.children import Child
from lab.signals import deaf, deferred

HOST: Final = "127.0.0.1"
AGGREGATOR_STARTS: Final[Seconds] = 60.0
# From SIGTERM to SIGKILL: the workers first, so that they can say goodbye, then the aggregator.
GRACE: Final[Seconds] = 0.9

_NOT_OURS: Final = (
    *("EXPERIMENT", "START_WORKERS", "SPOOL_DIR", "PUBLISHED_ON", "LOG_LEVEL", "ANSWERED_FILE"),
    *("JOIN_TOKEN_FILE", "ADMIN_TOKEN_FILE", "READ_TOKEN_FILE"),
    *("TLS_CERT_FILE", "TLS_KEY_FILE", "AGGREGATOR_CA"),
)


@dataclass(frozen=True)
class Folders:
    """Where things are. `state` is the aggregator's; each run's results go to `runs/RUN`."""

    runs: Path = Path("runs")
    tasks: Path = Path("tasks")
    datasets: Path = Path("datasets")

    @property
    def state(self) -> Path:
        return self.runs / ".aggregator"

    @property
    def logs(self) -> Path:
        return self.state / "logs"


@dataclass(frozen=True)
class Node:
    """A worker to start: its name in the lab, and the folder of its own data where it has one (pinned)."""

    name: str
    data: Path | None = None


def plain_nodes(count: int) -> tuple[Node, ...]:
    """Raises InvalidSetting."""
    if count < 1:
        raise InvalidSetting(f"--workers {count}: at least one is needed")
    return tuple(Node(f"worker-{number}") for number in range(1, count + 1))


def pinned_nodes(folder: Path) -> tuple[Node, ...]:
    """One node for each folder in `folder`, named after it. Raises InvalidSetting."""
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InvalidSetting(f"--nodes-dir {folder}: {error.strerror}") from None
    if not found:
        raise InvalidSetting(f"--nodes-dir {folder}: has no folders: give it one a node, with its data.npz")
    return tuple(Node(path.name, path.resolve()) for path in found)


@dataclass
class Native:
    """The processes of a lab that is up; `exits` gets each child that ended unasked."""

    folders: Folders
    aggregator: Child
    url: str
    workers: list[Child] = field(default_factory=list)
    exits: queue.Queue[Child] = field(default_factory=queue.Queue)

    def api(self) -> Api:
        return Api(self.url, read_token(self.folders.state / "tokens" / "admin"))

    def start_workers(self, nodes: Sequence[Node]) -> None:
        """One for each node. Raises RoundtableError when a process cannot be started."""
        state = self.folders.state
        command = [*children.python("worker"), "--exit-on-eof"]
        for node in nodes:
            environment = _inherited() | {
                "AGGREGATOR_URL": self.url,
                "JOIN_TOKEN_FILE": str(state / "tokens" / "join"),
                "NODE_NAME": node.name,
                "TASKS_DIR": str(self.folders.tasks),
                "DATASETS_DIR": str(self.folders.datasets),
                "DATA_DIR": str(node.data or ""),  # empty: none
                "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
                "LEAVE_SECONDS": str(GRACE / 2),
                "PYTHONUNBUFFERED": "1",
            }
            log = self.folders.logs / f"{node.name}.log"
            with deferred():
                self.workers.append(children.start(node.name, command, environment, log, self._ended))

    def renew_aggregator(self) -> None:
        """Another process in its place, at the same address; the workers find it by themselves. Raises
        Unreachable."""
        with deaf():
            children.stop([self.aggregator], GRACE)
        with deferred():
            self.aggregator = _start_aggregator(self.folders, urlsplit(self.url).port or 0, self._ended, True)
        _address(self.aggregator)

    def _ended(self, child: Child) -> None:
        if child.wanted:
            self.exits.put(child)


@contextmanager
def native(folders: Folders, *, port: int = 0) -> Iterator[Native]:
    """An aggregator of our own, stopped with its workers on the way out, whatever happens inside.

    Raises InvalidSetting (port, folder), NotPossible (another lab is up there), Unreachable (did not start).
    """
    _check_port(port)
    with _locked(folders) as lock:
        aggregator: Child | None = None
        lab: Native | None = None
        exits: queue.Queue[Child] = queue.Queue()
        try:
            with deferred():
                aggregator = _start_aggregator(
                    folders, port, lambda child: exits.put(child) if child.wanted else None, False
                )
            lab = Native(folders, aggregator, _address(aggregator), exits=exits)
            _write_address(lock, lab.url)
            yield lab
        finally:
            with deaf():
                children.stop(lab.workers if lab else [], GRACE)
                aggregator = lab.aggregator if lab else aggregator
                children.stop([aggregator] if aggregator else [], GRACE)


def attached(folders: Folders) -> Api | None:
    """The lab that is up on these folders, started by another `lab`; None where there is none.

    Raises Unreachable while it is starting, InvalidSetting where they are not to be looked into.
    """
    path = folders.state / "lab.json"
    try:
        file = path.open("r+", encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unusable(folders, error) from None
    with file:
        if _try_lock(file):
            return None  # whoever wrote the address is gone
        try:
            url = str(json.load(file)["url"])
        except (ValueError, KeyError):
            raise Unreachable(f"a lab is just starting on {folders.runs}/: try again in a moment") from None
    return Api(url, read_token(folders.state / "tokens" / "admin"))


def _inherited() -> dict[str, str]:
    """The environment, without what is exported for a lab of another kind, a container's above all."""
    return os.environ | dict.fromkeys(_NOT_OURS, "")


def _start_aggregator(
    folders: Folders, port: int, on_exit: Callable[[Child], None], workers_are_there: bool
) -> Child:
    options = ["--host", HOST, "--port", str(port), "--state-dir", str(folders.state), "--exit-on-eof"]
    environment = _inherited() | {
        "PYTHONUNBUFFERED": "1",
        "REPORTS_DIR": str(folders.runs),
        # Children, all of them: those of a lab before this one are gone.
        "WORKERS_OUTLIVE_AGGREGATOR": str(workers_are_there).lower(),
    }
    command, log = [*children.python("aggregator"), *options], folders.logs / "aggregator.log"
    return children.start("aggregator", command, environment, log, on_exit)


def _address(aggregator: Child) -> str:
    """From its first line. Raises Unreachable with its last words."""
    aggregator.said.wait(AGGREGATOR_STARTS)
    word, _, url = aggregator.first_line.partition(" ")
    if word == "listening" and url:
        return url
    why = aggregator.last_words or f"it said nothing for {AGGREGATOR_STARTS:.0f} s"
    raise Unreachable(f"the aggregator did not start: {why} (log: {aggregator.log})")


def _check_port(port: int) -> None:
    if not port:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise InvalidSetting(
                f"--port {port}: {(error.strerror or str(error)).lower()}: choose another, or leave it out"
            ) from None


@contextmanager
def _locked(folders: Folders) -> Iterator[IO[str]]:
    try:
        folders.state.mkdir(parents=True, exist_ok=True)
        file = (folders.state / "lab.json").open("a+", encoding="utf-8")
    except OSError as error:
        raise _unusable(folders, error) from None
    with file:
        if not _try_lock(file):
            raise NotPossible(
                f"another lab is using {folders.runs}/: wait for it, or use another folder with --runs-dir"
            )
        file.truncate(0)
        try:
            yield file
        finally:
            file.truncate(0)


def _unusable(folders: Folders, error: OSError) -> InvalidSetting:
    there = folders.state.is_dir()  # the runs that are meant are in it, and looking at them writes, too
    mend = "copy it to where it can be written to, and name the copy" if there else "choose another folder"
    return InvalidSetting(f"{folders.runs}: {error.strerror}: {mend} with --runs-dir")


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_address(lock: IO[str], url: str) -> None:
    json.dump({"url": url, "pid": os.getpid(), "since": time.time()}, lock)
    lock.flush()
