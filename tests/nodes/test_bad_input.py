"""What goes wrong with nodes ends in one clear line at both ends (certificates: test_tls)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import worker.__main__ as process
from lab.api import Api, read_token
from roundtable.errors import IncompatibleVersion, NotPossible, Unauthorized, Unreachable
from roundtable.experiment import parse
from roundtable.messages import PROTOCOL, CreateRun, Join, Order, OrderResult, PinnedData, Poll
from worker.link import Link

from tests.nodes.conftest import Hosts, Process, wait_for

LATE = "import time; right = time.time; time.time = lambda: right() - 5 * 3600"
OLD = "import roundtable.messages; roundtable.messages.PROTOCOL = 0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Hosts, Process, str]]:
    """One aggregator for those that do no harm to it."""
    hosts = Hosts(tmp_path_factory.mktemp("server"))
    process, url = hosts.aggregator(POLL_SECONDS="0.2")
    yield hosts, process, url
    hosts.end()


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Run a worker that ends by itself; its one line."""
    monkeypatch.setitem(sys.modules, "worker.trainer", SimpleNamespace(Trainer=None))  # type: ignore[arg-type]
    monkeypatch.setattr(process, "accelerator", lambda: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def run(hosts: Hosts, url: str, name: str, **options: object) -> str:
        given = {"aggregator_url": url, "join_token_file": hosts.join_token, "node_name": name, **options}
        arguments = [f"--{option.replace('_', '-')}={value}" for option, value in given.items()]
        assert process.main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def introduction(**fields: object) -> Join:
    given = {"protocol": PROTOCOL, "instance": os.urandom(16).hex(), "host": "h", "node": "n", "arch": "x"}
    return Join(**{**given, "cpus": 1, "memory_bytes": 1, **fields})  # type: ignore[arg-type]


def link(hosts: Hosts, url: str) -> Link:
    return Link(url, lambda: hosts.join_token.read_text().strip())


def test_a_token_that_is_wrong_or_was_replaced(
    server: tuple[Hosts, Process, str], tmp_path: Path, refusal: Callable[..., str]
) -> None:
    hosts, aggregator, url = server
    old = tmp_path / "old-token"
    old.write_text("the-token-of-last-year")
    line = refusal(hosts, url, "pi-1", join_token_file=old)
    assert re.match(r"worker: JOIN_TOKEN_FILE: the aggregator at http://\S+ refuses the token in it", line)
    assert "not the aggregator's join token" in aggregator.field("join refused", "127.0.0.1", "token")


def test_an_address_where_nobody_answers_and_one_where_somebody_else_does(
    server: tuple[Hosts, Process, str], refusal: Callable[..., str]
) -> None:
    hosts, aggregator, url = server
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9: ConnectError: .*Connection refused"):
        link(hosts, "http://127.0.0.1:9").join(introduction())
    line = refusal(hosts, f"{url}/other", "pi-3")
    assert line.startswith(f"worker: AGGREGATOR_URL: what answers at {url}/other is no aggregator (")
    assert "its AGGREGATOR_URL ends in /other, which is to go" in line
    assert "AGGREGATOR_URL ends in /other" in aggregator.field("join refused", "/other")
    assert "'10.0.0.5:8080' is no address: write it like" in refusal(hosts, "10.0.0.5:8080", "pi-4")


@pytest.mark.slow
def test_a_node_that_reaches_nobody_says_so_once_and_joins_when_somebody_is_there(hosts: Hosts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    token = hosts.folder / "join-token"
    token.write_text("a-token-that-is-copied-to-both-ends")
    token.chmod(0o600)
    settings = {"JOIN_TOKEN_FILE": str(token), "POLL_SECONDS": "0.2"}
    node = hosts.node("pi-10", f"http://127.0.0.1:{port}", **settings)
    assert "Connection refused" in node.field("waiting for the aggregator")
    hosts.aggregator(AGGREGATOR_PORT=str(port), **settings)
    node.says("joined")
    assert [json.loads(line)["event"] for line in node.lines] == ["waiting for the aggregator", "joined"]


@pytest.mark.slow
def test_a_node_whose_token_has_expired_since_it_joined_ends_in_one_line_at_both_ends(hosts: Hosts) -> None:
    first, url = hosts.aggregator(POLL_SECONDS="0.2")
    copied = hosts.folder / "join-token"
    copied.write_bytes(hosts.join_token.read_bytes())
    node = hosts.node("pi-11", url, JOIN_TOKEN_FILE=str(copied))
    node.says("joined")
    first.end()
    shutil.rmtree(hosts.join_token.parent)  # so that others are made
    again, _ = hosts.aggregator(AGGREGATOR_PORT=url.rpartition(":")[2])
    assert node.code() == 2
    assert re.match(r"worker: JOIN_TOKEN_FILE: .* refuses the token in it .* again\)$", node.lines[-1])
    events = [json.loads(line)["event"] for line in node.lines[:-1]]
    assert [event for event in events if event != "aggregator lost"] == ["joined", "session lost", "leaving"]
    assert "not the aggregator's join token" in again.field("join refused", "127.0.0.1")


def test_a_clock_hours_off_and_a_health_file_that_cannot_be_written_are_told_and_the_node_works_all_the_same(
    server: tuple[Hosts, Process, str], tmp_path: Path
) -> None:
    hosts, aggregator, url = server
    node = hosts.node("late", url, LATE, ANSWERED_FILE=str(tmp_path / "gone" / "answered"))
    expected = "node late's clock is 5 hours behind the aggregator's: set it (timedatectl set-ntp true)"
    assert expected in node.field("the aggregator warns")
    assert expected in aggregator.field("a node should be looked at", "late")
    assert "No such file" in node.field("health file cannot be touched")
    aggregator.says("worker is there", '"node": "late"')
    assert [json.loads(line)["event"] for line in node.lines] == [
        "joined",
        "the aggregator warns",
        "health file cannot be touched",
    ]


def test_another_version(server: tuple[Hosts, Process, str]) -> None:
    hosts, aggregator, url = server
    node = hosts.node("pi-old", url, OLD)
    assert node.code() == 2
    (line,) = node.lines
    assert line.startswith("worker: the worker speaks protocol version 0, this aggregator version 1: update")
    with pytest.raises(IncompatibleVersion, match="version 0, this aggregator version 1: update the worker"):
        link(hosts, url).join(introduction(protocol=0))
    assert "update the worker" in aggregator.field("join refused", "version 0")


def test_a_node_whose_name_is_taken_says_so_once_and_joins_when_it_is_free(
    server: tuple[Hosts, Process, str], tmp_path: Path
) -> None:
    hosts, aggregator, url = server
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 8, 8), np.uint8), y=np.zeros(3, np.uint8))
    first = hosts.node("pi-9", url, DATA_DIR=str(tmp_path))
    aggregator.says("worker is there", '"node": "pi-9"')
    second = hosts.node("pi-9", url, DATA_DIR=str(tmp_path))
    said = second.field("waiting for the aggregator")
    assert re.match(r"node name pi-9 is taken by worker w\d+ on \S+, heard \d+ s ago: give this node", said)
    assert "node name pi-9 is taken" in aggregator.field("join refused", "pi-9")
    first.leave()
    second.says("joined")
    assert [json.loads(line)["event"] for line in second.lines] == ["waiting for the aggregator", "joined"]


