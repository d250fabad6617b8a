"""Beyond loopback: who looks gives the read token once, and the browser keeps a cookie in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page, expect

from tests.page.conftest import running
from tests.page.test_page_live import LATE


def test_a_browser_gives_the_read_token_and_is_let_in_until_it_signs_out(
    tmp_path: Path, look: Callable[..., Page]
) -> None:
    with running(tmp_path, published_on="0.0.0.0") as lab:
        lab.wait(lambda: lab.api.runs() == [] or None, "the aggregator")
        page = look(lab.url, excused=("401", "TrustedScript"))
        expect(page.get_by_label("Read token of this lab")).to_be_focused()
        page.keyboard.type("not-the-read-token")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text(
            "This is not the read token of this lab, nor its admin token.", timeout=LATE
        )
        assert page.context.cookies() == []
        page.get_by_label("Read token of this lab").fill(lab.token("read"))
        page.keyboard.press("Enter")
        expect(page.locator("#link")).to_have_attribute("data-link", "live", timeout=LATE)
        (cookie,) = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert lab.token("read") not in cookie["value"]
        assert page.evaluate("document.cookie") == ""
        assert page.url == f"{lab.url}/"

        with pytest.raises(Error, match="TrustedScript"):  # whatever gets into the page, it runs nothing
            page.evaluate("document.createElement('script').textContent = '1'")

        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Read token of this lab")).to_be_visible()
        assert page.context.cookies() == []
