"""50 workers and 200 rounds, for real: the last rounds are shown as quickly as the first."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.page.conftest import running
from tests.page.test_page_live import rounds_in_the_table, softmax

WORKERS, ROUNDS = 50, 200
LONG = 1_500_000  # ms


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_50_workers_and_200_rounds_do_not_slow_the_page_down(
    tmp_path: Path, look: Callable[..., Page]
) -> None:
    with running(tmp_path) as lab:
        lab.work(*(f"node-{number}" for number in range(WORKERS)))
        lab.wait_for_workers(*(f"node-{number}" for number in range(WORKERS)))
        page = look(lab.url)
        page.evaluate(
            """() => { window.draws = []; new PerformanceObserver((list) => {
                 for (const { name, duration, detail } of list.getEntries())
                   if (name === "draw") window.draws.push([detail, duration]);
               }).observe({ entryTypes: ["measure"] }); }"""
        )
        lab.submit(softmax("large", ROUNDS, clients=WORKERS))
        told = page.locator(
            "#run-now"
        )  # asking the aggregator for the whole run over and over is what takes long
        expect(told).to_contain_text(re.compile(r"round (4\d|5\d) of"), timeout=LONG)
        early = weighed(page)
        expect(told).to_contain_text(f"all {ROUNDS} rounds are done", timeout=LONG)
        late = weighed(page)
        draws = page.evaluate("window.draws")
        first, last = (
            statistics.median(took for at, took in draws if at and low <= at <= low + 40) for low in (5, 155)
        )
        print(f"\ndraw {first:.1f} ms → {last:.1f} ms; elements and heap {early} → {late}")
        assert last <= 2 * first + 4  # ms
        report = 10 * WORKERS + 200  # has come with the end: a row of ten for each worker
        assert late["elements"] <= 1.3 * early["elements"] + report
        assert late["heap"] <= early["heap"] + 40e6
        assert rounds_in_the_table(page) == list(range(1, ROUNDS + 1))
        page.close()


def weighed(page: Page) -> dict[str, Any]:
    """Elements, and bytes of JavaScript objects that are in use."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("HeapProfiler.collectGarbage")
    used = devtools.send("Runtime.getHeapUsage")["usedSize"]
    devtools.detach()
    return {"heap": used, "elements": page.evaluate("document.querySelectorAll('*').length")}