def test_a_node_name_taken_twice(server: tuple[Hosts, Process, str]) -> None:
    hosts, aggregator, url = server
    data = PinnedData(examples=3, labels={"1": 3})
    link(hosts, url).join(introduction(node="pi-7", host="one", pinned=data))
    with pytest.raises(
        NotPossible, match=r"node name pi-7 is taken by worker w\d+ on one, heard \d+ s ago: give"
    ):
        link(hosts, url).join(introduction(node="pi-7", host="two", pinned=data))
    assert "node name pi-7 is taken" in aggregator.field("join refused", "pi-7")
    # Without data of its own it may join all the same, and both ends hear of it.
    warned = link(hosts, url).join(introduction(node="pi-7", host="three")).warnings
    assert len(warned) == 1 and "node name pi-7 is taken twice" in warned[0]
    assert warned[0] == aggregator.field("a node should be looked at", "three")
    assert link(hosts, url).join(introduction(node="pi-8", host="three")).warnings == ()


def corrupt(folder: Path) -> None:
    (folder / "data.npz").write_bytes(b"PK no such thing")


def without_labels(folder: Path) -> None:
    np.savez(folder / "data.npz", x=np.zeros((3, 8, 8), np.uint8))


def empty(folder: Path) -> None:
    np.savez(folder / "data.npz", x=np.zeros((0, 8, 8), np.uint8), y=np.zeros(0, np.uint8))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda _: None, "data.npz: there is no such file"),
        (corrupt, "data.npz: is corrupt or truncated (it is no archive of plain arrays); see"),
        (lambda folder: (folder / "data.npz").mkdir(), "data.npz: cannot be read (Is a directory)"),
        (without_labels, "data.npz: has no array 'y', only x"),
        (empty, "at least one"),
    ],
)
def test_samples_that_cannot_be_read(
    server: tuple[Hosts, Process, str],
    tmp_path: Path,
    refusal: Callable[..., str],
    spoil: Callable[[Path], None],
    words: str,
) -> None:
    hosts, aggregator, url = server
    name = f"pi-{len(words)}"
    spoil(tmp_path)
    line = refusal(hosts, url, name, data_dir=tmp_path)
    assert line.startswith("worker: DATA_DIR: ") and words in line
    said = aggregator.field("join refused", f"node {name} cannot take part")
    assert words in said and str(tmp_path) in said


