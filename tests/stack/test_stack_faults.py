"""What people get wrong, on a real Docker engine: each ends in one line that says what to do.

Here it is `docker compose` itself, without make: the containers must say so. A stack of its own, of which
hardly more than the aggregator is started.
"""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network

import httpx
import pytest

from tests.stack.compose_stack import ROOT, Stack, docker, engine_answers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if not engine_answers():
        pytest.skip("no Docker engine answers here")
    stack = Stack(settings={"EXPERIMENT": "", "START_WORKERS": ""})
    stack.project += "-faults"
    stack.compose("build", timeout=540)
    try:
        yield stack
    finally:
        stack.down("--volumes")


def said(done: subprocess.CompletedProcess[str], speaker: str) -> str:
    """The one line that a container ended with."""
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"{speaker}: ")]
    assert "Traceback" not in done.stderr
    return line


def run(stack: Stack, service: str, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """One container of this service, until it ends."""
    return stack.attempt("run", "--rm", "--no-deps", *options, service, **settings)


@pytest.mark.parametrize("value", ["0", "many"])
def test_a_bad_number_of_workers_is_one_line_of_the_aggregator(stack: Stack, value: str) -> None:
    line = said(run(stack, "aggregator", START_WORKERS=value), "aggregator")
    assert "START_WORKERS: found" in line and value in line and "allowed" in line


def test_an_address_beyond_this_machine_without_tls_is_one_line_of_the_aggregator(stack: Stack) -> None:
    line = said(run(stack, "aggregator", BIND="0.0.0.0"), "aggregator")
    assert (
        "BIND" in line
        and "0.0.0.0: plain HTTP beyond this machine" in line
        and "ALLOW_PLAIN_HTTP=true" in line
    )


def test_a_missing_experiment_is_one_line_and_the_lab_is_up_all_the_same(stack: Stack) -> None:
    done = stack.attempt(
        "up", "-d", "--no-build", "--no-deps", "aggregator", EXPERIMENT="experiments/minst.toml"
    )
    assert done.returncode == 0, done.stderr
    ready = stack.until(lambda: stack.ask("/readyz"), 200)
    assert "EXPERIMENT cannot be used: experiments/minst.toml" in json.dumps(ready)
    (line,) = [line for line in stack.last_words("aggregator") if "EXPERIMENT cannot be used" in line]
    assert "correct it, then restart the aggregator" in line


def test_a_missing_task_file_is_told_by_run_and_worker_with_the_folder(stack: Stack) -> None:
    stack.up(1)
    stack.until(lambda: stack.present(), 250)
    body = {"name": "own", "task": "heart:Heart", "clients": {"count": 2}, "rounds": {"count": 1}}
    run_id = stack.ask("/v1/runs", {"experiment": body})["id"]
    expected = 'task = "heart:Heart": cannot read /tasks/heart.py (No such file or directory)'
    stack.until(lambda: expected in (stack.ask(f"/v1/runs/{run_id}")["reason"] or ""), 120)
    assert [line for line in stack.last_words("worker") if expected in json.loads(line).get("detail", "")]


def test_a_worker_with_too_little_memory_says_so_before_the_kernel_ends_it(stack: Stack) -> None:
    line = said(run(stack, "worker", WORKER_MEMORY="256m"), "worker")
    assert "memory: this worker may use 256 MB" in line and "WORKER_MEMORY" in line


def test_volumes_of_somebody_else_are_one_line_each_until_make_own(stack: Stack) -> None:
    stack.compose("rm", "--stop", "--force", "worker", "aggregator")
    chown = ("run", "--rm", "--no-deps", "--user", "0", "--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE")
    stack.compose(*chown, "--entrypoint", "chown", "aggregator", "-R", "0:0", "/state")
    line = said(run(stack, "aggregator"), "aggregator")
    assert "STATE_DIR /state: Permission denied" in line
    assert "belongs to uid 0 and this runs as uid 10001; make own gives" in line
    stack.compose(*chown, "--entrypoint", "chown", "aggregator", "-R", "0:0", "/tokens/join", "/tokens/admin")
    line = said(run(stack, "worker"), "worker")
    assert "JOIN_TOKEN_FILE: /tokens/join/token cannot be read (Permission denied)" in line
    assert "belongs to uid 0 and this runs as uid 10001; make own gives" in line
    made = stack.make("own")
    assert made.returncode == 0, made.stderr
    stack.compose("up", "-d", "--no-build", "--no-deps", "aggregator")
    assert stack.until(lambda: stack.ask("/readyz"), 200)


def test_points_kept_for_less_than_a_day_are_one_line_of_the_setup(stack: Stack) -> None:
    stack.compose("up", "-d", "influxdb")  # the setup waits for it by itself
    done = run(stack, "influxdb-setup", KEEP_POINTS="12h")
    assert "retention policy duration must be greater than the shard duration" in done.stdout + done.stderr


def test_a_port_in_use_is_told_before_anything_is_started(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        made = stack.make(
            "up", "WORKERS=1", PORT=port, EXPERIMENT="experiments/mnist.toml", START_WORKERS="1"
        )
    assert made.returncode != 0
    assert (
        f"make: PORT={port}: 127.0.0.1:{port}, where the aggregator listens, is in use by another"
        in made.stderr
    )


def test_beyond_loopback_looking_needs_the_read_token(stack: Stack) -> None:
    subnet = docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Subnet}}").strip()
    bridge = str(next(ip_network(subnet).hosts()))  # an engine that has just been installed names no gateway
    settings = {"BIND": bridge, "ALLOW_PLAIN_HTTP": "true"}  # an address that only this machine has
    done = stack.attempt("up", "-d", "--no-build", "--no-deps", "aggregator", **settings)
    assert done.returncode == 0, done.stderr
    url = f"http://{bridge}:{stack.port}"
    stack.until(lambda: httpx.get(f"{url}/readyz").is_success, 200)
    assert httpx.get(f"{url}/v1/runs").status_code == 401
    for name in ("admin/read", "admin/token"):
        headers = {"Authorization": f"Bearer {stack.token(name)}"}
        assert httpx.get(f"{url}/v1/runs", headers=headers).status_code == 200
    headers = {"Authorization": f"Bearer {stack.token('join/token')}"}
    assert httpx.get(f"{url}/v1/runs", headers=headers).status_code == 401
    found = stack.inspect(stack.containers("aggregator")[0])["NetworkSettings"]["Ports"]
    assert [entry["HostIp"] for entries in found.values() for entry in entries or ()] == [bridge]


def test_the_preflight_is_at_peace_with_this_machines_engine() -> None:
    done = subprocess.run(["sh", "scripts/preflight.sh", "engine"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
