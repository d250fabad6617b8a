"""How the service is set up: environment variables, overridden by command-line options; nothing secret in
either.

Each field's environment variable is its alias; tokens are in files (tokens.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from roundtable.errors import InvalidSetting
from roundtable.faults import faults
from roundtable.hosts import is_loopback
from roundtable.messages import POLL_SECONDS

Positive = Annotated[float, Field(gt=0)]


class ServiceSettings(BaseSettings):
    # Known by their aliases alone: by their names too, a HOST or PORT set for another program would count.
    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    host: str = Field("127.0.0.1", alias="AGGREGATOR_HOST")
    port: int = Field(8080, ge=0, le=65535, alias="AGGREGATOR_PORT")  # 0: any free one
    state_dir: Path = Field(Path("state"), alias="STATE_DIR")  # runs, database, tokens
    spool_dir: Path | None = Field(
        None, alias="SPOOL_DIR"
    )  # where updates land; by default inside each run's folder
    reports_dir: Path | None = Field(
        None, alias="REPORTS_DIR"
    )  # where `lab` leaves RUN/report.html, to be shown
    join_token_file: Path | None = Field(None, alias="JOIN_TOKEN_FILE")  # default STATE_DIR/tokens/join
    admin_token_file: Path | None = Field(None, alias="ADMIN_TOKEN_FILE")  # default STATE_DIR/tokens/admin
    workers_outlive_it: bool = Field(True, alias="WORKERS_OUTLIVE_AGGREGATOR")  # not a native lab's
    lost_after: Positive = Field(15.0, alias="LOST_AFTER")  # seconds of silence
    poll_seconds: Positive = Field(POLL_SECONDS, le=60, alias="POLL_SECONDS")
    upload_stall_seconds: Positive = Field(30.0, alias="UPLOAD_STALL_SECONDS")  # without a byte
    upload_seconds: Positive = Field(3600.0, alias="UPLOAD_SECONDS")  # for the whole body
    experiment: Path | None = Field(None, alias="EXPERIMENT")  # started by itself
    start_workers: int = Field(1, ge=1, alias="START_WORKERS")  # that it waits for
    published_on: str | None = Field(
        None, alias="PUBLISHED_ON"
    )  # behind a port that is published; else `host`
    read_token_file: Path | None = Field(
        None, alias="READ_TOKEN_FILE"
    )  # default: `read`, beside the admin token
    tls_cert_file: Path | None = Field(None, alias="TLS_CERT_FILE")  # with the key: HTTPS alone is spoken
    tls_key_file: Path | None = Field(None, alias="TLS_KEY_FILE")
    allow_plain_http: bool = Field(False, alias="ALLOW_PLAIN_HTTP")  # beyond this machine, without TLS
    telemetry_url: str | None = Field(None, pattern="^https?://.", alias="TELEMETRY_URL")  # none: no points
    max_model_bytes: int = Field(4 * 2**30, gt=0, alias="MAX_MODEL_BYTES")  # of an initialize reply
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", alias="LOG_LEVEL")

    @property
    def join_token(self) -> Path:
        return self.join_token_file or self.state_dir / "tokens" / "join"

    @property
    def admin_token(self) -> Path:
        return self.admin_token_file or self.state_dir / "tokens" / "admin"

    @property
    def read_token(self) -> Path:
        return self.read_token_file or self.admin_token.with_name("read")

    @property
    def loopback_only(self) -> bool:
        """Whether nobody beyond this machine (or its containers) reaches the service."""
        return is_loopback(self.published_on or self.host)

    @property
    def session_secret(self) -> Path:
        return self.state_dir / "tokens" / "session"

    @property
    def scheme(self) -> str:
        return "http" if self.tls_cert_file is None else "https"

    def check_reach(self) -> None:
        """Raises InvalidSetting where weights and tokens would cross a network that others listen to."""
        if self.scheme == "http" and not self.loopback_only and not self.allow_plain_http:
            name, where, setting = (
                ("PUBLISHED_ON", self.published_on, "BIND")  # by which name compose.yaml has it
                if self.published_on is not None
                else ("AGGREGATOR_HOST", self.host, "AGGREGATOR_HOST")
            )
            raise InvalidSetting(
                f"{name} {where}: plain HTTP beyond this machine shows tokens and weights to its network: "
                f"use TLS (docs/devices.md: make certs, compose.tls.yaml), leave {setting} at 127.0.0.1, "
                "or set ALLOW_PLAIN_HTTP=true"
            )


def load(**overrides: Any) -> ServiceSettings:
    """From the environment; options, by field name, that are None do not override. Raises InvalidSetting, one
    line.
    """
    known = ServiceSettings.model_fields
    given = {known[name].alias or name: value for name, value in overrides.items() if value is not None}
    try:
        return ServiceSettings(**given)
    except ValidationError as error:
        raise InvalidSetting("; ".join(faults(error))) from None
