"""The stack's files without an engine: schemas, and promises that a schema cannot hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")
ADDED = ("compose.tls.yaml", "compose.gpu.yaml")  # to it, by COMPOSE_FILE
SERVICES: dict[str, dict[str, Any]] = YAML(typ="safe").load(COMPOSE)["services"]
STEPS = ("influxdb-setup",)  # that end by themselves


@pytest.mark.parametrize("name", ["compose.yaml", *ADDED, "tests/stack/compose.test.yaml"])
def test_compose_files_are_as_the_schema_says(name: str) -> None:
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, ROOT / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "file", sorted((ROOT / "monitoring/telegraf").rglob("*.conf")), ids=lambda file: file.name
)
def test_telegrafs_files_are_toml(file: Path) -> None:
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    assert set(tables) <= {"agent", "inputs", "outputs", "processors"}


def together(*names: str, **settings: str) -> dict[str, Any]:
    """What Compose makes of these files; it needs no engine for that."""
    # A docker command without the plugin is asked in so many words: what it says of other commands varies.
    if (
        not shutil.which("docker")
        or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode
    ):
        pytest.skip("there is no docker command here, or none with its compose plugin")
    files = [word for name in names for word in ("-f", name)]
    command = ["docker", "compose", "--env-file", os.devnull, "--profile", "slow", *files, "config"]
    done = subprocess.run(
        [*command, "--format", "json"], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


@pytest.mark.parametrize("added", ADDED)
def test_what_is_added_goes_together_with_it(added: str) -> None:
    assert set(SERVICES) <= set(together("compose.yaml", added))


def test_with_gpus_the_workers_are_given_them_and_telegraf_may_look() -> None:
    services = together("compose.yaml", *ADDED)
    given = {
        name: service["deploy"]["resources"]["reservations"]["devices"][0]
        for name, service in services.items()
        if "reservations" in service.get("deploy", {}).get("resources", {})
    }
    assert set(given) == {"worker", "worker-slow", "telegraf"}
    for name, device in given.items():
        assert device["driver"] == "nvidia" and device["count"] == -1
        assert set(device["capabilities"]) == {"gpu", "utility"} | (
            {"compute"} if "worker" in name else set()
        )
    for name in ("worker", "worker-slow"):  # all else is as it was
        assert services[name]["build"]["args"]["TENSORFLOW"] == "from-base"
        assert services[name]["image"] == "roundtable-worker-gpu"
        assert services[name]["read_only"] and services[name]["deploy"]["resources"]["limits"]["memory"]


def test_the_slow_profile_is_the_same_worker_with_a_quarter_of_the_cpu_and_less_memory() -> None:
    services = together("compose.yaml")
    worker, slow = services["worker"], services["worker-slow"]
    fast, few = worker.pop("deploy")["resources"]["limits"], slow.pop("deploy")["resources"]["limits"]
    assert float(few["cpus"]) == float(fast["cpus"]) / 4
    assert int(few["memory"]) < int(fast["memory"])
    assert slow.pop("profiles") == ["slow"] and "profiles" not in worker
    assert slow == worker


def test_every_setting_of_the_compose_files_is_told_with_its_default_and_no_other() -> None:
    files = [COMPOSE, *((ROOT / name).read_text(encoding="utf-8") for name in ADDED)]
    used = {
        name: default or ""
        for text in files
        for name, default in re.findall(r"\$\{(\w+)(?::?-([^}]*))?\}", text)
    }
    told = dict(re.findall(r"^#(\w+)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.M))
    assert told == used


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_is_pinned_confined_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"]["max-size"]
    assert "container_name" not in service and "privileged" not in service
    assert ("healthcheck" in service) != (name in STEPS)
    assert "build" in service or re.search(r":\d+\.\d+", service["image"])
    assert name in STEPS or service["deploy"]["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.node.yaml"])
def test_what_crashes_starts_again_and_all_of_it_with_the_machine(name: str) -> None:
    """`on-failure` would not: what ended well as the machine went down stays down."""
    services = YAML(typ="safe").load((ROOT / name).read_text(encoding="utf-8"))["services"]
    for service, definition in services.items():
        assert definition["restart"] == ("no" if service in STEPS else "unless-stopped"), service


@pytest.mark.parametrize("name", ["compose.yaml", "compose.node.yaml"])
def test_where_cores_are_short_training_goes_before_watching(name: str) -> None:
    services = together(name, AGGREGATOR_URL="https://10.0.0.5:8080", NODE_NAME="pi-1", JOIN_TOKEN_FILE="t")
    training = ("aggregator", "worker", "worker-slow", *STEPS)
    shares = {service: definition.get("cpu_shares", 1024) for service, definition in services.items()}
    assert {service for service, share in shares.items() if share == 1024} <= set(training)
    assert {service for service, share in shares.items() if share < 512} == set(services) - set(training)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.node.yaml"])
def test_health_checks_are_rare_but_where_a_start_waits_for_one(name: str) -> None:
    """Each is a process in a container: with them all the engine is busier than with what they look after."""
    services = together(name, AGGREGATOR_URL="https://10.0.0.5:8080", NODE_NAME="pi-1", JOIN_TOKEN_FILE="t")
    waited_for = {
        other
        for definition in services.values()
        for other, edge in (definition.get("depends_on") or {}).items()
        if edge["condition"] == "service_healthy"
    }
    assert waited_for == ({"aggregator"} if name == "compose.yaml" else set())
    for service, definition in services.items():
        if "healthcheck" in definition:
            check = definition["healthcheck"]
            assert check["interval"] == ("5s" if service in waited_for else "1m0s"), service
            assert check["start_period"], service  # engines from 25 on ask more often in it
            assert "start_interval" not in check, service  # older ones would refuse it


def test_no_start_of_the_lab_waits_for_monitoring_and_monitoring_comes_up_without_its_database() -> None:
    services = together("compose.yaml")
    edges = {name: set(definition.get("depends_on") or ()) for name, definition in services.items()}
    assert edges["worker"] == edges["worker-slow"] == {"aggregator"} and not edges["aggregator"]
    setup = services["telegraf"]["depends_on"]["influxdb-setup"]
    assert (setup["condition"], setup["required"]) == ("service_completed_successfully", False)
    assert edges["influxdb-setup"] == edges["grafana"] == {"influxdb"}


def set_up(folder: Path, refusals: int) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """influxdb-setup's script, with an influx that cannot connect so often, and a sleep that takes none."""
    tools = {
        "influx": f"""#!/bin/sh
echo "$*" >>asked
[ "$(grep -c 'SHOW DATABASES' asked)" -gt {refusals} ] || {{ echo 'Failed to connect' >&2; exit 1; }}
""",
        "timeout": '#!/bin/sh\nshift\nexec "$@"\n',
        "sleep": "#!/bin/sh\n",
    }
    for name, text in tools.items():
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    service = SERVICES["influxdb-setup"]
    words = [word.replace("$$", "$") for word in (*service["entrypoint"], *service["command"])]
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(words, cwd=folder, env={"PATH": path}, capture_output=True, text=True, timeout=120)
    return done, (folder / "asked").read_text(encoding="utf-8").splitlines()


