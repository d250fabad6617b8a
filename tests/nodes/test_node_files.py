"""What a node is made of: its compose file, what Telegraf is told there, the folder of `lab node add`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import certificates
from lab.commands import run_app
from ruamel.yaml import YAML

from tests.nodes.conftest import ROOT, Hosts, tls
from tests.roundtable.sink import Sink

TOKEN = "a-join-token-of-some-length"
NODE: dict[str, Any] = YAML(typ="safe").load((ROOT / "compose.node.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["compose.node.yaml", "compose.tls.yaml"])
def test_compose_files_are_as_the_schema_says(name: str) -> None:
    command = [Path(sys.executable).with_name("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, ROOT / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["worker", "telegraf"])
def test_a_nodes_services_are_confined_restart_and_publish_nothing(name: str) -> None:
    service = NODE["services"][name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["restart"] == "unless-stopped"
    assert service["security_opt"] == ["no-new-privileges:true"] and service["healthcheck"]
    assert "ports" not in service and "container_name" not in service
    assert not any(
        "TOKEN" in variable and variable != "JOIN_TOKEN_FILE" for variable in service["environment"]
    )
    assert all(str(mount).endswith(":ro") for mount in service["volumes"])
    assert service["logging"]["options"]["max-size"]


# --- lab node add


@pytest.fixture
def lab_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As a clone has it, with certificates and a token."""
    for name in ("compose.node.yaml", "monitoring/telegraf", "tasks"):
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    certificates.make(tmp_path / "certs", ["10.0.0.5"])
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LAB_URL", raising=False)
    return tmp_path


def add(name: str, *options: str) -> int:
    given = ["--join-token-file", "token", "--url", "https://10.0.0.5:8080"]
    return run_app(["node", "add", name, *given, *options])


def settings(folder: Path) -> dict[str, str]:
    lines = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_node_add_writes_a_folder_that_is_all_a_device_needs(
    lab_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add("pi-1", "--board", "pi", "--data", "/home/pi/samples") == 0
    folder = lab_folder / "nodes" / "pi-1"
    assert "scp -r nodes/pi-1 pi-1:" in capsys.readouterr().out
    assert settings(folder) == {
        "AGGREGATOR_URL": "https://10.0.0.5:8080",
        "AGGREGATOR_CA": "./ca.pem",
        "JOIN_TOKEN_FILE": "./join-token",
        "NODE_NAME": "pi-1",
        "BOARD": "pi",
        "DATA_DIR": "/home/pi/samples",
    }
    assert (folder / "join-token").read_text().strip() == TOKEN
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / "join-token")] == [0o700, 0o600]
    assert (folder / "ca.pem").read_bytes() == (lab_folder / "certs" / "ca.pem").read_bytes()
    assert not list(folder.rglob("*.key"))
    mounted = [
        mount.split(":")[0] for mount in NODE["services"]["telegraf"]["volumes"] if mount.startswith("./")
    ]
    for path in mounted:
        assert (folder / path.replace("${BOARD", "pi.conf").partition("pi.conf")[0]).exists()
    assert {path.name for path in (folder / "monitoring/telegraf/boards").iterdir()} == {"pi.conf"}
    assert (folder / "tasks" / "breast_cancer.py").is_file()
    page = (folder / "README.md").read_text()
    assert "TARGET=pi" in page and "curl --cacert ca.pem https://10.0.0.5:8080/healthz" in page
    assert "lab status --url https://10.0.0.5:8080 --ca certs/ca.pem --admin-token-file read-token" in page


def test_the_gpu_of_an_orin_is_asked_for_and_no_other(lab_folder: Path) -> None:
    assert add("orin", "--board", "jetson-orin") == add("nano", "--board", "jetson-nano") == 0
    assert settings(lab_folder / "nodes" / "orin")["NODE_RUNTIME"] == "nvidia"
    assert "NODE_RUNTIME" not in settings(lab_folder / "nodes" / "nano")


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["Pi 1"], "'Pi 1' is no name for a node"),
        (["pi-1", "--data", "samples"], "--data samples: write the whole path on the device"),
        (["pi-1", "--url", "https://10.0.0.6:8080"], "is not for 10.0.0.6: run `make certs NAMES=10.0.0.6`"),
        (["pi-1", "--url", "http://10.0.0.5:8080"], "plain HTTP shows token and updates to its network"),
        (["pi-1", "--url", "10.0.0.5"], "is not an address"),
        (
            ["pi-1", "--url", "https://127.0.0.1:8080"],
            "to a device 127.0.0.1 is the device itself: give this",
        ),
        (["pi-1", "--url", "https://localhost:8080"], "to a device localhost is the device itself"),
        (["pi-1", "--certs-dir", "nowhere"], "nowhere/ca.pem: is not there: run `make certs`"),
        (["pi-1", "--join-token-file", "nowhere"], "nowhere: No such file"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_leaves_nothing(
    lab_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
) -> None:
    assert add(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert fault in line
    assert not (lab_folder / "nodes").exists() or not list((lab_folder / "nodes").iterdir())


def test_a_name_taken_twice_is_one_line_and_the_first_folder_stays(
    lab_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add("pi-1") == 0
    assert add("pi-1", "--board", "pi") != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "node name pi-1 is taken: nodes/pi-1/ is there" in line
    assert settings(lab_folder / "nodes" / "pi-1")["BOARD"] == "none"


def test_plain_http_is_possible_where_it_is_asked_for(lab_folder: Path) -> None:
    assert add("pi-1", "--url", "http://10.0.0.5:8080", "--allow-plain-http") == 0
    found = settings(lab_folder / "nodes" / "pi-1")
    assert found["ALLOW_PLAIN_HTTP"] == "true" and "AGGREGATOR_CA" not in found


# --- a real Telegraf


@pytest.fixture
def sink() -> Iterator[Sink]:
    server = Sink()
    yield server
    server.stop()


@pytest.fixture
def telegraf() -> str:
    found = os.environ.get("TELEGRAF") or shutil.which("telegraf")
    if not found:
        pytest.skip("there is no Telegraf here: set TELEGRAF to one")
    return found


def test_what_a_real_telegraf_reads_on_a_node_arrives_with_the_nodes_name_in_every_point(
    hosts: Hosts, certs: Path, sink: Sink, telegraf: str, tmp_path: Path
) -> None:
    process, url = hosts.aggregator(**tls(certs), TELEMETRY_URL=sink.url)
    configuration = (ROOT / "monitoring/telegraf/node.conf").read_text().replace(":8186", "127.0.0.1:0")
    quick = configuration.replace('interval = "10s"', 'interval = "1s"').replace('"2s"', '"0s"')
    assert quick.count('"1s"') == 2 and quick.count('"0s"') == 1
    (tmp_path / "node.conf").write_text(quick)
    child = subprocess.Popen(
        [telegraf, "--config", tmp_path / "node.conf"],
        env=os.environ
        | {
            "AGGREGATOR_URL": url,
            "AGGREGATOR_CA": str(certs / "ca.pem"),
            "NODE_NAME": "pi-1",
            "JOIN_TOKEN": hosts.join_token.read_text().strip(),
        },
        stderr=subprocess.PIPE,
    )
    try:
        for measurement in ("cpu", "mem", "system"):
            sink.wait_for(f"^{measurement},", seconds=30)
    finally:
        child.kill()
        _, errors = child.communicate()
    assert all(",host=pi-1" in line.partition(" ")[0] for line in sink.lines), sink.lines
    assert b" E! [outputs" not in errors, errors.decode()
    assert not any("traceback" in line for line in process.lines)
