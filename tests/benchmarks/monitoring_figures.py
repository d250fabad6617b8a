"""What blocks of rounds with and without monitoring say: a ratio with its 95 % interval, and a table. Pure.

Two neighbouring blocks make one ratio; the mean of their logarithms has Student's interval. The ratio of mean
seconds is the one to go by: a median does not see what falls on one round in ten. `monitoring_effect` says
why blocks are as they are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lab.study.intervals import interval

AT_MOST = 1.03  # of the round time without monitoring


@dataclass(frozen=True)
class Block:
    """Some rounds on end, all with monitoring or all without. `seconds`: of each that counts."""

    monitored: bool
    seconds: tuple[float, ...]
    wall_s: float  # over which CPU was counted
    cpu_s: dict[str, float] = field(default_factory=dict)  # by monitoring service; the engine's as "dockerd"
    rss_mb: dict[str, float] = field(default_factory=dict)  # anonymous memory, by monitoring service
    stolen: float = 0.0  # share of the cores' time that the hypervisor gave to others


@dataclass(frozen=True)
class Effect:
    """Seconds a round with and without, and their ratio with its 95 % interval."""

    monitored_s: float
    plain_s: float
    ratio: float
    low: float
    high: float

    @property
    def resolution(self) -> float:
        """How far the interval reaches to the farther side, as a share: what is smaller cannot be told."""
        return max(self.high / self.ratio, self.ratio / self.low) - 1


def effect(blocks: Sequence[Block], median: bool) -> Effect:
    """Of pairs of neighbouring blocks, one with and one without; of their medians or their means."""
    middle = statistics.median if median else statistics.fmean
    logs = []
    for first, second in zip(blocks[::2], blocks[1::2], strict=True):
        assert first.monitored != second.monitored
        monitored, plain = (first, second) if first.monitored else (second, first)
        logs.append(math.log(middle(monitored.seconds) / middle(plain.seconds)))
    found = interval(logs)
    assert found.mean is not None and found.low is not None and found.high is not None, (
        "one pair says nothing"
    )
    every = {
        kind: [second for block in blocks if block.monitored is kind for second in block.seconds]
        for kind in (True, False)
    }
    return Effect(
        middle(every[True]), middle(every[False]), *map(math.exp, (found.mean, found.low, found.high))
    )


def used(stats: dict[str, Any]) -> tuple[float, float]:
    """(CPU seconds so far, MB of anonymous memory) from the engine's figures of a container.

    Resident anonymous memory is `anon` in control groups' second version, `total_rss` in the first.
    """
    memory = stats["memory_stats"].get("stats", {})
    resident = memory.get("anon", memory.get("total_rss", 0))
    return stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9, resident / 1e6


def told(blocks: Sequence[Block]) -> str:
    """Markdown, as docs/benchmarks.md has it."""
    lines = [
        "| a round | with | without | ratio | 95 % | to reach | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, median in (("mean", False), ("median", True)):
        found = effect(blocks, median)
        if found.high <= AT_MOST:
            met = "met"
        else:
            met = "**missed**" if found.low > AT_MOST else "not shown"
        lines.append(
            f"| {name} | {found.monitored_s * 1000:.0f} ms | {found.plain_s * 1000:.0f} ms"
            f" | {found.ratio:.3f} | {found.low:.3f} to {found.high:.3f} | ≤ {AT_MOST} | {met} |"
        )
    with_it, without = ([block for block in blocks if block.monitored is kind] for kind in (True, False))
    wall = sum(block.wall_s for block in with_it)
    lines += ["", "| container | CPU, of one core | resident memory |", "| --- | --- | --- |"]
    for name in with_it[0].rss_mb:
        cpu = sum(block.cpu_s[name] for block in with_it) / wall
        lines.append(f"| {name} | {cpu:.2%} | {max(block.rss_mb[name] for block in with_it):.0f} MB |")
    if all("dockerd" in block.cpu_s for block in blocks):
        shares = [
            sum(block.cpu_s["dockerd"] for block in of) / sum(block.wall_s for block in of)
            for of in (with_it, without)
        ]
        lines.append(f"| the engine, health checks with it | {shares[0]:.2%} ({shares[1]:.2%} without) | |")
    stolen = [statistics.fmean(block.stolen for block in of) for of in (with_it, without)]
    lines += [
        "",
        f"The hypervisor took {stolen[0]:.1%} of the cores with monitoring, {stolen[1]:.1%} without.",
    ]
    return "\n".join(lines)
