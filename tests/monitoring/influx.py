"""A real InfluxDB of this machine on loopback, for as long as a test needs it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

INFLUXD = shutil.which("influxd")


@dataclass
class Influx:
    url: str

    def write(self, lines: str) -> None:
        reply = httpx.post(f"{self.url}/write", params={"db": "lab"}, content=lines.encode(), timeout=30)
        assert reply.status_code == 204, reply.text

    def query(self, sql: str) -> list[dict[str, Any]]:
        """The series of the answer; fails on the server's own error, told or in the answer."""
        reply = httpx.post(f"{self.url}/query", params={"db": "lab"}, data={"q": sql}, timeout=30)
        body = reply.json()
        assert reply.status_code == 200, body
        result = body["results"][0]
        assert "error" not in result, (sql, result)
        series: list[dict[str, Any]] = result.get("series", [])
        return series


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def running(folder: Path) -> Iterator[Influx]:
    """influxd in `folder`, with the database `lab` made by the statement that compose.yaml uses."""
    assert INFLUXD is not None
    port = free_port()
    config = folder / "influxdb.conf"
    config.write_text(
        f"""reporting-disabled = true
bind-address = "127.0.0.1:{free_port()}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  query-log-enabled = false
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  log-enabled = false
""",
        encoding="utf-8",
    )
    process = subprocess.Popen(
        [INFLUXD, "-config", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lines = iter(process.stderr)  # type: ignore[arg-type]
    heard = threading.Event()

    def listen() -> None:
        for line in lines:
            if "Listening for signals" in line:
                heard.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        assert heard.wait(60), "influxd did not come up"
        influx = Influx(f"http://127.0.0.1:{port}")
        yield influx
    finally:
        process.terminate()
        process.wait(20)
