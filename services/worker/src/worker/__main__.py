"""`python -m worker`: one worker process, from its settings to its exit code.

Exit codes: 0 it left in good order; 1 a fault of its own; 2 a setting, token or version that cannot work, or
whatever else the aggregator refuses for good (one line says which).
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import TypeAlias

import httpx
from roundtable.errors import InvalidData, RoundtableError
from roundtable.messages import PROTOCOL, Join, Plan
from roundtable.sources import code_hash
from roundtable.tasks.pinned import count_labels
from roundtable.telemetry import Telemetry, source

from worker import logs, machine
from worker.agent import Agent
from worker.connection import SOCKET_OPTIONS
from worker.link import Limits, Link
from worker.points import Points
from worker.runtime import accelerator
from worker.settings import Settings, load, read_token
from worker.transport import SocketTransport
from worker.trust import client_context
from worker.work import NeedsFreshProcess

TELEMETRY_SECONDS = 5.0  # that a batch of points may take
End: TypeAlias = "BaseException | str"  # what went wrong, or what asked the worker to leave


class Ends:
    """What may end the worker, from any thread or signal handler."""

    def __init__(self) -> None:
        # Its put may interrupt itself, as a signal handler does.
        self._queue: SimpleQueue[End] = SimpleQueue()
        self._asked = False
        self.started = False  # there is something to leave

    def wait(self) -> End:
        return self._queue.get()

    def put(self, end: End) -> None:
        self._queue.put(end)

    def ask(self, reason: str) -> None:
        """Leave; before there is anything to leave, exit."""
        if not self.started:
            os._exit(0)
        self.put(reason)

    def on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The first SIGTERM or SIGINT asks the worker to leave, the second ends it at once."""
        if self._asked:
            os._exit(128 + number)
        self._asked = True
        self.ask(signal.Signals(number).name)

    def watch_input(self) -> None:
        """Ask when standard input ends: whoever started this is gone."""
        while os.read(sys.stdin.fileno(), 4096):
            pass
        self.ask("end of input")


def main(arguments: Sequence[str]) -> int:
    ends = Ends()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ends.on_signal)
    logs.configure()
    try:
        settings = load(arguments)
        sys.stdout = sys.stderr  # what a task prints belongs into the log; nobody reads the other
        machine.check_memory()
        if settings.exit_on_eof:
            threading.Thread(target=ends.watch_input, name="input", daemon=True).start()
        points = _points(settings)
        agent = _agent(settings, ends, points)
    except RoundtableError as error:
        return _refuse(error)
    ends.started = True
    points.start()
    agent.start()
    end = ends.wait()
    if isinstance(end, RoundtableError):
        if agent.joined.is_set():
            agent.leave(0.0)
            points.close()
        return _refuse(end)  # at last: `lab` shows a worker's last line
    if isinstance(end, NeedsFreshProcess):
        agent.leave(0.0)
        points.close()
        logs.say("starting over", reason=str(end))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    fault = isinstance(end, BaseException)
    agent.leave(0.0 if fault else settings.leave_seconds)
    points.close()
    return 1 if fault else 0


def _points(settings: Settings) -> Points:
    if settings.telemetry_url is None:
        return Points()
    telemetry = Telemetry(settings.telemetry_url, _telemetry_client(settings), say=logs.say)
    return Points(telemetry, source(secrets.token_hex(4)), settings.node_name, machine.memory_bytes())


def _telemetry_client(settings: Settings) -> httpx.Client:
    """To Telegraf or InfluxDB; or, without either, to the aggregator itself, which wants to see the token."""
    assert settings.telemetry_url is not None
    if not settings.telemetry_url.startswith(f"{settings.aggregator_url.rstrip('/')}/"):
        return httpx.Client(timeout=TELEMETRY_SECONDS, trust_env=False)
    headers = {"Authorization": f"Bearer {read_token(settings.join_token_file)}"}
    verify = client_context(settings.aggregator_ca) if settings.aggregator_url.startswith("https:") else True
    return httpx.Client(timeout=TELEMETRY_SECONDS, trust_env=False, headers=headers, verify=verify)


def _transport(settings: Settings) -> SocketTransport:
    """Plain HTTP by our own sockets, https by httpx."""
    secure = settings.aggregator_url.startswith("https:")
    verify = client_context(settings.aggregator_ca) if secure else False
    stock = httpx.HTTPTransport(verify=verify, trust_env=False, socket_options=SOCKET_OPTIONS)
    return SocketTransport(stock)


def _agent(settings: Settings, ends: Ends, points: Points) -> Agent:
    from worker.shelf import Shelf
    from worker.trainer import Trainer  # not where --help or a wrong setting is all there is to say

    shelf = Shelf()
    folders = (settings.tasks_dir, settings.datasets_dir, settings.data_dir)

    def make_trainer(plan: Plan) -> Trainer:
        return Trainer(plan, *folders, settings.node_name, shelf)

    join = Join(
        protocol=PROTOCOL,
        instance=secrets.token_hex(16),
        host=machine.host(),
        node=settings.node_name,
        arch=machine.arch(),
        cpus=machine.cpus(),
        memory_bytes=machine.memory_bytes(),
        accelerator=accelerator(),
        disk_free_bytes=machine.disk_free_bytes(),
        code=code_hash("roundtable", "worker"),
    )
    link = Link(
        settings.aggregator_url,
        lambda: read_token(settings.join_token_file),
        transport=_transport(settings),
    )
    if settings.data_dir is not None:
        try:
            join = join.model_copy(update={"pinned": count_labels(settings.data_dir)})
        except InvalidData as error:
            _tell(settings, join, error)
            raise InvalidData(f"DATA_DIR: {error}") from None
    touch = _Touch(settings.answered_file)
    return Agent(link, join, make_trainer, ends.put, points=points, answered=touch)


def _tell(settings: Settings, join: Join, error: InvalidData) -> None:
    """The aggregator's people as well: they may be nearer to a screen than this node is."""
    limits = Limits(connect=2.0, read=2.0, write=2.0)
    token = read_token(settings.join_token_file)
    link = Link(settings.aggregator_url, lambda: token, transport=_transport(settings), limits=limits)
    with suppress(RoundtableError):  # it refuses, as it should; or is not there
        link.join(join.model_copy(update={"trouble": f"DATA_DIR: {error}"}))
    link.close()


class _Touch:
    """Touches the file for health checks; where that cannot be done the worker looks ill, says so once, and
    works all the same.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._said = path, False

    def __call__(self) -> None:
        if self._path is None:
            return
        try:
            self._path.touch()
        except OSError as error:
            if not self._said:
                logs.warn("health file cannot be touched", file=str(self._path), detail=error.strerror)
            self._said = True


def _refuse(error: RoundtableError) -> int:
    with suppress(OSError):  # a log on a full disk: the exit code tells
        print(f"worker: {error}", file=sys.stderr, flush=True)
    return 2


if __name__ == "__main__":
    code = main(sys.argv[1:])
    # Not sys.exit: an abandoned training runs on in its thread, and the interpreter would go down under it.
    os._exit(code)
