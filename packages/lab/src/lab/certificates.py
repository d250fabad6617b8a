"""The lab's own certificates: a private authority, made once, and the aggregator's certificate under it.

    FOLDER/ca.pem       nodes trust it, and no other; copied to each of them
    FOLDER/ca.key       mode 0600; stays where it was made
    FOLDER/server.pem   the aggregator's, with the names and addresses it is reached by; made anew
                        at each call
    FOLDER/server.key   mode 0600

The authority may sign for private names and addresses and for those it was made with, and for nothing else
(RFC 5280, 4.2.1.10), so that a stolen ca.key is of no use against the rest of the internet.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Final, TypeAlias

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from roundtable.errors import InvalidSetting

Address: TypeAlias = "IPv4Address | IPv6Address"

AUTHORITY: Final = timedelta(days=3650)
SERVER: Final = timedelta(days=825)
EARLIER: Final = timedelta(days=1)  # before now, for nodes whose clock is a little late

ALWAYS: Final = (
    "localhost",
    "aggregator",
    "127.0.0.1",
    "::1",
)  # this machine; the name inside the compose file
_PRIVATE_NAMES: Final = ("localhost", "aggregator", "local", "lan", "internal", "home.arpa")
_PRIVATE: Final = tuple(
    map(
        ip_network,
        (
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "100.64.0.0/10",
            "::1/128",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
_NAME: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.ASCII)
_NO_BRIDGES: Final = re.compile(r"docker|br-|veth|virbr|lo")


@dataclass(frozen=True)
class Made:
    folder: Path
    names: tuple[str, ...]
    until: datetime
    new_authority: bool


def make(folder: Path, names: Sequence[str] = (), *, now: datetime | None = None) -> Made:
    """The server's certificate for `names` (besides ALWAYS), and the authority where there is none yet.

    To these come the names of the certificate that is there; without one, this machine's. Raises
    InvalidSetting.
    """
    now = now or datetime.now(timezone.utc)
    wanted = tuple(dict.fromkeys([*map(_checked, names), *(_known(folder) or of_this_machine()), *ALWAYS]))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = not (folder / "ca.pem").exists()
        if new:
            _make_authority(folder, wanted, now)
        authority, key = _authority(folder)
        _check_permitted(authority, wanted, folder)
        until = _make_server(folder, authority, key, wanted, now)
    except OSError as error:
        raise InvalidSetting(f"{folder}: {error.strerror}: choose a folder that can be written to") from None
    return Made(folder, wanted, until, new)


def of_this_machine() -> tuple[str, ...]:
    """Its host name, that name in multicast DNS, and its addresses."""
    host = socket.gethostname().lower()
    names = [host, f"{host}.local"] if _NAME.fullmatch(host) and "." not in host else [host]
    return (*(name for name in names if _NAME.fullmatch(name)), *addresses())


def addresses() -> tuple[str, ...]:
    """This machine's own, as others on its network see it: not loopback, not a container bridge's."""
    return tuple(
        entry.address
        for name, entries in sorted(psutil.net_if_addrs().items())
        if not _NO_BRIDGES.match(name)
        for entry in entries
        if entry.family == socket.AF_INET
    )


def covers(certificate: Path, host: str) -> bool:
    """Whether it is for this name or address. Raises InvalidSetting."""
    return host.lower().strip("[]") in _names_of(_read(certificate))


def _checked(name: str) -> str:
    plain = name.strip().strip("[]").lower()
    if _address(plain) is None and not _NAME.fullmatch(plain):
        raise InvalidSetting(
            f"{name!r} is neither a host name nor an address: write it like lab.local or 10.0.0.5"
        )
    return str(_address(plain) or plain)


def _address(name: str) -> Address | None:
    try:
        return ip_address(name)
    except ValueError:
        return None


def _general(name: str) -> x509.GeneralName:
    address = _address(name)
    return x509.DNSName(name) if address is None else x509.IPAddress(address)


# --- the authority


def _make_authority(folder: Path, names: Sequence[str], now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Roundtable lab"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"Roundtable lab authority {now:%Y-%m-%d}"),
        ]
    )
    hosts = [name for name in dict.fromkeys([*_PRIVATE_NAMES, *names]) if _address(name) is None]
    public = [
        ip_network(name)
        for name in names
        if (address := _address(name)) and not any(address in network for network in _PRIVATE)
    ]
    constraints = x509.NameConstraints(
        [*map(x509.DNSName, hosts), *map(x509.IPAddress, (*_PRIVATE, *public))], None
    )
    certificate = (
        _builder(subject, subject, key.public_key(), now, now + AUTHORITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(constraints, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write_key(folder / "ca.key", key)
    _write(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    path = folder / "ca.key"
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except FileNotFoundError:
        raise InvalidSetting(
            f"{path}: is not there, though ca.pem is: bring it back, or delete ca.pem to begin anew "
            "(and copy the new one to every node)"
        ) from None
    except (ValueError, TypeError):
        raise InvalidSetting(f"{path}: is no key that can be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidSetting(f"{path}: is not a key of the kind that is made here")
    certificate = _read(folder / "ca.pem")
    if certificate.public_key() != key.public_key():
        raise InvalidSetting(
            f"{path}: is not the key of {folder / 'ca.pem'}: bring back the one that belongs to it"
        )
    return certificate, key


def _check_permitted(authority: x509.Certificate, names: Sequence[str], folder: Path) -> None:
    try:
        constraints = authority.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return
    permitted = constraints.permitted_subtrees or []
    hosts = [str(entry.value) for entry in permitted if isinstance(entry, x509.DNSName)]
    networks = [entry.value for entry in permitted if isinstance(entry, x509.IPAddress)]
    for name in names:
        address = _address(name)
        if address is not None:
            fine = any(address in network for network in networks)  # type: ignore[operator]
        else:
            fine = any(name == host or name.endswith("." + host) for host in hosts)
        if not fine:
            raise InvalidSetting(
                f"{name}: the authority in {folder} may not sign for it: it was made for private names and "
                "addresses and those given then; delete ca.pem and ca.key to begin anew with this name "
                "(and copy the new ca.pem to every node)"
            )


# --- the server


def _make_server(
    folder: Path,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    names: Sequence[str],
    now: datetime,
) -> datetime:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    until = min(now + SERVER, authority.not_valid_after_utc)
    if until <= now:
        raise InvalidSetting(
            f"{folder / 'ca.pem'}: expired on {until:%Y-%m-%d}: delete ca.pem and ca.key to begin anew"
        )
    certificate = (
        _builder(subject, authority.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(list(map(_general, names))), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )
    _write_key(folder / "server.key", key)
    _write(folder / "server.pem", certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return until


def _known(folder: Path) -> tuple[str, ...]:
    """The names in the server's certificate that is there."""
    path = folder / "server.pem"
    return _names_of(_read(path)) if path.exists() else ()


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names)


# --- both


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(until)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _read(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise InvalidSetting(f"{path}: {error.strerror}: make certs makes it") from None
    except ValueError:
        raise InvalidSetting(f"{path}: is no certificate: delete it and run make certs") from None


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _write(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        0o600,
    )


def _write(path: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never readable for more than `mode` says."""
    draft = path.with_name(f".{path.name}.part")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    draft.replace(path)
