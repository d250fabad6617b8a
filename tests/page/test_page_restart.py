"""An aggregator that is killed and comes back: the page finds it again and has missed nothing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.page.conftest import Gate, running
from tests.page.test_page_live import LATE, rounds_in_the_table, shows, softmax


def past_round(page: Page, number: int) -> None:
    later = "|".join(str(later) for later in range(number + 1, 20))
    expect(page.locator("#run-now")).to_have_text(re.compile(rf"round ({later}) of"), timeout=LATE)


def test_no_round_is_missed_over_a_restart_of_the_aggregator(
    tmp_path: Path, look: Callable[..., Page]
) -> None:
    gate = Gate()
    with running(tmp_path) as lab:
        run = lab.submit(softmax("restarted", 12))
        # What a browser says of a refused connection is what this test is about.
        page = look(lab.url, excused=("ERR_CONNECTION", "ERR_INCOMPLETE", "ERR_EMPTY_RESPONSE", "net::"))
        lab.work("node-a", "node-b", gate=gate)
        gate.open(until=4)
        past_round(page, 3)
        lab.kill_aggregator()
        expect(page.locator("#link")).to_have_attribute("data-link", "lost", timeout=LATE)
        lab.start_aggregator()
        expect(page.locator("#link")).to_have_attribute("data-link", "live", timeout=LATE)
        gate.open()
        detail = lab.wait_for_end(run)
        shows(page, "all 12 rounds are done")
        assert rounds_in_the_table(page) == [record.round for record in detail.history if record.round]


def test_rounds_that_passed_while_the_page_was_cut_off_are_there_when_it_is_back(
    tmp_path: Path, look: Callable[..., Page]
) -> None:
    gate = Gate()
    with running(tmp_path) as lab:
        run = lab.submit(softmax("cut-off", 10))
        page = look(lab.url, excused=("ERR_INTERNET_DISCONNECTED", "net::"))
        lab.work("node-a", gate=gate)
        gate.open(until=3)
        past_round(page, 2)
        page.context.set_offline(True)
        gate.open()
        lab.wait_for_end(run)
        page.context.set_offline(False)
        shows(page, "all 10 rounds are done")
        assert rounds_in_the_table(page) == list(range(1, 11))
