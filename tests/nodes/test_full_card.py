"""A node whose disk is full: it works all the same, and both ends say so in one line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.api import Api, read_token
from roundtable.experiment import parse
from roundtable.messages import ENDED, CreateRun

from tests.nodes.conftest import ROOT, Hosts, Process, wait_for

UNHEARD = ("sh", "-c", 'exec "$@" 2>/dev/full', "sh")  # its log is on the full disk as well


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own, on which not even an empty file can be made."""
    folder = tmp_path / "card"
    folder.mkdir()
    options = ["-o", "size=64k,nr_inodes=3,mode=777"]
    mounted = subprocess.run(["mount", "-t", "tmpfs", *options, "card", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be made here, as root can: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(OSError, match="No space left"):
            for name in ("system", "logs", "more"):
                (folder / name).write_bytes(b"x" * 40_000)
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def on(card: Path, hosts: Hosts, url: str, name: str) -> dict[str, str]:
    """Whatever such a node could write, it would write there."""
    return {
        **{place: str(card) for place in ("TMPDIR", "HOME", "XDG_CACHE_HOME", "KERAS_HOME")},
        "AGGREGATOR_URL": url,
        "JOIN_TOKEN_FILE": str(hosts.join_token),
        "NODE_NAME": name,
        "DATASETS_DIR": str(ROOT / "datasets"),
        "ANSWERED_FILE": str(card / "answered"),
    }


def check_both_ends(aggregator: Process, node: Process) -> None:
    said = node.field("the aggregator warns")
    assert "'s disk is full (0 MB are free): its work goes on" in said
    assert said == aggregator.field("a node should be looked at", said.split("'")[0])
    assert "No space left" in node.field("health file cannot be touched")
    own = [line for line in node.lines if line.startswith("{")]  # not those of libraries that keep caches
    events = [json.loads(line)["event"] for line in own]
    assert events[:3] == ["joined", "the aggregator warns", "health file cannot be touched"]


def test_a_node_on_a_full_disk_is_told_at_both_ends_in_one_line(hosts: Hosts, card: Path) -> None:
    aggregator, url = hosts.aggregator(POLL_SECONDS="0.2")
    node = hosts.node("pi-1", url, before=("env", "-C", str(card)), **on(card, hosts, url, "pi-1"))
    check_both_ends(aggregator, node)


def test_a_worker_whose_log_is_on_a_full_disk_ends_with_the_code_that_says_why(hosts: Hosts) -> None:
    worker = hosts.start("mute", "-m", "worker", before=UNHEARD, JOIN_TOKEN_FILE="/no/such/token")
    assert worker.code() == 2
    assert worker.lines == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_on_a_full_disk_train_to_the_end(hosts: Hosts, card: Path) -> None:
    aggregator, url = hosts.aggregator()
    there = ("env", "-C", str(card))
    heard = hosts.start("pi-1", "-m", "worker", before=there, **on(card, hosts, url, "pi-1"))
    hosts.start("pi-2", "-m", "worker", before=(*there, *UNHEARD), **on(card, hosts, url, "pi-2"))
    experiment = parse({"name": "full", "task": "digits", "clients": {"count": 2}, "rounds": {"count": 3}})
    with Api(url, read_token(hosts.admin_token)) as api:
        wait_for(lambda: len(api.workers()) == 2, lambda: f"two workers, not {api.workers()}")
        run = api.create(CreateRun(experiment=experiment))[0].id
        wait_for(lambda: api.run(run).state in ENDED, lambda: f"the end of {api.run(run)}")
        detail = api.run(run)
    assert detail.state == "finished" and detail.round == 3
    assert all(len(record.workers) == 2 for record in detail.history if record.round)
    check_both_ends(aggregator, heard)
    aggregator.says("a node should be looked at", "node pi-2's disk is full")
    assert sorted(file.name for file in card.iterdir()) == ["logs", "system"]
