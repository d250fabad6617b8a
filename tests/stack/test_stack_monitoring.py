"""Monitoring on a real Docker engine: a real Telegraf behind a real socket proxy, as compose.yaml has them.

Where their images can be neither found nor pulled, TELEGRAF and SOCKET_PROXY name the programs; without those
it is skipped. Grafana is looked at where its image is to be had.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from roundtable import experiment as experiments
from roundtable.errors import InvalidInput

from tests.stack import monitoring_images
from tests.stack.compose_stack import ROOT, Stack, engine_answers

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

WORKERS = 5


@pytest.fixture(scope="module")
def images() -> Iterator[monitoring_images.Images]:
    if not engine_answers():
        pytest.skip("no Docker engine answers here")
    with contextlib.ExitStack() as held:
        try:
            found = held.enter_context(monitoring_images.found())
        except InvalidInput as missing:
            pytest.skip(str(missing))
        yield found


@pytest.fixture(scope="module")
def stack(images: monitoring_images.Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    override = tmp_path_factory.mktemp("compose") / "compose.images.yaml"
    override.write_text(json.dumps({"services": images.overrides}), encoding="utf-8")  # JSON is YAML
    stack = Stack(settings={"EXPERIMENT": "", "START_WORKERS": ""}, files=("compose.yaml", str(override)))
    stack.project += "-monitoring"
    stack.compose("build", "aggregator", "worker", timeout=540)
    services = ("aggregator", "worker", "influxdb-setup", *images.services)
    try:
        stack.compose("up", "-d", "--no-build", "--scale", f"worker={WORKERS}", *services, timeout=300)
        stack.until(lambda: len(stack.present()) == WORKERS, 300)
        yield stack
    finally:
        stack.down("--volumes")


@pytest.fixture(scope="module")
def run(stack: Stack) -> dict[str, Any]:
    """A short one, ended."""
    body = experiments.load(ROOT / "tests/stack/experiments/mnist.toml").model_dump(mode="json")
    identity = stack.ask("/v1/runs", {"experiment": body | {"rounds": {"count": 5}}})["id"]

    def ended() -> dict[str, Any] | None:
        detail: dict[str, Any] = stack.ask(f"/v1/runs/{identity}")
        return detail if detail["state"] in ("finished", "failed", "stopped") else None

    detail: dict[str, Any] = stack.until(ended, 400)
    assert detail["state"] == "finished", detail["reason"]
    return detail


def named(stack: Stack, measurement: str, field: str, where: str) -> dict[str, str]:
    """Worker names by source."""
    query = f"SELECT last({field}) FROM {measurement} WHERE {where} GROUP BY source, worker"
    found = [series["tags"] for series in stack.points(query)]
    return {tags["source"]: tags["worker"] for tags in found if tags["worker"]}


def test_the_workers_are_five_sources_whose_points_join_dockers(stack: Stack, run: dict[str, Any]) -> None:
    containers = set(stack.containers("worker"))
    own = stack.until(
        lambda: (
            found
            if set(found := named(stack, "fl_client", "round", f"run = '{run['id']}'")) == containers
            else None
        ),
        60,
    )
    assert len(set(own.values())) == WORKERS
    ours = f"\"com.docker.compose.project\" = '{stack.project}' AND \"com.docker.compose.service\" = 'worker'"
    for measurement, field in (
        ("docker_container_cpu", "usage_percent"),
        ("docker_container_mem", "usage"),
        ("docker_container_net", "rx_bytes"),
    ):
        assert stack.until(lambda m=measurement, f=field: named(stack, m, f, ours) == own, 60), measurement


def test_dockers_points_of_a_worker_are_there_while_it_trains(stack: Stack, run: dict[str, Any]) -> None:
    begun, ended = (int(run[name] * 1e9) for name in ("first_order", "ended"))
    around = f"time > {begun - 10**10} AND time < {ended + 10**10}"
    for source in stack.containers("worker"):
        for measurement in ("docker_container_cpu", "fl_client"):
            query = f"SELECT * FROM {measurement} WHERE source = '{source}' AND {around} LIMIT 1"
            assert stack.until(lambda query=query: stack.points(query), 30), (source, measurement)


def test_points_of_the_lab_pass_telegraf_and_none_is_dropped(stack: Stack, run: dict[str, Any]) -> None:
    query = f"SELECT count(round), last(dropped) FROM fl_round WHERE run = '{run['id']}'"

    def told() -> list[list[int]]:
        return [series["values"][0][1:] for series in stack.points(query)]

    assert stack.until(lambda: told() == [[5, 0]], 30)  # the last round's point may still be on its way


def test_telegraf_has_no_complaint(stack: Stack, run: dict[str, Any]) -> None:
    assert run["state"] == "finished"
    assert not [line for line in stack.last_words("telegraf") if re.search(r" [WE]! ", line)]


def test_monitorings_containers_are_healthy_and_stay_within_what_they_may_use(
    stack: Stack, run: dict[str, Any], images: monitoring_images.Images
) -> None:
    assert run["state"] == "finished"
    for service in images.services:
        (container,) = stack.containers(service)
        found = stack.inspect(container)
        assert 0 < found["HostConfig"]["Memory"] <= 2**30, service
        assert not found["State"]["OOMKilled"] and found["RestartCount"] == 0, service
        if "Health" in found["State"]:

            def healthy(container: str = container) -> bool:
                status: str = stack.inspect(container)["State"]["Health"]["Status"]
                return status == "healthy"

            assert stack.until(healthy, 120), service


def test_without_telegraf_a_run_goes_on_and_its_points_arrive_later(
    stack: Stack, run: dict[str, Any]
) -> None:
    assert run["state"] == "finished"
    body = experiments.load(ROOT / "tests/stack/experiments/long.toml").model_dump(mode="json")
    long = stack.ask("/v1/runs", {"experiment": body})["id"]
    stack.beyond(long, 1)
    stack.compose("stop", "telegraf")
    missed = stack.beyond(long)["round"]
    stack.compose("start", "telegraf")
    query = f"SELECT count(round) FROM fl_round WHERE run = '{long}' AND round = {missed}"
    assert stack.until(lambda: stack.points(query), 90)
    stack.ask(f"/v1/runs/{long}/stop", {})


def test_grafana_shows_the_dashboards_without_a_login(
    stack: Stack, images: monitoring_images.Images, run: dict[str, Any]
) -> None:
    if "grafana" not in images.services:
        pytest.skip("Grafana's image is not here and cannot be pulled")
    assert run["state"] == "finished"
    url = f"http://{stack.compose('port', 'grafana', '3000').strip()}"
    stack.until(lambda: httpx.get(f"{url}/api/health").is_success, 120)
    for file in sorted((ROOT / "monitoring/grafana/dashboards").glob("*.json")):
        uid = json.loads(file.read_text(encoding="utf-8"))["uid"]
        assert stack.until(lambda uid=uid: httpx.get(f"{url}/api/dashboards/uid/{uid}").is_success, 60), (
            file.name
        )
