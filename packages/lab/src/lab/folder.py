"""The folder that makes a device a node of this lab: compose file, token, authority, settings, what to do.

    nodes/NAME/compose.yaml     compose.node.yaml as it is here
               .env             its settings: address, name, board, data
               join-token       mode 0600
               ca.pem           where the lab speaks TLS
               monitoring/ …    what Telegraf reads on such a board
               README.md        the way from here to a node that trains

It is written from the lab's own folder, where compose.node.yaml and monitoring/ are, and holds the join
token: it goes to the device and to nobody else.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from roundtable.errors import InvalidSetting, NotPossible
from roundtable.hosts import is_loopback

from lab import certificates
from lab.api import checked_url, read_token
from lab.called import FROM_THE_ROOT

COMPOSE: Final = Path("compose.node.yaml")
TELEGRAF: Final = Path("monitoring/telegraf")
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_ASK_ENGINE: Final = ("docker", "compose", "exec", "-T", "aggregator", "cat", "/tokens/join/token")


class Board(str, Enum):
    """As docs/devices.md names them; each but `none` has a file in monitoring/telegraf/boards."""

    none = "none"
    pi = "pi"
    jetson_orin = "jetson-orin"
    jetson_nano = "jetson-nano"


# The target of docker-bake.hcl that makes a board's worker image.
TARGETS: Final = {
    Board.none: "pi",
    Board.pi: "pi",
    Board.jetson_orin: "jetson-orin",
    Board.jetson_nano: "jetson-nano",
}


@dataclass(frozen=True)
class Wanted:
    name: str
    board: Board = Board.none
    url: str | None = None
    data: str | None = None  # a folder on the device
    join_token_file: Path | None = None
    certs_dir: Path = Path("certs")
    allow_plain_http: bool = False


@dataclass(frozen=True)
class Written:
    path: Path
    url: str


def write(wanted: Wanted, nodes_dir: Path) -> Written:
    """Whole or not at all. Raises InvalidSetting, and NotPossible where the name is taken."""
    if not _NAME.fullmatch(wanted.name):
        raise InvalidSetting(
            f"{wanted.name!r} is no name for a node: small letters, digits and hyphens (63 at most), "
            "like pi-1"
        )
    target = nodes_dir / wanted.name
    if target.exists():
        raise NotPossible(
            f"node name {wanted.name} is taken: {target}/ is there: choose another name, "
            "or remove that folder"
        )
    for path in (COMPOSE, TELEGRAF / "node.conf"):
        if not path.is_file():
            raise InvalidSetting(f"{path}: is not here: run this in the lab's own folder")
    if wanted.data is not None and not wanted.data.startswith("/"):
        raise InvalidSetting(
            f"--data {wanted.data}: write the whole path on the device, like /home/pi/samples"
        )
    url = _address(wanted)
    token = read_token(wanted.join_token_file) if wanted.join_token_file else _token_of_the_lab_here()
    draft = nodes_dir / f".{wanted.name}.part"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / TELEGRAF / "boards").mkdir(parents=True)
        draft.chmod(0o700)
        shutil.copyfile(COMPOSE, draft / "compose.yaml")
        shutil.copyfile(TELEGRAF / "node.conf", draft / TELEGRAF / "node.conf")
        board = Path("boards") / f"{wanted.board.value}.conf"
        shutil.copyfile(TELEGRAF / board, draft / TELEGRAF / board)
        (draft / "tasks").mkdir()
        for task in sorted(Path("tasks").glob("*.py")):  # code never travels by itself
            shutil.copyfile(task, draft / task)
        if url.startswith("https:"):
            shutil.copyfile(wanted.certs_dir / "ca.pem", draft / "ca.pem")
        with os.fdopen(os.open(draft / "join-token", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(token + "\n")
        (draft / ".env").write_text(_settings(wanted, url), encoding="utf-8")
        (draft / "README.md").write_text(_readme(wanted, url), encoding="utf-8")
        draft.rename(target)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise InvalidSetting(f"{error.filename or target}: {error.strerror}") from None
    return Written(target, url)


def _address(wanted: Wanted) -> str:
    certificate, authority = wanted.certs_dir / "server.pem", wanted.certs_dir / "ca.pem"
    url = wanted.url
    if url is None:
        found = certificates.addresses()
        if not found:
            raise InvalidSetting("--url: this machine has no address on a network: give the one to use")
        port = os.environ.get("PORT", "8080")
        url = f"{'http' if wanted.allow_plain_http else 'https'}://{found[0]}:{port}"
    url = checked_url(url)
    host = urlsplit(url).hostname or ""
    if _own(host):
        raise InvalidSetting(
            f"--url {url}: to a device {host} is the device itself: give this machine's address on the "
            "network (with LAB_URL set, too)"
        )
    if url.startswith("https:"):
        if not authority.is_file() or not certificate.is_file():
            raise InvalidSetting(f"{authority}: is not there: run `make certs` first, or give --certs-dir")
        if not certificates.covers(certificate, host):
            raise InvalidSetting(
                f"--url {url}: the certificate in {wanted.certs_dir} is not for {host}: "
                f"run `make certs NAMES={host}`, and start the aggregator again"
            )
    elif not wanted.allow_plain_http:
        raise InvalidSetting(
            f"--url {url}: plain HTTP shows token and updates to its network: "
            "use https (make certs), or add --allow-plain-http"
        )
    return url


def _own(host: str) -> bool:
    """Whether whoever asks there asks itself."""
    return is_loopback(host) or host in ("0.0.0.0", "::")


def _token_of_the_lab_here() -> str:
    remedy = "start the lab (make up), or give --join-token-file"
    try:
        done = subprocess.run(_ASK_ENGINE, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        raise InvalidSetting(f"--join-token-file: no Docker engine answers here: {remedy}") from None
    if done.returncode or not done.stdout.strip():
        raise InvalidSetting(f"--join-token-file: the lab in containers is not up here: {remedy}")
    return done.stdout.strip()


def _settings(wanted: Wanted, url: str) -> str:
    lines = [
        f"# Node {wanted.name}; the settings are explained in compose.yaml.",
        f"AGGREGATOR_URL={url}",
        "JOIN_TOKEN_FILE=./join-token",
        f"NODE_NAME={wanted.name}",
        f"BOARD={wanted.board.value}",
        *(["AGGREGATOR_CA=./ca.pem"] if url.startswith("https:") else ["ALLOW_PLAIN_HTTP=true"]),
        *([f"DATA_DIR={wanted.data}"] if wanted.data else []),
        *(["NODE_RUNTIME=nvidia"] if wanted.board is Board.jetson_orin else []),
        "# Who owns these files on the device (id -u, id -g), when that is not its first user:",
        "#NODE_USER=1000:1000",
    ]
    return "\n".join(lines) + "\n"


def _readme(wanted: Wanted, url: str) -> str:
    probe = f"curl {'--cacert ca.pem ' if url.startswith('https:') else ''}{url}/healthz"
    ca = f" --ca {shlex.quote(str(wanted.certs_dir / 'ca.pem'))}" if url.startswith("https:") else ""
    own = (
        f"""
