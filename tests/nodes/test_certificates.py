"""The lab's certificates: what they are good for and what not; making them again keeps the authority."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from lab import certificates
from lab.commands import run_app
from roundtable.errors import InvalidSetting

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


def names(folder: Path) -> set[str]:
    found = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in alternative}


def handshake(authority: Path, certificate: Path, key: Path, host: str) -> None:
    """Between two contexts, in memory. Raises ssl.SSLError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=str(authority))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=host)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    for end in (near, far, near, far):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()


def test_a_node_that_has_the_authority_trusts_the_aggregator_by_each_of_its_names(tmp_path: Path) -> None:
    certificates.make(tmp_path, ["lab.local", "10.0.0.5", "FD00::5"])
    assert {"lab.local", "10.0.0.5", "fd00::5", "localhost", "127.0.0.1", "::1", "aggregator"} <= names(
        tmp_path
    )
    for name in ("lab.local", "10.0.0.5", "fd00::5", "localhost", "aggregator"):
        handshake(tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "server.key", name)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "server.key", "10.0.0.6")


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        certificates.make(tmp_path / "certs", ["lab.local"])
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "certs").iterdir()}
    assert modes == {"ca.key": 0o600, "server.key": 0o600, "ca.pem": 0o644, "server.pem": 0o644}
    assert (tmp_path / "certs").stat().st_mode & 0o777 == 0o700


def test_made_again_the_authority_stays_and_the_names_add_up(tmp_path: Path) -> None:
    first = certificates.make(tmp_path, ["lab.local"], now=NOW)
    authority, server = (tmp_path / "ca.pem").read_bytes(), (tmp_path / "server.pem").read_bytes()
    again = certificates.make(tmp_path, ["10.0.0.9"], now=NOW + timedelta(days=700))
    assert (first.new_authority, again.new_authority) == (True, False)
    assert (tmp_path / "ca.pem").read_bytes() == authority and (
        tmp_path / "server.pem"
    ).read_bytes() != server
    assert {"lab.local", "10.0.0.9"} <= names(tmp_path)
    assert again.until == NOW + timedelta(days=700 + 825)


def test_a_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    certificates.make(tmp_path, now=NOW)
    late = certificates.make(tmp_path, now=NOW + timedelta(days=3600))
    assert late.until == NOW + timedelta(days=3650)
    with pytest.raises(InvalidSetting, match="expired on 2039-12-30"):
        certificates.make(tmp_path, now=NOW + timedelta(days=3651))


def test_a_stolen_authority_is_of_no_use_against_the_rest_of_the_internet(tmp_path: Path) -> None:
    certificates.make(tmp_path, ["lab.local"])
    with pytest.raises(InvalidSetting, match=r"bank\.example: the authority .* may not sign for it"):
        certificates.make(tmp_path, ["bank.example"])
    authority, key = certificates._authority(tmp_path)
    now = datetime.now(timezone.utc)
    certificates._make_server(tmp_path, authority, key, ["bank.example", "93.184.216.34"], now)
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree"):
        handshake(tmp_path / "ca.pem", tmp_path / "server.pem", tmp_path / "server.key", "bank.example")


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("https://lab.local", "is neither a host name nor an address"),
        ("-x", "is neither"),
        ("10.0.0", None),
        ("a b", "is neither"),
    ],
)
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str, fault: str | None) -> None:
    if fault is None:  # a host may be called so
        certificates.make(tmp_path, [name])
    else:
        with pytest.raises(InvalidSetting, match=fault):
            certificates.make(tmp_path, [name])


def test_an_authority_without_its_key_is_one_line(tmp_path: Path) -> None:
    certificates.make(tmp_path)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(InvalidSetting, match=r"ca\.key: is not there, though ca\.pem is"):
        certificates.make(tmp_path)


def test_the_command_says_what_it_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["certs", "lab.local", "--certs-dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "a new authority" in said and "lab.local" in said and "the keys stay here" in said
    assert run_app(["certs", "--certs-dir", str(tmp_path)]) == 0
    assert "the same authority" in capsys.readouterr().out
    assert run_app(["certs", "no such name", "--certs-dir", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
