"""The worker's arm64 image, built as for a Raspberry Pi, trains `digits` under emulation.

It wants an engine that runs arm64 (qemu and binfmt) and an arm64 Python image to build on, named in
ARM64_BASE_IMAGE. Only where one is: emulated, TensorFlow is slow, half an hour to build the image, minutes
until the worker has joined, minutes for a round.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.api import Api, read_token
from roundtable.experiment import parse
from roundtable.messages import ENDED, CreateRun

from tests.nodes import conftest
from tests.nodes.conftest import ROOT, Hosts, wait_for

BASE = os.environ.get("ARM64_BASE_IMAGE", "")
TAG = "arm64-test"
IMAGE = f"roundtable-worker:{TAG}"
PATIENCE = 1500.0  # seconds

pytestmark = [pytest.mark.slow, pytest.mark.stack, pytest.mark.timeout(7200)]


def docker(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run(["docker", *words], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def image() -> str:
    if not BASE:
        pytest.skip("ARM64_BASE_IMAGE names no arm64 Python image to build on; it takes most of an hour")
    try:
        base = docker("image", "inspect", "--format", "{{.Architecture}}", BASE)
    except FileNotFoundError:
        pytest.skip("there is no docker here")
    if base.returncode or base.stdout.strip() != "arm64":
        pytest.skip(f"ARM64_BASE_IMAGE={BASE}: there is no such image for arm64 here")
    if docker("run", "--rm", "--platform", "linux/arm64", BASE, "true").returncode:
        pytest.skip("this engine does not run arm64: install qemu and binfmt")
    bake = ("buildx", "bake", "--file", "docker-bake.hcl", "--load")
    built = docker(*bake, "pi", PYTHON_IMAGE=BASE, NODE_TAG=TAG)
    assert built.returncode == 0, built.stderr[-3000:]
    return IMAGE


@pytest.fixture
def node(image: str, hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an aggregator, with one emulated worker on its way to it."""
    monkeypatch.setattr(conftest, "WAIT", PATIENCE)
    _, url = hosts.aggregator(LOST_AFTER="120")
    token = hosts.folder / "token"
    token.write_bytes(hosts.join_token.read_bytes())
    token.chmod(0o644)  # the container's user is another
    mount = f"type=bind,source={token},target=/node/join-token,readonly"
    name = f"rt-arm64-{os.getpid()}"
    environment = [f"--env={name}" for name in (f"AGGREGATOR_URL={url}", "JOIN_TOKEN_FILE=/node/join-token")]
    options = ["--network=host", "--platform=linux/arm64", "--tmpfs=/tmp", "--mount", mount, *environment]
    started = docker("run", "--detach", "--name", name, "--env=NODE_NAME=emulated", *options, image)
    assert started.returncode == 0, started.stderr
    yield url
    (Path(hosts.folder) / "worker.log").write_text(docker("logs", name).stderr)
    docker("rm", "--force", name)


def test_the_arm64_worker_trains_digits_under_emulation(node: str, hosts: Hosts) -> None:
    experiment = parse({"name": "arm64", "task": "digits", "clients": {"count": 2}, "rounds": {"count": 2}})
    with Api(node, read_token(hosts.admin_token)) as api:
        wait_for(lambda: api.workers(), lambda: "the emulated worker")
        assert api.workers()[0].arch == "aarch64"
        run = api.create(CreateRun(experiment=experiment))[0].id
        wait_for(lambda: api.run(run).state in ENDED, lambda: f"the end of {api.run(run)}")
        detail = api.run(run)
    assert detail.state == "finished" and detail.round == 2
    assert (detail.accuracy or 0.0) > 0.3
