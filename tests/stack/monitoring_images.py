"""The images of the monitoring services: those that are here, those that can be pulled, and stand-ins.

A stand-in is made of a program on this machine, which TELEGRAF and SOCKET_PROXY name. It is checked as often
as the image is; the proxy by the program `healthcheck` beside it, and not at all where there is none.
Grafana has none: without its image it is left out, which is said.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roundtable.errors import InvalidInput
from ruamel.yaml import YAML

from tests.stack.compose_stack import ROOT, docker

_TELEGRAF = """FROM python:3.11-slim-bookworm
RUN useradd --system telegraf
COPY telegraf /usr/bin/
"""
_PROXY = """FROM scratch
COPY . /
ENTRYPOINT ["/socket-proxy"]
"""
_PING = "exec 3<>/dev/tcp/127.0.0.1/8186; printf 'GET /ping HTTP/1.0\\r\\n\\r\\n' >&3; read -r line <&3"
_CHECKED = f"{_PING}; [[ $$line = *' 204 '* ]]"  # by bash: the base image has no curl
_MADE_OF = {"telegraf": ("TELEGRAF", _TELEGRAF), "socket-proxy": ("SOCKET_PROXY", _PROXY)}
_SERVICES = ("influxdb", "socket-proxy", "telegraf", "grafana")


@dataclass(frozen=True)
class Images:
    """`services` have an image; `overrides` is what a compose file after the lab's own must say of them."""

    services: tuple[str, ...]
    overrides: dict[str, Any]


@contextlib.contextmanager
def found() -> Iterator[Images]:
    """Stand-ins are removed at the end. `InvalidInput`: an image is not to be had, with what would help."""
    defined = YAML(typ="safe").load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    overrides: dict[str, Any] = {}
    services, made = [], []
    try:
        for name in _SERVICES:
            if name in _MADE_OF and (program := os.environ.get(_MADE_OF[name][0])):
                image = f"roundtable-bench-{name}:{os.getpid()}"
                made.append(image)
                _make(name, Path(program), image)
                overrides[name] = {"image": image}
                if name == "telegraf":
                    overrides[name]["healthcheck"] = {"test": ["CMD", "bash", "-c", _CHECKED]}
                elif not Path(program).with_name("healthcheck").is_file():
                    overrides[name]["healthcheck"] = {"disable": True}
            elif not _to_be_had(defined[name]["image"]):
                if name != "grafana":
                    wanted = f"{defined[name]['image']} is not here and cannot be pulled"
                    remedy = f": set {_MADE_OF[name][0]} to such a program" if name in _MADE_OF else ""
                    raise InvalidInput(f"{wanted}{remedy}")
                print(
                    f"note: {defined[name]['image']} is not to be had: Grafana is not in these figures",
                    flush=True,
                )
                continue
            services.append(name)
        yield Images(tuple(services), overrides)
    finally:
        for image in made:
            subprocess.run(["docker", "image", "rm", image], capture_output=True, timeout=60)


def _to_be_had(image: str) -> bool:
    for words in (["image", "inspect", image], ["pull", "--quiet", image]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            if subprocess.run(["docker", *words], capture_output=True, timeout=900).returncode == 0:
                return True
    return False


def _make(name: str, program: Path, image: str) -> None:
    if not program.is_file():
        raise InvalidInput(f"{_MADE_OF[name][0]}={program}: there is no such program")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        shutil.copy(program, Path(folder) / name)
        if (check := program.with_name("healthcheck")).is_file():
            shutil.copy(check, folder)
        (Path(folder) / "Dockerfile").write_text(_MADE_OF[name][1], encoding="utf-8")
        docker("build", "--quiet", "--tag", image, folder, timeout=300)
