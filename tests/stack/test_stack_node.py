"""A node's way in, on a real Docker engine: a lab with TLS by compose.tls.yaml, the folder of `lab node add`
as it would be copied to a board, its worker started there by `docker compose up`; and what people get wrong.

Without Telegraf, which needs an image from elsewhere. The node's container is in the lab's network instead of
on another machine (tests/nodes has that boundary).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import certificates
from lab.api import Api
from lab.commands import run_app
from roundtable.experiment import parse
from roundtable.messages import ENDED, CreateRun

from tests.stack.compose_stack import ROOT, Stack, docker, engine_answers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

FILES = ("compose.yaml", "compose.tls.yaml", "compose.test.yaml")


@dataclass
class Lab(Stack):
    """In a folder of its own, so that its certificates do not take the place of anybody's."""

    folder: Path = ROOT

    def attempt(self, *words: str, timeout: float = 120, **settings: str) -> subprocess.CompletedProcess[str]:
        there = self._env | settings
        command = ["docker", "compose", "--project-directory", str(self.folder), *words]
        return subprocess.run(
            command, cwd=self.folder, env=there, capture_output=True, text=True, timeout=timeout
        )

    @property
    def api(self) -> Api:
        admin = self.token("admin/token")
        return Api(f"https://127.0.0.1:{self.port}", admin, ca=self.folder / "certs" / "ca.pem")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Its aggregator, over TLS."""
    if not engine_answers():
        pytest.skip("no Docker engine answers here")
    Stack().compose("build", timeout=540)
    folder = tmp_path_factory.mktemp("lab")
    for name in ("compose.yaml", "compose.tls.yaml", "compose.node.yaml", "tests/stack/compose.test.yaml"):
        shutil.copyfile(ROOT / name, folder / Path(name).name)
    shutil.copytree(ROOT / "monitoring", folder / "monitoring")
    shutil.copytree(ROOT / "tests/stack/experiments", folder / "tests/stack/experiments")
    certificates.make(folder / "certs")
    lab = Lab(settings={"EXPERIMENT": "", "START_WORKERS": ""}, files=FILES, folder=folder)
    lab.project += "-node"
    try:
        lab.compose("up", "-d", "--wait", "--no-build", "aggregator", timeout=300)
        yield lab
    finally:
        lab.down("--volumes")


@dataclass
class Node:
    """The folder on the board, and Docker there."""

    folder: Path
    project: str

    def compose(self, *words: str, **settings: str) -> str:
        command = ["compose", "--project-directory", str(self.folder), "--project-name", self.project]
        files = [f"--file={self.folder / name}" for name in ("compose.yaml", "here.yaml")]
        user = {"NODE_USER": f"{os.getuid()}:{os.getgid()}", "WORKER_IMAGE": "roundtable-worker:test"}
        done = subprocess.run(
            ["docker", *command, *files, *words],
            env=os.environ | user | settings,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def said(self, word: str) -> str | None:
        told = self.compose("logs", "--no-color", "--no-log-prefix", "worker").splitlines()
        return next((line for line in told if word in line), None)


@pytest.fixture
def node(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Node]:
    monkeypatch.chdir(lab.folder)
    (tmp_path / "token").write_text(lab.token("join/token"))
    options = ["--url", "https://aggregator:8080", "--join-token-file", str(tmp_path / "token")]
    assert run_app(["node", "add", "pi-1", "--board", "pi", "--nodes-dir", str(tmp_path), *options]) == 0
    node = Node(tmp_path / "pi-1", f"{lab.project}-pi-1")
    network = {"name": f"{lab.project}_federation", "external": True}
    (node.folder / "here.yaml").write_text(json.dumps({"networks": {"default": network}}))  # JSON is YAML
    try:
        yield node
    finally:
        node.compose("down", "--timeout", "5")


def test_the_folder_is_all_that_a_node_needs_to_join_over_tls_and_train(lab: Lab, node: Node) -> None:
    node.compose("up", "-d", "worker")
    lab.until(lambda: node.said('"event": "joined"'), 250)
    experiment = parse({"name": "tls", "task": "digits", "clients": {"count": 2}, "rounds": {"count": 2}})
    with lab.api as api:
        (worker,) = [worker for worker in api.workers() if worker.state == "present"]
        assert worker.node == "pi-1"
        run = api.create(CreateRun(experiment=experiment))[0].id
        lab.until(lambda: api.run(run).state in ENDED, 250)
        detail = api.run(run)
    assert detail.state == "finished" and detail.round == 2
    (container,) = node.compose("ps", "-q", "worker").split()
    found = json.loads(docker("inspect", container))[0]
    assert found["HostConfig"]["ReadonlyRootfs"] and found["HostConfig"]["PortBindings"] == {}
    assert found["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"


def test_the_authority_of_another_lab_and_a_token_of_another_are_one_line_at_both_ends(
    lab: Lab, node: Node, tmp_path: Path
) -> None:
    right = (node.folder / "ca.pem").read_bytes()
    certificates.make(tmp_path / "other")
    shutil.copyfile(tmp_path / "other" / "ca.pem", node.folder / "ca.pem")
    node.compose("up", "-d", "worker")
    lab.until(lambda: node.said("not signed by the authority in AGGREGATOR_CA"), 250)
    lab.until(lambda: "does not know who signed" in "\n".join(lab.last_words("aggregator")), 30)
    node.compose("down", "--timeout", "5")
    (node.folder / "ca.pem").write_bytes(right)
    (node.folder / "join-token").write_text("the-token-of-another-lab\n")
    node.compose("up", "-d", "worker")
    lab.until(lambda: node.said("worker: JOIN_TOKEN_FILE: the aggregator at https://aggregator:8"), 250)
    lab.until(lambda: "not the aggregator's join token" in "\n".join(lab.last_words("aggregator")), 30)
