"""telegraf.conf: what it does to points that pass, in Python and, where there is one, in a real Telegraf.

The Starlark in it is Python as well, so its own text is run here as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from . import influx
from .influx import free_port

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONF = Path(__file__).parents[2] / "monitoring" / "telegraf" / "telegraf.conf"
TABLES: dict[str, Any] = tomllib.loads(CONF.read_text(encoding="utf-8"))
(NAMING,) = TABLES["processors"]["starlark"]


def naming() -> Callable[[Any], Any]:
    space: dict[str, Any] = {}
    exec(NAMING["source"], space)
    apply: Callable[[Any], Any] = space["apply"]
    return apply


def point(name: str, **tags: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, tags=dict(tags))


def test_a_container_gets_its_workers_name_from_the_workers_first_point_on() -> None:
    apply = naming()
    early = apply(point("docker_container_cpu", source="0123456789ab"))
    apply(point("fl_worker", source="0123456789ab", worker="w3"))
    named = apply(point("docker_container_mem", source="0123456789ab"))
    other = apply(point("docker_container_mem", source="ffffffffffff"))

    assert "worker" not in early.tags and "worker" not in other.tags
    assert named.tags == {"source": "0123456789ab", "worker": "w3"}


def test_what_is_remembered_is_bounded_and_goes_on_after_the_bound() -> None:
    apply = naming()
    for number in range(5000):
        apply(point("fl_worker", source=f"{number:012x}", worker=f"w{number}"))

    held = apply.__globals__["state"]["workers"]
    assert 0 < len(held) <= 1001
    assert apply(point("docker_container_cpu", source=f"{4999:012x}")).tags["worker"] == "w4999"


def test_points_without_a_source_pass_as_they_are() -> None:
    assert naming()(point("docker_container_cpu", host="server")).tags == {"host": "server"}


def test_the_listener_and_the_buffer_are_bounded() -> None:
    (listener,) = TABLES["inputs"]["influxdb_listener"]
    assert 0 < listener["max_body_size"] <= 8 * 2**20
    assert 0 < TABLES["agent"]["metric_buffer_limit"] <= 100_000


@pytest.mark.parametrize("name", ["telegraf.conf", "node.conf"])
def test_nothing_is_read_from_a_machine_that_no_dashboard_shows(name: str) -> None:
    """Each field costs its reading, its way and its place, all the time."""
    shown = "".join(
        file.read_text(encoding="utf-8")
        for file in (CONF.parents[1] / "grafana" / "dashboards").glob("*.json")
    )
    inputs = tomllib.loads(CONF.with_name(name).read_text(encoding="utf-8"))["inputs"]
    for what in ("cpu", "mem", "swap", "system", "disk", "diskio", "docker", "internal"):
        for table in inputs.get(what, []):
            unseen = {field for field in table["fieldinclude"] if f'\\"{field}\\"' not in shown}
            assert unseen <= {"buffer_size"}, (what, unseen)  # for whoever looks for why points are dropped


def test_the_engine_is_asked_for_the_workers_figures_and_for_nobody_elses() -> None:
    (docker,) = TABLES["inputs"]["docker"]
    services = YAML(typ="safe").load((CONF.parents[2] / "compose.yaml").read_text(encoding="utf-8"))[
        "services"
    ]
    (pattern,) = docker["container_name_include"]
    asked = {name for name in services if fnmatch(f"roundtable-{name}-1", pattern)}
    assert asked == {"worker", "worker-slow"}


def test_a_proxy_that_is_not_there_yet_does_not_stop_the_labs_own_points() -> None:
    (docker,) = TABLES["inputs"]["docker"]
    assert docker["startup_error_behavior"] == "retry"


@pytest.mark.skipif(influx.INFLUXD is None, reason="no influxd on this machine")
def test_a_real_telegraf_starts_without_a_word_and_names_containers(tmp_path: Path) -> None:
    """The whole configuration, but for the port it listens on and the host's folder; Docker is not there."""
    telegraf = os.environ.get("TELEGRAF") or shutil.which("telegraf")
    if not telegraf:
        pytest.skip("there is no Telegraf here: set TELEGRAF to one")
    port = free_port()
    conf = tmp_path / "telegraf.conf"
    for way in ("rx", "tx"):
        counter = tmp_path / "hostfs" / "sys" / "class" / "net" / "eth0" / "statistics" / f"{way}_bytes"
        counter.parent.mkdir(parents=True, exist_ok=True)
        counter.write_text("12345\n")
    text = CONF.read_text(encoding="utf-8").replace('":8186"', f'"127.0.0.1:{port}"')
    conf.write_text(text.replace('"/hostfs', f'"{tmp_path}/hostfs'), encoding="utf-8")
    with influx.running(tmp_path) as server:
        server.query("CREATE DATABASE lab")
        environment = {
            "NODE_NAME": "server",
            "INFLUXDB_URL": server.url,
            "DOCKER_ENDPOINT": f"unix://{tmp_path}/none",
        }
        process = subprocess.Popen(
            [telegraf, "--config", conf, "--strict-env-handling"],
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=(tmp_path / "said").open("w"),
        )
        try:
            pause = threading.Event()
            for _ in range(120):
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/ping").status_code == 204:
                        break
                except httpx.TransportError:
                    pause.wait(0.25)
            lines = [
                "fl_worker,source=0123456789ab,worker=w3 usage=1i",
                "docker_container_cpu,source=0123456789ab a=1i",
            ]
            reply = httpx.post(f"http://127.0.0.1:{port}/write?db=lab", content="\n".join(lines).encode())
            assert reply.status_code == 204
            for _ in range(120):
                if found := server.query("SELECT last(a) FROM docker_container_cpu WHERE worker = 'w3'"):
                    break
                pause.wait(0.25)
            assert found
            for _ in range(120):
                query = "SELECT last(bytes_recv), last(bytes_sent) FROM net WHERE interface = 'eth0'"
                if (found := server.query(query)) and None not in found[0]["values"][0]:
                    break
                pause.wait(0.25)
            assert found[0]["values"][0][1:] == [12345, 12345]
        finally:
            process.terminate()
            process.wait(20)
    said = [
        line
        for line in (tmp_path / "said").read_text().splitlines()
        if not re.search(r" I! |inputs\.docker", line)
    ]
    assert not said
