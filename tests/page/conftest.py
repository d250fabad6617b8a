"""A lab of real processes with workers of numpy, and a real browser that looks at it."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, sync_playwright

from tests.federation.foreign_worker import MANIFEST, ForeignWorker, encode
from tests.federation.processes import Child, Lab

# Chromium breaks off what it loads when the machine gets or loses a network interface, as other tests do.
MOVED = "ERR_NETWORK_CHANGED"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Gate:
    """How far workers may train, so that no test depends on who is faster, they or the page."""

    def __init__(self) -> None:
        self._last = 0.0  # the last round that is trained
        self._moved = threading.Condition()

    def open(self, until: float = math.inf) -> None:
        """Up to and with round `until` all train."""
        with self._moved:
            self._last = until
            self._moved.notify_all()

    def close(self) -> None:
        self.open(until=0)

    def wait(self, round: int, seconds: float) -> bool:
        with self._moved:
            return self._moved.wait_for(lambda: round <= self._last, seconds)


class PageWorker(ForeignWorker):
    """Outlives the aggregator, waits for `gate` before it trains, and says how long it trained."""

    gate: Gate

    def plan(self, run: str) -> dict[str, Any]:
        """There are samples for ten clients: others have them, too."""
        found = super().plan(run)
        found["experiment"]["clients"]["count"] = min(found["experiment"]["clients"]["count"], 10)
        return found

    def train(self, order: dict[str, Any]) -> httpx.Response:
        while not self.gate.wait(order["round"], 0.2) and not self.closing.is_set():
            pass
        groups, metadata = self.trained(order | {"client": order["client"] % 10})
        account = '{"num_examples": 10, "num_steps": 1, "training_seconds": 0.02, "sending_seconds": 0.005}'
        self.sent[order["id"]] = ""
        return self.put(order["id"], encode(groups, MANIFEST, metadata | {"account": account}))

    def run(self) -> None:
        joined = False
        with ThreadPoolExecutor(1) as working:
            while not self.closing.is_set():
                try:
                    if not joined:
                        self.join()
                        joined = True
                    for order in self.poll():
                        working.submit(self._try, order)
                except httpx.TransportError:
                    self.closing.wait(0.05)  # between two tries
        self.http.close()

    def _try(self, order: dict[str, Any]) -> None:
        try:
            self.carry_out(order)
        except httpx.TransportError:
            self.holding.pop(order["id"], None)  # so that it is given again


@dataclass
class PageLab(Lab):
    threads: list[tuple[PageWorker, threading.Thread]] = field(default_factory=list)
    published_on: str = "127.0.0.1"

    def start_aggregator(self) -> Child:
        command = ["-m", "aggregator", "--port", str(self.port), "--state-dir", str(self.state)]
        settings = {"POLL_SECONDS": "1", "PUBLISHED_ON": self.published_on, "ALLOW_PLAIN_HTTP": "true"}
        settings["REPORTS_DIR"] = str(self.reports)
        self.aggregator = self._start("aggregator", command, settings)
        return self.aggregator

    @property
    def reports(self) -> Path:
        return self.state.with_name("reports")

    def work(self, *names: str, gate: Gate | None = None) -> None:
        """Workers so named; they train as far as `gate` is open."""
        if gate is None:
            gate = Gate()
            gate.open()
        for name in names:
            worker = PageWorker(self.url, self.token("join"), name)
            worker.gate = gate
            thread = threading.Thread(target=worker.run, name=name, daemon=True)
            thread.start()
            self.threads.append((worker, thread))

    def stop(self) -> None:
        for worker, _ in self.threads:
            worker.closing.set()
        super().stop()
        for _, thread in self.threads:
            thread.join(10)

    def token(self, kind: str) -> str:
        return self._token(kind).read_text().strip()


@pytest.fixture(scope="module")  # no longer: while it is open no other event loop runs in this thread
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is here: install it (on Debian: apt install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context()
    yield opened
    opened.close()


@pytest.fixture
def look(context: BrowserContext) -> Iterator[Callable[..., Page]]:
    """`look(url)`: a page in a tab of its own, whose console must stay free of errors but for `excused`."""
    faults: list[str] = []
    moved: list[str] = []
    pages = []

    def opened(url: str, excused: tuple[str, ...] = ()) -> Page:
        page = context.new_page()
        pages.append(page)

        def fault(kind: str, text: str) -> None:
            if not any(word in text for word in excused):
                faults.append(f"{kind}: {text}")

        def heard(message: ConsoleMessage) -> None:
            if MOVED in message.text:
                moved.append(message.text)
            elif message.type in ("error", "warning"):
                fault(message.type, message.text)

        page.on("console", heard)
        page.on("pageerror", lambda error: fault("thrown", str(error)))
        page.set_default_timeout(60_000)
        for _ in range(5):
            try:
                page.goto(url)
            except Error as error:
                if MOVED not in str(error):
                    raise
                continue
            if not moved:
                break
            moved.clear()
        return page

    yield opened
    for page in pages:
        page.close()
    assert not faults


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageLab]:
    """An aggregator whose state is used by all tests of a module, one after the other."""
    with running(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@contextmanager
def running(folder: Path, published_on: str = "127.0.0.1") -> Iterator[PageLab]:
    opened = PageLab(folder, published_on=published_on)
    try:
        opened.start_aggregator()
        opened.token("admin")  # it is there once somebody listens
        yield opened
    finally:
        opened.stop()
