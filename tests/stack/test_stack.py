"""The whole stack on a real Docker engine: what a user does to it, and what must hold all the while.

The tests go on one from another, in this order: one stack, started once. `make test-stack` runs them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from roundtable import experiment as experiments

from tests.stack.compose_stack import ROOT, Stack, docker, engine_answers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

OURS = ("aggregator", "worker", "influxdb")
BUILD_TOOLS = (
    "uv",
    "gcc",
    "cc",
    "g++",
    "clang",
    "ld",
    "as",
    "strip",
    "make",
    "cmake",
    "cargo",
    "git",
    "curl",
)
LIMITS = {"aggregator": 2**30, "worker": 2 * 2**30}
MB = 1_000_000
EXPERIMENTS = ROOT / "tests" / "stack" / "experiments"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if not engine_answers():
        pytest.skip("no Docker engine answers here")
    stack = Stack()
    begun = time.monotonic()
    stack.compose("build", timeout=540)
    print(f"\nbuilt in {time.monotonic() - begun:.0f} s")
    try:
        begun = time.time()
        made = stack.make("up", "WORKERS=5", timeout=300)
        assert made.returncode == 0, made.stderr[-3000:]
        assert "make: the lab is up. Watch it at http://127.0.0.1:" in made.stdout
        stack.until(lambda: stack.ask("/readyz"), 60)
        run = stack.until(lambda: stack.ask("/v1/runs"), 10)[0]
        first = stack.until(lambda: stack.ask(f"/v1/runs/{run['id']}")["first_order"], 500)
        print(f"from `up` to the first train order: {first - begun:.0f} s")
        yield stack
    finally:
        stack.down("--volumes")


@pytest.fixture(scope="module")
def first_run(stack: Stack) -> dict[str, Any]:
    """The one that starts by itself, once it has ended."""

    def ended() -> dict[str, Any] | None:
        detail: dict[str, Any] = stack.ask(f"/v1/runs/{stack.ask('/v1/runs')[0]['id']}")
        return detail if detail["state"] in ("finished", "failed", "stopped") else None

    run: dict[str, Any] = stack.until(ended, 300)
    return run


def body_of(name: str) -> dict[str, Any]:
    return experiments.load(EXPERIMENTS / name).model_dump(mode="json")


@pytest.fixture(scope="module")
def long_run(stack: Stack) -> str:
    """A second run, under way with five workers."""
    run: str = stack.ask("/v1/runs", {"experiment": body_of("long.toml")})["id"]
    stack.beyond(run, 1)
    return run


@pytest.mark.usefixtures("stack")
def test_the_images_are_small_and_run_as_nobody_special() -> None:
    base = int(docker("image", "inspect", "-f", "{{.Size}}", "python:3.11-slim-bookworm"))
    sizes = {}
    for service in ("aggregator", "worker"):
        image = f"roundtable-{service}:test"
        sizes[service] = int(docker("image", "inspect", "-f", "{{.Size}}", image))
        assert docker("image", "inspect", "-f", "{{.Config.User}}", image).strip() == "lab"
    print(f"\nimages: {sizes}, base {base}")
    assert sizes["aggregator"] <= 300 * MB and sizes["aggregator"] - base <= 65 * MB
    assert sizes["worker"] <= 1900 * MB


@pytest.mark.usefixtures("stack")
@pytest.mark.parametrize("service", ["aggregator", "worker"])
def test_no_build_tool_is_left_in_an_image(service: str) -> None:
    tools = " ".join(BUILD_TOOLS)
    look = f"for tool in {tools}; do command -v $tool; done; ls /lab/.venv/bin | grep -x pip; true"
    image = f"roundtable-{service}:test"
    found = docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", look)
    assert found.split() == []


def test_the_own_experiment_starts_by_itself_and_learns(stack: Stack, first_run: dict[str, Any]) -> None:
    assert first_run["state"] == "finished", first_run["reason"]
    assert first_run["accuracy"] >= 0.96
    assert len(first_run["history"][-1]["workers"]) == 5
    stack.verify(first_run["id"])


def test_the_workers_are_five_sources_that_join_what_docker_reports(
    stack: Stack, first_run: dict[str, Any]
) -> None:
    containers = set(stack.containers("worker"))
    assert len(containers) == 5
    for measurement in ("fl_client", "fl_worker"):
        where = f"SELECT count(*) FROM {measurement} WHERE run = '{first_run['id']}' GROUP BY source"

        def sources(query: str = where) -> set[str]:
            return {series["tags"]["source"] for series in stack.points(query)}

        assert stack.until(lambda sources=sources: sources() == containers, 30), measurement
    query = (
        f"SELECT count(round), last(accuracy), last(dropped) FROM fl_round WHERE run = '{first_run['id']}'"
    )
    ((_, rounds, accuracy, dropped),) = stack.points(query)[0]["values"]
    assert (rounds, dropped) == (10, 0) and accuracy >= 0.96
    policies = {row[0]: row for row in stack.points("SHOW RETENTION POLICIES")[0]["values"]}
    assert policies["lab"][1] == "2160h0m0s" and policies["lab"][-1] is True


def test_nothing_of_ours_runs_as_root_or_can_become_it(stack: Stack) -> None:
    for container in (identity for service in OURS for identity in stack.containers(service)):
        status = docker("exec", container, "cat", "/proc/1/status")
        (uids,) = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
        assert "0" not in uids
        (capabilities,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapBnd:")]
        assert int(capabilities, 16) == 0
        host = stack.inspect(container)["HostConfig"]
        assert host["ReadonlyRootfs"] and "no-new-privileges:true" in host["SecurityOpt"]


def test_a_worker_cannot_read_the_admin_token(stack: Stack) -> None:
    token = stack.compose("exec", "-T", "aggregator", "cat", "/tokens/admin/token").strip()
    for container in stack.containers("worker"):
        found = stack.inspect(container)
        assert not [mount for mount in found["Mounts"] if mount.get("Name", "").endswith("_admin")]
        assert token not in str(found["Config"]["Env"])
    words = ("exec", "-T", "worker", "sh", "-c")
    assert stack.attempt(*words, "cat /tokens/admin/token").returncode != 0
    assert stack.attempt(*words, "cat /state/tokens/session").returncode != 0
    assert stack.attempt(*words, "echo x > /tokens/join/token").returncode != 0
    assert stack.attempt(*words, "cat /tokens/join/token").returncode == 0
    with_join = {"Authorization": f"Bearer {stack.token('join/token')}"}
    url = f"http://127.0.0.1:{stack.port}/v1/runs"
    assert httpx.post(url, json={"experiment": body_of("long.toml")}, headers=with_join).status_code == 401


def test_only_the_aggregator_is_published_and_on_loopback_alone(stack: Stack) -> None:
    for service in OURS:
        for container in stack.containers(service):
            ports = stack.inspect(container)["NetworkSettings"]["Ports"] or {}
            bound = [entry["HostIp"] for entries in ports.values() for entry in entries or ()]
            assert bound == (["127.0.0.1"] if service == "aggregator" else [])


def test_workers_come_in_mid_run(stack: Stack, long_run: str) -> None:
    stack.up(8)
    stack.until(lambda: len(stack.present()) == 8, 300)
    stack.until(lambda: all(worker["clients"] for worker in stack.present()), 120)
    detail = stack.beyond(long_run)
    assert len(detail["history"][-1]["workers"]) > 5


def test_memory_stays_within_its_limits(stack: Stack, long_run: str) -> None:
    for service, limit in LIMITS.items():
        for container in stack.containers(service):
            found = stack.inspect(container)
            assert found["HostConfig"]["Memory"] == limit
            assert not found["State"]["OOMKilled"] and found["RestartCount"] == 0
    figures = 'max(usage), max("limit")'
    for series in stack.points(f"SELECT {figures} FROM fl_worker WHERE run = '{long_run}' GROUP BY source"):
        ((_, usage, told),) = series["values"]
        assert usage < told == LIMITS["worker"]  # the limit as the worker itself sees it


def test_a_killed_worker_loses_nothing(stack: Stack, long_run: str) -> None:
    killed = stack.containers("worker")[0]
    docker("kill", killed)
    stack.until(lambda: killed not in {worker["host"] for worker in stack.present()}, 60)
    detail = stack.beyond(long_run)
    assert detail["history"][-1]["participants"] == list(range(10))


def test_without_influxdb_the_run_goes_on_and_its_points_arrive_later(stack: Stack, long_run: str) -> None:
    stack.compose("stop", "influxdb")
    missed = stack.beyond(long_run)["round"]
    stack.compose("start", "influxdb")

    def arrived() -> bool:
        query = f"SELECT count(round) FROM fl_round WHERE run = '{long_run}' AND round = {missed}"
        up = stack.attempt("exec", "-T", "influxdb", "influx", "-execute", "SHOW DATABASES").returncode == 0
        return up and bool(stack.points(query))

    assert stack.until(arrived, 90)


def test_a_killed_aggregator_goes_on_with_the_same_run(stack: Stack, long_run: str) -> None:
    before = stack.ask(f"/v1/runs/{long_run}")
    docker("kill", *stack.containers("aggregator"))
    stack.compose("start", "aggregator")
    detail = stack.until(lambda: stack.ask(f"/v1/runs/{long_run}"), 60)
    assert detail["round"] >= before["round"]
    kept = {record["round"]: record["weights_hash"] for record in detail["history"]}
    assert all(kept[record["round"]] == record["weights_hash"] for record in before["history"])
    stack.beyond(long_run)


def test_workers_go_in_mid_run(stack: Stack, long_run: str) -> None:
    stack.up(3)
    stack.until(lambda: len(stack.present()) == 3, 300)
    detail = stack.beyond(long_run)
    assert detail["history"][-1]["participants"] == list(range(10))
    rounds = [record["round"] for record in detail["history"] if record["round"] > 0]
    assert rounds == list(range(1, len(rounds) + 1))


def test_down_and_up_again_shows_the_finished_run_and_goes_on_with_the_other(
    stack: Stack, first_run: dict[str, Any], long_run: str
) -> None:
    before = stack.ask(f"/v1/runs/{long_run}")
    token = stack.token("join/token")
    stack.down()
    assert not stack.containers("aggregator")
    stack.up(2)
    runs = {run["id"]: run["state"] for run in stack.until(lambda: stack.ask("/v1/runs"), 60)}
    assert set(runs) == {first_run["id"], long_run}, "nothing is begun anew"
    assert runs[first_run["id"]] == "finished" and runs[long_run] not in ("failed", "stopped")
    detail = stack.beyond(long_run, rounds=1)
    kept = {record["round"]: record["weights_hash"] for record in detail["history"]}
    assert all(kept[record["round"]] == record["weights_hash"] for record in before["history"])
    assert stack.token("join/token") == token


def test_lab_looks_at_it_by_its_address(stack: Stack, long_run: str) -> None:
    told = stack.lab("status", "--json")
    assert told.returncode == 0, told.stderr
    assert long_run in told.stdout
    stack.ask(f"/v1/runs/{long_run}/stop", {})
    stack.verify(long_run)


def test_lab_runs_an_experiment_on_it_and_a_slow_worker_trains_its_share(
    stack: Stack, tmp_path: Path
) -> None:
    stack.up(1, slow=1)
    (slow,), (fast,) = stack.containers("worker-slow"), stack.containers("worker")
    stack.until(lambda: {worker["host"] for worker in stack.present()} == {slow, fast}, 300)
    host = stack.inspect(slow)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"]) == (250_000_000, 1200 * 2**20)
    token = tmp_path / "admin"
    token.write_text(stack.token("admin/token"))
    words = ("run", str(EXPERIMENTS / "unequal.toml"), "--admin-token-file", str(token), "--json")
    done = stack.lab(*words, "--runs-dir", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    run = stack.ask("/v1/runs")[-1]
    assert run["state"] == "finished" and run["id"] in done.stdout

    def sources() -> dict[str, float]:
        query = f"SELECT mean(seconds_training) FROM fl_client WHERE run = '{run['id']}' GROUP BY source"
        return {series["tags"]["source"]: series["values"][0][1] for series in stack.points(query)}

    seconds = stack.until(lambda: sources() if len(sources()) == 2 else None, 60)
    assert set(seconds) == {slow, fast}
    print(f"\na client's training: {seconds[fast]:.2f} s, on the slow worker {seconds[slow]:.2f} s")
    one = "cat /sys/fs/cgroup/cpu.max || cd /sys/fs/cgroup/cpu && cat cpu.cfs_quota_us cpu.cfs_period_us"
    assert docker("exec", slow, "sh", "-c", one).split() == [
        "25000",
        "100000",
    ]  # microseconds, of each period


def test_make_rerun_runs_the_experiment_anew(stack: Stack, first_run: dict[str, Any]) -> None:
    made = stack.make("rerun")
    newest = stack.ask("/v1/runs")[-1]
    assert made.returncode == 0 and newest["id"] in made.stdout, made.stderr
    assert newest["id"] != first_run["id"]
    stack.beyond(newest["id"], 1)
