"""The service as a process: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from aggregator import rerun
from aggregator.heads import LIMIT
from aggregator.settings import load

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


@contextmanager
def process(tmp_path, *options, port="0", **environment):
    command = [
        sys.executable,
        "-m",
        "aggregator",
        "--port",
        port,
        "--state-dir",
        str(tmp_path / "state"),
        *options,
    ]
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        preexec_fn=few_files,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def listening(child):
    word, _, url = child.stdout.readline().strip().partition(" ")
    assert word == "listening", child.stderr.read()
    return url


def ends(child, seconds=5.0):
    began = time.monotonic()
    child.wait(seconds)
    return time.monotonic() - began


def test_the_first_line_says_where_it_listens_and_requests_are_taken(tmp_path, monkeypatch):
    with process(tmp_path) as child:
        url = listening(child)
        assert url.startswith("http://127.0.0.1:")
        assert httpx.get(f"{url}/readyz").status_code == 200
        soft, hard = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
        assert soft == hard > 256  # a fold maps every update of its round
        for name in ("join", "admin"):
            assert (tmp_path / "state" / "tokens" / name).stat().st_mode & 0o777 == 0o600
        # and `rerun` asks it there, whatever proxy there is for others
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("EXPERIMENT", str(EXPERIMENTS / "digits.toml"))
        settings = load(port=int(url.rpartition(":")[2]), state_dir=tmp_path / "state")
        first, second = rerun.anew(settings), rerun.anew(settings)
        assert second.endswith(f"; {first.split()[1]} is stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_with_polls_and_streams_open(tmp_path, number):
    with process(tmp_path) as child, httpx.Client(base_url=listening(child), timeout=20) as http:
        admin, join = (
            Path(tmp_path / "state" / "tokens" / name).read_text().strip() for name in ("admin", "join")
        )
        body = {"experiment": {"name": "x", "task": "digits"}}
        run = http.post("/v1/runs", json=body, headers={"Authorization": f"Bearer {admin}"}).json()["id"]
        introduction = {"protocol": 1, "instance": "0" * 16, "host": "h", "node": "n", "arch": "a", "cpus": 1}
        introduction["memory_bytes"] = 1
        joined = http.post("/v1/join", json=introduction, headers={"Authorization": f"Bearer {join}"}).json()
        session = {"Authorization": f"Bearer {joined['session_token']}"}
        held = [order["id"] for order in http.post("/v1/poll", json={}, headers=session).json()["give"]]
        replies = []
        waiting = threading.Event()

        def poll():
            waiting.set()
            replies.append(http.post("/v1/poll", json={"holding": held}, headers=session).json())

        thread = threading.Thread(target=poll)
        with http.stream("GET", f"/v1/runs/{run}/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            thread.start()
            waiting.wait()
            child.send_signal(number)
            assert ends(child) < 2.0
            for _ in lines:
                pass
        thread.join(5)
        assert child.returncode == 0
        assert replies == [{"give": [], "cancel": [], "head": None}]
        assert "Traceback" not in child.stderr.read()


def test_it_ends_when_standard_input_does(tmp_path):
    with process(tmp_path, "--exit-on-eof") as child:
        listening(child)
        child.stdin.close()
        child.stdin = None
        assert ends(child) < 2.0 and child.returncode == 0


def refusal(child):
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 2 and output == ""
    (line,) = errors.strip().splitlines()
    return line


def test_a_port_in_use_is_one_clear_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with process(tmp_path, port=port) as child:
            line = refusal(child)
            assert port in line and "--port" in line


def test_a_state_folder_in_use_is_one_clear_line(tmp_path):
    with process(tmp_path) as first:
        listening(first)
        with process(tmp_path) as second:
            line = refusal(second)
            assert str(tmp_path / "state") in line and "--state-dir" in line


def test_a_corrupt_database_a_bad_token_and_a_bad_setting_are_one_clear_line_each(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "lab.sqlite").write_bytes(b"this is no database, but it is long enough to be taken for one" * 40)
    with process(tmp_path) as child:
        assert "lab.sqlite" in refusal(child)
    (state / "lab.sqlite").unlink()
    (state / "tokens" / "join").write_text("short")
    with process(tmp_path) as child:
        assert "tokens/join" in refusal(child)
    with process(tmp_path, LOST_AFTER="soon") as child:
        assert "LOST_AFTER" in refusal(child)


def test_an_endless_request_head_is_cut_off(tmp_path):
    with process(tmp_path) as child:
        host, _, port = listening(child).removeprefix("http://").partition(":")
        for start in (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ", b"GET /"):
            with socket.create_connection((host, int(port)), timeout=5) as line:
                line.sendall(start)
                with pytest.raises(OSError):
                    for _ in range(1000):
                        line.sendall(b"x" * 4096)
                    line.settimeout(2)
                    while line.recv(65536):
                        pass
                    raise ConnectionResetError  # closed in order is as good
        assert httpx.get(f"http://{host}:{port}/healthz").status_code == 200


def test_what_is_no_request_or_has_too_long_a_head_is_refused_as_a_problem_too(tmp_path):
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: "
    with process(tmp_path) as child:
        host, _, port = listening(child).removeprefix("http://").partition(":")
        for request, status in (
            (b"\x16\x03\x01 what is this\r\n\r\n", 400),
            (head.ljust(LIMIT + 1, b"x"), 431),  # refused with its last byte: none is left unread
        ):
            with socket.create_connection((host, int(port)), timeout=5) as line:
                line.sendall(request)
                reply = b"".join(iter(lambda: line.recv(65536), b""))
            said, _, body = reply.partition(b"\r\n\r\n")
            assert said.startswith(b"HTTP/1.1 %d " % status), said
            assert b"content-type: application/problem+json" in said
            told = json.loads(body)
            assert (told["type"], told["status"]) == ("about:blank", status) and told["detail"]
        assert httpx.get(f"http://{host}:{port}/healthz").status_code == 200


def test_peers_that_go_away_are_no_trouble(tmp_path):
    with process(tmp_path) as child:
        url = listening(child)
        host, _, port = url.removeprefix("http://").partition(":")
        tokens = tmp_path / "state" / "tokens"
        join, admin = ((tokens / name).read_text().strip() for name in ("join", "admin"))
        introduction = {"protocol": 1, "instance": "0" * 16, "host": "h", "node": "n", "arch": "a", "cpus": 1}
        introduction["memory_bytes"] = 1
        headers = {"Authorization": f"Bearer {join}"}
        session = httpx.post(f"{url}/v1/join", json=introduction, headers=headers).json()["session_token"]
        begun = [
            ("/sign-in", ""),
            ("/v1/join", join),
            ("/v1/telemetry/write", join),
            ("/v1/experiments", admin),
            ("/v1/runs", admin),
            ("/v1/poll", session),
        ]
        head = "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 9\r\n\r\n{{"
        requests = [head.format(*path_and_token).encode() for path_and_token in begun]
        requests += [b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n"] * 5
        for request in requests:
            for how in (b"\0\0\0\0\0\0\0\0", b"\1\0\0\0\0\0\0\0"):  # in order, and with a reset
                with socket.create_connection((host, int(port)), timeout=5) as line:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
                    line.sendall(request)
                    if request.startswith(b"POST"):
                        time.sleep(0.05)
        assert httpx.get(f"{url}/healthz").status_code == 200
        child.send_signal(signal.SIGTERM)
        ends(child)
        logged = [json.loads(line) for line in child.stderr.read().splitlines()]
        assert [line for line in logged if line["level"] == "error"] == []


def test_a_stalled_upload_is_dropped(tmp_path):
    with (
        process(tmp_path, UPLOAD_STALL_SECONDS="0.3") as child,
        httpx.Client(base_url=listening(child)) as http,
    ):
        admin, join = (
            Path(tmp_path / "state" / "tokens" / name).read_text().strip() for name in ("admin", "join")
        )
        body = {"experiment": {"name": "x", "task": "digits"}}
        http.post("/v1/runs", json=body, headers={"Authorization": f"Bearer {admin}"})
        introduction = {"protocol": 1, "instance": "0" * 16, "host": "h", "node": "n", "arch": "a", "cpus": 1}
        introduction["memory_bytes"] = 1
        joined = http.post("/v1/join", json=introduction, headers={"Authorization": f"Bearer {join}"}).json()
        session = f"Bearer {joined['session_token']}"
        (order,) = http.post("/v1/poll", json={}, headers={"Authorization": session}).json()["give"]
        with socket.create_connection((http.base_url.host, http.base_url.port), timeout=10) as line:
            head = f"PUT /v1/orders/{order['id']}/update HTTP/1.1\r\nHost: x\r\nAuthorization: {session}\r\n"
            line.sendall(head.encode() + b"Content-Length: 500000\r\n\r\n" + bytes(1000))
            reply = line.recv(65536)
            assert b" 422 " in reply.splitlines()[0]
            assert json.loads(reply.partition(b"\r\n\r\n")[2])["type"] == "urn:roundtable:truncated"
        assert not list((tmp_path / "state").rglob("*.part"))
