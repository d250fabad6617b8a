"""The whole way of a node across a real network boundary: TLS, tokens, points, a link that is down for 30 s,
an address that changes; and the run ends with the weights it would have had anyway.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import certificates

from tests.nodes import namespaces
from tests.nodes.conftest import ROOT, Hosts, Process, tls, wait_for
from tests.nodes.namespaces import Network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SERVER = "10.77.0.1"
URL = f"https://{SERVER}:8443"
DOWN = 30.0  # seconds
ROUNDS = 25

# What takes the lab's points, beside the aggregator: every line into a file.
SINK = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        with open(sys.argv[1], "ab") as file:
            file.write(body + b"\\n")
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", 8186), Handler).serve_forever()
"""

EXPERIMENT = f"""
name = "across"
task = "digits"
[clients]
count = 4
[rounds]
count = {ROUNDS}
"""


@pytest.fixture
def possible() -> None:
    if why := namespaces.missing():
        pytest.skip(why)


@pytest.fixture
def network(possible: None) -> Iterator[Network]:  # noqa: ARG001
    made = Network({"server": SERVER, "pi-1": "10.77.0.2", "pi-2": "10.77.0.3"})
    try:
        made.make(delay_ms=10, loss_percent=0.5)
        yield made
    finally:
        made.remove()


def start(hosts: Hosts, network: Network, host: str, *command: str, **environment: str) -> Process:
    return hosts.start(host, *command, before=network.command(host), **environment)


def lab(hosts: Hosts, network: Network, certs: Path) -> list[str]:
    """The command line of `lab run` on the server's machine."""
    experiment = hosts.folder / "across.toml"
    experiment.write_text(EXPERIMENT)
    options = ["--url", URL, "--ca", str(certs / "ca.pem"), "--admin-token-file", str(hosts.admin_token)]
    runs = ["--runs-dir", str(hosts.folder / "runs"), "--json", "--again"]
    run = [sys.executable, "-c", "from lab.cli import main; main()", "run", str(experiment)]
    return [*network.command("server"), *run, *options, *runs]


def test_a_link_that_is_down_for_30_s_and_an_address_that_changes_leave_no_trace_in_the_weights(
    hosts: Hosts, network: Network, tmp_path: Path
) -> None:
    certs = tmp_path / "certs"
    certificates.make(certs, [SERVER])
    points = tmp_path / "points"
    points.touch()
    sink = subprocess.Popen([*network.command("server"), sys.executable, "-c", SINK, str(points)])
    try:
        state = str(tmp_path / "state")
        aggregator = start(
            hosts,
            network,
            "server",
            *("-m", "aggregator", "--host", SERVER, "--port", "8443", "--state-dir", state),
            **tls(certs),
            TELEMETRY_URL="http://127.0.0.1:8186",
            LOST_AFTER="5",
            POLL_SECONDS="2",
        )
        aggregator.says(f"listening {URL}")
        settings = {
            "AGGREGATOR_URL": URL,
            "AGGREGATOR_CA": str(certs / "ca.pem"),
            "JOIN_TOKEN_FILE": str(hosts.join_token),
            "TELEMETRY_URL": f"{URL}/v1/telemetry",
            "DATASETS_DIR": str(ROOT / "datasets"),
        }
        nodes = {
            name: start(hosts, network, name, "-m", "worker", **settings, NODE_NAME=name)
            for name in ("pi-1", "pi-2")
        }
        for node in nodes.values():
            node.says("joined")
        undisturbed = subprocess.run(
            lab(hosts, network, certs), cwd=ROOT, capture_output=True, text=True, timeout=600
        )
        assert undisturbed.returncode == 0, undisturbed.stderr
        disturbed = subprocess.Popen(
            lab(hosts, network, certs), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        try:
            wait_for(
                lambda: rounds_told(points) > ROUNDS + 3, lambda: f"a few rounds: {rounds_told(points)} told"
            )
            for name in nodes:
                network.plug(name, out=True)
            threading.Event().wait(DOWN)  # what is tried, not a wait for something
            network.readdress("pi-2", "10.77.0.99")
            for name in nodes:
                network.plug(name)
            said, errors = disturbed.communicate(timeout=600)
        finally:
            disturbed.kill()
        assert disturbed.returncode == 0, errors
        assert hashes(undisturbed.stdout) == hashes(said) and len(hashes(said)) == ROUNDS
        for name, node in nodes.items():
            node.says("aggregator lost")
            node.says("aggregator back")
            aggregator.says("worker lost", f'"node": "{name}"')
        for name in nodes:
            assert any(line.startswith("fl_client,") and f",node={name}," in line for line in lines(points))
    finally:
        sink.kill()
        sink.wait(10)


def lines(points: Path) -> list[str]:
    return points.read_text(errors="replace").splitlines()


def rounds_told(points: Path) -> int:
    """By all runs so far."""
    found = [re.match(r"fl_round,\S*run=([\w-]+)\S* .*\bround=(\d+)i", line) for line in lines(points)]
    return len({match.groups() for match in found if match})


def hashes(said: str) -> list[str]:
    """Of the weights after each round, from the results of the run that `lab run --json` told of."""
    result = json.loads((Path(json.loads(said)["folder"]) / "result.json").read_text())
    return [record["weights_hash"] for record in result["rounds"]]