def test_points_with_a_wrong_token(server: tuple[Hosts, Process, str]) -> None:
    _, aggregator, url = server
    reply = httpx.post(
        f"{url}/v1/telemetry/write", content="m f=1", headers={"Authorization": "Bearer wrong"}
    )
    assert reply.status_code == 401
    assert "join token" in aggregator.field("join refused", "join token")


def test_refusals_are_told_once_a_minute_however_often_somebody_tries(
    server: tuple[Hosts, Process, str],
) -> None:
    hosts, aggregator, url = server

    def told() -> int:
        return sum("join refused" in line and "join token" in line for line in aggregator.lines)

    before = told()  # by the tests before, this minute or earlier
    for _ in range(5):
        with pytest.raises(Unauthorized):
            Link(url, lambda: "a-token-of-somebody-else").join(introduction())
    assert told() and told() - before <= 1
    assert hosts.processes[0].child.poll() is None


def first_of(node: Link, run: str) -> Order | None:
    return next((order for order in node.poll(Poll()).give if order.run == run), None)


def test_data_that_do_not_fit_a_run_are_told_by_the_server_in_the_nodes_own_words(hosts: Hosts) -> None:
    aggregator, url = hosts.aggregator(POLL_SECONDS="0.2")
    node = link(hosts, url)
    worker = node.join(introduction()).worker
    with Api(url, read_token(hosts.admin_token)) as api:
        for name, detail in (
            ("another", "this worker's data set has hash 0123456789ab…, the run was begun with ba98765432…"),
            ("labels", "/data: label 12 is unknown to the task, whose labels are 0 … 9"),
        ):
            experiment = parse({"name": name, "task": "digits"})
            run = api.create(CreateRun(experiment=experiment, again=True))[0].id
            order = wait_for(lambda: first_of(node, run), lambda: "an order")  # noqa: B023
            node.post_result(order.id, OrderResult(status="refused", detail=detail))
            assert json.loads(aggregator.says("order refused", name))["detail"] == detail
            assert json.loads(aggregator.says("order refused", name))["worker"] == worker
            api.stop(run)