def test_the_database_is_made_as_soon_as_influxdb_answers(tmp_path: Path) -> None:
    done, asked = set_up(tmp_path, refusals=3)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert asked[:4] == ["-host influxdb -execute SHOW DATABASES"] * 4
    assert asked[4].startswith("-host influxdb -execute CREATE DATABASE lab; CREATE RETENTION POLICY lab")
    assert len(asked) == 5


def test_an_influxdb_that_never_answers_is_one_clear_line(tmp_path: Path) -> None:
    done, asked = set_up(tmp_path, refusals=1000)
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("influxdb-setup: InfluxDB has not answered for a minute: see docker compose logs")
    assert len(asked) == 60 and not any("CREATE" in words for words in asked)


def test_influxdbs_cache_is_well_below_what_its_container_may_use() -> None:
    """A full cache refuses points; one that never fills gets the container killed instead."""
    influxdb = together("compose.yaml")["influxdb"]
    limit = int(influxdb["deploy"]["resources"]["limits"]["memory"])
    cache = influxdb["environment"]["INFLUXDB_DATA_CACHE_MAX_MEMORY_SIZE"]
    assert int(cache.removesuffix("m")) * 2**20 <= limit / 2


def test_everything_is_published_on_loopback_unless_it_is_said_otherwise() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(ports) == {"aggregator", "grafana"}
    for published in ports.values():
        assert all(re.match(r"\$\{\w*BIND:-127\.0\.0\.1\}:", port) for port in published)


def test_only_the_aggregator_holds_the_admin_token_and_only_it_writes_the_join_token() -> None:
    for name, service in SERVICES.items():
        mounts = [str(mount) for mount in service.get("volumes", ())]
        assert any(mount.startswith("admin:") for mount in mounts) == (name == "aggregator")
        joins = [mount for mount in mounts if mount.startswith("join:")]
        assert name == "aggregator" or all(mount.endswith(":ro") for mount in joins)
        assert not any("TOKEN" in variable for variable in service.get("environment", ()))


def test_the_docker_socket_is_the_proxys_alone_and_only_telegraf_reaches_that() -> None:
    sockets = [name for name, service in SERVICES.items() if "docker.sock" in str(service.get("volumes"))]
    assert sockets == ["socket-proxy"]
    assert {name for name, service in SERVICES.items() if "engine" in service.get("networks", ())} == {
        "socket-proxy",
        "telegraf",
    }


def test_nobody_but_telegraf_grafana_and_its_setup_reaches_influxdb_which_asks_for_no_password() -> None:
    reaches = {name for name, service in SERVICES.items() if "monitoring" in service.get("networks", ())}
    assert reaches == {"influxdb", "influxdb-setup", "telegraf", "grafana"}
