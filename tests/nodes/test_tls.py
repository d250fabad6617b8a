"""The whole way over TLS: the aggregator as a process, uploads received in place, the worker's link,
`lab --ca`; and each way in which trust does not come about, in one line at both ends.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import aggregator.__main__ as aggregator
import httpx
import pytest
import uvicorn
from aggregator import receive
from aggregator.settings import load as service
from aggregator.tls import server_context, tell_failures
from lab import certificates
from lab.commands import run_app
from roundtable.errors import InvalidSetting, Unreachable
from roundtable.messages import PROTOCOL, Join, Poll
from worker.link import Link
from worker.settings import load
from worker.transport import SocketTransport
from worker.trust import client_context

from tests.aggregator import test_receive as receiving
from tests.nodes.conftest import Hosts, tls

JOIN = Join(protocol=PROTOCOL, instance="0" * 32, host="h", node="n", arch="x", cpus=1, memory_bytes=1)


def link(url: str, token: Path, ca: Path | None) -> Link:
    transport = SocketTransport(httpx.HTTPTransport(verify=client_context(ca), trust_env=False))
    return Link(url, lambda: token.read_text().strip(), transport=transport)


def test_a_worker_and_lab_trust_the_authority_they_are_given_and_speak_to_the_aggregator(
    hosts: Hosts, certs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process, url = hosts.aggregator(**tls(certs), POLL_SECONDS="0.1")
    assert url.startswith("https://127.0.0.1:")
    there = link(url, hosts.join_token, certs / "ca.pem")
    assert there.join(JOIN).worker == "w1"
    assert there.poll(Poll()).give == ()
    there.leave()
    there.close()
    assert run_app(["status", "--url", url, "--ca", str(certs / "ca.pem"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workers"][0]["state"] == "left"
    assert run_app(["status", "--url", url]) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "give that lab's ca.pem with --ca" in line
    assert run_app(["status", "--url", url, "--ca", str(certs / "server.key")]) == 2
    assert "holds no certificate" in capsys.readouterr().err
    assert not any("traceback" in line for line in process.lines)


@contextmanager
def serving(certs: Path) -> Iterator[receiving.Lab]:
    """The application of the tests of `receive`, with TLS, in this process."""

    def config(*arguments: Any, **options: Any) -> uvicorn.Config:
        made = original(*arguments, **options)
        made.load()
        made.ssl = server_context(certs / "server.pem", certs / "server.key")
        return made

    async def startup(server: uvicorn.Server, **options: Any) -> None:
        tell_failures(asyncio.get_running_loop())
        await begin(server, **options)

    original, begin = uvicorn.Config, uvicorn.Server.startup
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receiving.uvicorn, "Config", config)
        patch.setattr(uvicorn.Server, "startup", startup)
        with receiving._serving("uvloop", receive.protocol()) as lab:
            yield lab


def address(lab: receiving.Lab) -> str:
    return f"https://127.0.0.1:{lab.port}"


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.fields["detail"] for record in caplog.records if record.getMessage() == "TLS handshake failed"
    ]


# --- uploads in place


def test_bodies_are_received_in_place_over_tls_as_without(certs: Path) -> None:
    lengths = (1, 32 * 1024, 200_000, 3_000_001, receiving.LIMIT)
    with serving(certs) as lab:
        with httpx.Client(base_url=address(lab), verify=client_context(certs / "ca.pem")) as client:
            for length in lengths:  # all on one connection
                body = receiving._body(length)
                assert client.put("/into", content=body).content == body
                assert client.get("/hello").json() == "hello"
        assert lab.direct == [length >= 32 * 1024 for length in lengths]


def test_a_sender_that_goes_away_over_tls_is_noticed(certs: Path) -> None:
    with serving(certs) as lab:
        context = client_context(certs / "ca.pem")
        with context.wrap_socket(lab.connect(), server_hostname="127.0.0.1") as connection:
            connection.sendall(receiving._head("/into", "Content-Length: 400000") + b"x" * 100_000)
        assert lab.failed.wait(10) and "went away" in str(lab.failures[0])


# --- no trust


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "join"
    path.write_text("a-join-token-of-some-length")
    return path


def test_a_certificate_of_another_authority_is_one_line_at_both_ends(
    token: Path, certs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates.make(tmp_path / "other", ["lab.local"])
    with serving(certs) as lab:
        for _ in range(3):  # told once
            with pytest.raises(Unreachable, match=r"not signed by the authority in AGGREGATOR_CA: copy this"):
                link(address(lab), token, tmp_path / "other" / "ca.pem").join(JOIN)
    (line,) = told(caplog)
    assert line.startswith("127.0.0.1 does not know who signed")


@pytest.mark.slow
def test_a_node_with_the_authority_of_another_lab_waits_and_both_ends_say_why(
    hosts: Hosts, certs: Path, tmp_path: Path
) -> None:
    certificates.make(tmp_path / "other", ["lab.local"])
    aggregator, url = hosts.aggregator(**tls(certs))
    node = hosts.node("pi-1", url, AGGREGATOR_CA=str(tmp_path / "other" / "ca.pem"))
    assert "not signed by the authority in AGGREGATOR_CA" in node.field("waiting for the aggregator")
    assert "does not know who signed" in aggregator.field("TLS handshake failed")
    assert len(node.lines) == 1


def test_a_certificate_for_another_name_is_one_line_at_both_ends(
    token: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates.make(tmp_path / "certs", ["lab.local"])
    authority, key = certificates._authority(tmp_path / "certs")
    now = datetime.now(timezone.utc)
    certificates._make_server(tmp_path / "certs", authority, key, ["lab.local"], now)
    with (
        serving(tmp_path / "certs") as lab,
        pytest.raises(Unreachable, match=r"for other names and addresses than the one in AGGREGATOR_URL"),
    ):
        link(address(lab), token, tmp_path / "certs" / "ca.pem").join(JOIN)
    assert "127.0.0.1 knows this lab by a name or address that is not in the cert" in told(caplog)[0]


@pytest.mark.parametrize(
    ("days", "words"),
    [(-3000, "has expired at this machine's time"), (30, "is not valid yet at this machine's")],
)
def test_a_clock_that_is_far_off_is_told_with_the_time_that_it_shows(
    token: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, words: str
) -> None:
    now = datetime.now(timezone.utc)
    certificates.make(tmp_path / "certs", now=now + timedelta(days=days))
    with (
        serving(tmp_path / "certs") as lab,
        pytest.raises(Unreachable, match=rf"{words}.*{now:%Y-%m-%d}.*set the clock"),
    ):
        link(address(lab), token, tmp_path / "certs" / "ca.pem").join(JOIN)
    assert "clock" in told(caplog)[0]


def test_plain_http_to_a_tls_port_and_tls_to_a_plain_one_are_told(
    token: Path, certs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(certs) as lab, pytest.raises(Unreachable):
        link(lab.url, token, None).join(JOIN)
    assert "must begin with https://" in told(caplog)[0]
    with (
        receiving._serving("uvloop", receive.protocol()) as plain,
        pytest.raises(Unreachable, match="may speak plain HTTP"),
    ):
        link(address(plain), token, certs / "ca.pem").join(JOIN)


# --- settings


def test_plain_http_beyond_this_machine_is_refused_unless_a_setting_says_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aggregator.main(["--host", "0.0.0.0", "--state-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(
        r"aggregator: AGGREGATOR_HOST 0\.0\.0\.0: plain HTTP beyond this machine .* ALLOW_PLAIN_HTTP=true$",
        line,
    )
    with pytest.raises(InvalidSetting, match=r"PUBLISHED_ON 10\.0\.0\.5: plain HTTP"):
        service(host="0.0.0.0", published_on="10.0.0.5").check_reach()
    service(host="0.0.0.0", published_on="127.0.0.1").check_reach()  # in a container
    service(published_on="10.0.0.5", allow_plain_http=True).check_reach()
    service(host="0.0.0.0", tls_cert_file="x", tls_key_file="y").check_reach()


def test_certificates_that_cannot_be_used_are_one_line(certs: Path) -> None:
    for certificate, key, words in (
        ("server.pem", None, "TLS_KEY_FILE: is not set, though TLS_CERT_FILE is"),
        (None, "server.key", "TLS_CERT_FILE: is not set, though TLS_KEY_FILE is"),
        ("server.pem", "server.nothing", "server.nothing: No such file"),
        ("server.pem", "ca.key", "are not a certificate and its key"),
        ("server.key", "server.key", "are not a certificate and its key"),
    ):
        with pytest.raises(InvalidSetting, match=words):
            server_context(certificate and certs / certificate, key and certs / key)


def test_a_worker_refuses_plain_http_to_another_machine(certs: Path, tmp_path: Path) -> None:
    token = tmp_path / "join"
    token.write_text("a-join-token-of-some-length")

    def settings(url: str, *options: str) -> str:
        return load(["--join-token-file", str(token), "--aggregator-url", url, *options]).aggregator_url

    for url in (
        "http://127.0.0.1:8080",
        "http://localhost:8080",
        "http://[::1]:8080",
        "https://lab.local:8080",
    ):
        assert settings(url) == url
    with pytest.raises(
        InvalidSetting, match=r"AGGREGATOR_URL: http://10\.0\.0\.5:8080 is plain HTTP to another"
    ):
        settings("http://10.0.0.5:8080")
    assert settings("http://aggregator:8080", "--allow-plain-http")
    with pytest.raises(InvalidSetting, match="though AGGREGATOR_CA is set: write it with https://"):
        settings("http://10.0.0.5:8080", "--aggregator-ca", str(certs / "ca.pem"), "--allow-plain-http")
    for ca, words in ((tmp_path / "none", "cannot be read"), (token, "holds no certificate")):
        with pytest.raises(InvalidSetting, match=rf"AGGREGATOR_CA: .* {words}"):
            settings("https://10.0.0.5:8080", "--aggregator-ca", str(ca))
    assert client_context(certs / "ca.pem").verify_mode == ssl.CERT_REQUIRED
