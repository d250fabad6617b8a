"""How a worker is set up: environment variables, overridden by command-line options.

Each option has the variable's name in small letters: AGGREGATOR_URL is `--aggregator-url`. Whatever
cannot be used is one InvalidSetting, whose line names the variable.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from roundtable.errors import InvalidSetting
from roundtable.hosts import is_loopback
from roundtable.ownership import of_another
from roundtable.types import Seconds

from worker.machine import host
from worker.trust import client_context

_SHORTEST, _LONGEST = 16, 512  # characters of a token


class Settings(BaseSettings):
    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    aggregator_url: str = Field("http://127.0.0.1:8080", description="where the aggregator answers")
    aggregator_ca: Path | None = Field(
        None, description="the lab's ca.pem: over https no other certificate than its own is trusted"
    )
    allow_plain_http: bool = Field(
        False, description="speak plain HTTP to another machine: only on a network that nobody else is on"
    )
    join_token_file: Path = Field(description="file with the aggregator's join token")
    node_name: str = Field(
        default_factory=host,
        min_length=1,
        max_length=200,
        description="this machine's name in the lab (its host name)",
    )
    tasks_dir: Path = Field(Path("tasks"), description="folder with your own tasks")
    datasets_dir: Path = Field(Path("datasets"), description="folder with the data sets every worker has")
    data_dir: Path | None = Field(None, description="folder with data that never leaves this node (pinned)")
    leave_seconds: Seconds = Field(
        3.0, ge=0, le=60, description="on SIGTERM, how long a training under way may take to end and be sent"
    )
    telemetry_url: str | None = Field(
        None,
        pattern="^https?://.",
        description="where points go: Telegraf, InfluxDB, or AGGREGATOR_URL/v1/telemetry; none: no points",
    )
    answered_file: Path | None = Field(
        None, description="file touched at every poll that is answered, for health checks"
    )
    exit_on_eof: bool = Field(
        False, description="leave when standard input ends, as when who started this is gone"
    )


def load(arguments: Sequence[str]) -> Settings:
    """From options and environment. Raises InvalidSetting; SystemExit for --help and unknown options."""
    parser = argparse.ArgumentParser(
        prog="python -m worker",
        description="A worker of a Roundtable lab: joins an aggregator and trains the clients it is given.",
        epilog="Each option can be set in the environment as well, in capitals: AGGREGATOR_URL=http://10.0.0.5:8080",
    )
    for name, field in Settings.model_fields.items():
        option = f"--{name.replace('_', '-')}"
        if field.annotation is bool:
            parser.add_argument(option, action="store_true", default=None, help=field.description)
        else:
            parser.add_argument(option, metavar="…", help=field.description)
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise InvalidSetting("; ".join(_fault(fault) for fault in error.errors(include_url=False))) from None
    _check_url(settings.aggregator_url)
    check_reach(settings)
    if settings.data_dir is not None and not settings.data_dir.is_dir():
        raise InvalidSetting(
            f"DATA_DIR: {settings.data_dir} is no folder: mount this node's data there, or leave it unset"
        )
    read_token(settings.join_token_file)
    return settings


def read_token(path: Path) -> str:
    """The join token in this file. Raises InvalidSetting."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise InvalidSetting(
            f"JOIN_TOKEN_FILE: {path} is not there: start the aggregator, which makes it, or copy it"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
        owned = of_another(path, error) if isinstance(error, OSError) else ""
        raise InvalidSetting(f"JOIN_TOKEN_FILE: {path} cannot be read ({reason}){owned}") from None
    if not _SHORTEST <= len(token) <= _LONGEST or any(not 33 <= ord(letter) <= 126 for letter in token):
        raise InvalidSetting(
            f"JOIN_TOKEN_FILE: {path} holds no token ({_SHORTEST} to {_LONGEST} letters, digits, signs): "
            "copy the aggregator's join token there"
        )
    return token


def check_reach(settings: Settings) -> None:
    """Raises InvalidSetting where token and updates would cross a network that others listen to."""
    url = settings.aggregator_url
    parts = urlsplit(url)
    if parts.scheme == "https":
        client_context(settings.aggregator_ca)
    elif settings.aggregator_ca is not None:
        raise InvalidSetting(
            f"AGGREGATOR_URL: {url} is plain HTTP, though AGGREGATOR_CA is set: write it with https://"
        )
    elif not is_loopback(parts.hostname or "") and not settings.allow_plain_http:
        raise InvalidSetting(
            f"AGGREGATOR_URL: {url} is plain HTTP to another machine, which shows the token and the updates "
            "to its network: use https:// with AGGREGATOR_CA (docs/devices.md), or set ALLOW_PLAIN_HTTP=true"
        )


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = (
            parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        )
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:  # a port out of range, a broken IPv6 address
        usable = False
    if not usable:
        raise InvalidSetting(f"AGGREGATOR_URL: {url!r} is no address: write it like http://10.0.0.5:8080")


def _fault(fault: Any) -> str:
    name = str(fault["loc"][0]).upper() if fault["loc"] else "settings"
    if fault["type"] == "missing":
        return f"{name}: is not set: give --{name.lower().replace('_', '-')}, or set it in the environment"
    return f"{name}: {fault['msg']} (found {fault['input']!r})"
