"""The arithmetic of bench-monitoring, on blocks whose effect is known; nothing is timed."""

from __future__ import annotations

import random
import re

import pytest

from tests.benchmarks.monitoring_figures import Block, effect, told, used


def blocks(by: float, drift: float = 0.0, noise: float = 0.0) -> list[Block]:
    """Eight pairs, with before without and then the other way round; each block slower by `drift`."""
    chance, made = random.Random(1), []
    for number in range(16):
        monitored = number % 4 in (0, 3)
        pace = (1 + drift * number) * (by if monitored else 1.0) * (1 + chance.gauss(0, noise))
        cpu = {"telegraf": 0.2, "dockerd": 0.5} if monitored else {"dockerd": 0.1}
        rss = {"telegraf": 20.0 + number} if monitored else {}
        made.append(
            Block(
                monitored,
                tuple(pace * (0.5 + 0.01 * (one % 3)) for one in range(30)),
                20.0,
                cpu,
                rss,
                stolen=0.02 if monitored else 0.01,
            )
        )
    return made


@pytest.mark.parametrize("median", [True, False])
def test_an_effect_is_found_on_a_machine_that_gets_slower_all_the_while(median: bool) -> None:
    found = effect(blocks(1.05, drift=0.01), median)
    assert found.ratio == pytest.approx(1.05, abs=0.002)
    assert found.low < 1.05 < found.high


def test_what_falls_on_one_round_in_ten_is_in_the_means_ratio_alone() -> None:
    burdened = [
        Block(
            one.monitored,
            tuple(s * (2 if one.monitored and n % 10 == 0 else 1) for n, s in enumerate(one.seconds)),
            1,
        )
        for one in blocks(1.0)
    ]
    assert effect(burdened, median=False).ratio == pytest.approx(1.1, abs=0.01)
    assert effect(burdened, median=True).ratio == pytest.approx(1.0, abs=0.02)


def test_noise_of_two_per_cent_a_block_still_resolves_three_per_cent_and_of_ten_does_not() -> None:
    assert effect(blocks(1.0, noise=0.02), median=False).resolution < 0.03
    assert effect(blocks(1.0, noise=0.1), median=False).resolution > 0.03


@pytest.mark.parametrize(
    ("by", "noise", "verdict"), [(1.01, 0.002, "met"), (1.1, 0.002, "**missed**"), (1.03, 0.05, "not shown")]
)
def test_the_table_says_met_only_where_the_whole_interval_is_below(
    by: float, noise: float, verdict: str
) -> None:
    text = told(blocks(by, noise=noise))
    assert re.search(rf"\| mean \|.*\| {re.escape(verdict)} \|", text)
    assert "| telegraf | 1.00% | 35 MB |" in text
    assert "| the engine, health checks with it | 2.50% (0.50% without) | |" in text
    assert "The hypervisor took 2.0% of the cores with monitoring, 1.0% without." in text


@pytest.mark.parametrize(
    "memory", [{"anon": 61e6, "file": 1e9}, {"total_rss": 61e6, "rss": 1e6, "total_cache": 1e9}]
)
def test_memory_is_what_is_resident_without_files_in_both_versions_of_control_groups(
    memory: dict[str, float],
) -> None:
    told = {
        "cpu_stats": {"cpu_usage": {"total_usage": 2_500_000_000}},
        "memory_stats": {"usage": 2e9, "stats": memory},
    }
    assert used(told) == (2.5, 61.0)
