"""Several machines on one: network namespaces joined by a bridge in one more, with delay and loss where the
kernel can; for tests alone, as root on Linux.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field


def missing() -> str | None:
    """Why it cannot be done here."""
    if os.name != "posix" or os.geteuid() != 0:
        return "network namespaces want root"
    if not shutil.which("ip"):
        return "there is no `ip` (iproute2) here"
    probe = f"rt-probe-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if done.returncode:
        return f"this kernel, or this container, makes no network namespaces ({done.stderr.strip()})"
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return None


@dataclass
class Network:
    """`hosts` → their addresses, all in one /24."""

    hosts: dict[str, str]
    shaped: bool = False  # whether the kernel delays and loses packets as asked
    _made: list[str] = field(default_factory=list)

    def name(self, host: str) -> str:
        return f"rt{os.getpid()}-{host}"

    def make(self, delay_ms: int, loss_percent: float) -> None:
        self._namespace("switch")
        self._ip("switch", "link", "add", "br0", "type", "bridge")
        self._ip("switch", "link", "set", "br0", "up")
        for host, address in self.hosts.items():
            self._namespace(host)
            port = f"to-{host}"
            self._ip(
                "switch",
                "link",
                "add",
                port,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                self.name(host),
            )
            self._ip("switch", "link", "set", port, "master", "br0", "up")
            self._ip(host, "link", "set", "lo", "up")
            self._ip(host, "link", "set", "eth0", "up")
            self._ip(host, "address", "add", f"{address}/24", "dev", "eth0")
        shaping = ["netem", "delay", f"{delay_ms}ms", "loss", f"{loss_percent}%"]
        qdisc = ["tc", "qdisc", "add", "dev", "eth0", "root", *shaping]
        done = [
            subprocess.run([*self.command(host), *qdisc], capture_output=True).returncode
            for host in self.hosts
        ]
        self.shaped = not any(done)

    def command(self, host: str) -> list[str]:
        """In front of a command: there it runs."""
        return ["ip", "netns", "exec", self.name(host)]

    def plug(self, host: str, *, out: bool = False) -> None:
        self._ip("switch", "link", "set", f"to-{host}", "down" if out else "up")

    def readdress(self, host: str, address: str) -> None:
        self._ip(host, "address", "add", f"{address}/24", "dev", "eth0")
        self._ip(host, "address", "del", f"{self.hosts[host]}/24", "dev", "eth0")
        # The first address took the second with it, where it was the primary one.
        subprocess.run(
            ["ip", "-n", self.name(host), "address", "add", f"{address}/24", "dev", "eth0"],
            capture_output=True,
        )
        self.hosts[host] = address

    def remove(self) -> None:
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "del", name], check=True)

    def _namespace(self, host: str) -> None:
        subprocess.run(["ip", "netns", "add", self.name(host)], check=True)
        self._made.append(self.name(host))

    def _ip(self, host: str, *words: str) -> None:
        subprocess.run(["ip", "-n", self.name(host), *words], check=True, capture_output=True)