Its own samples: `{wanted.data}/data.npz` on the device, with `x` and `y` as the task has them. They are
counted and trained on there, and never sent.
"""
        if wanted.data
        else ""
    )
    return f"""# {wanted.name}: a node of the lab at {url}

This folder holds the lab's join token: copy it to the device and to nowhere else.

1. Where the lab's source is, the worker's image: `make image-arm64 TARGET={TARGETS[wanted.board]}`
   writes `worker-arm64.tar`; copy it to the device. (Or, with the source on the device: `docker buildx bake
   {TARGETS[wanted.board]}` there, and go on with 3.)
2. On the device, with Docker and its compose plugin: `docker load -i worker-arm64.tar`
   You see: `Loaded image: roundtable-worker:node`
3. In this folder on the device: `{probe}`
   You see an answer, and no complaint about a certificate. Otherwise: is the clock right (`date`), and the
   address?
4. `docker compose up -d`, then `docker compose logs -f worker`
   You see: `"event": "joined"`. On the lab's machine Grafana's Machines shows {wanted.name}, and so does
   `docker compose exec -T aggregator cat /tokens/admin/read > read-token`, then
   `{FROM_THE_ROOT} status --url {url}{ca} --admin-token-file read-token`
{own}
To stop: `docker compose down`. Otherwise it comes back with the device, and goes on after the network was
away. A task of your own belongs into `tasks/`, the same file on every node.
"""
