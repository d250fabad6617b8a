"""A lab of real processes with workers of numpy, and a real browser that looks at it."""

from __future__ import annotations

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
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.federation.foreign_worker import MANIFEST, ForeignWorker, encode
from tests.federation.processes import Lab

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class PageWorker(ForeignWorker):
    """Outlives the aggregator, waits for `gate` before it trains, and says how long it trained."""

    gate: threading.Event

    def train(self, order: dict[str, Any]) -> httpx.Response:
        while not self.gate.wait(0.2) and not self.closing.is_set():
            pass
        groups, metadata = self.trained(order)
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

    def work(self, *names: str, gate: threading.Event | None = None) -> None:
        """Workers so named; they train while `gate` is open."""
        if gate is None:
            gate = threading.Event()
            gate.set()
        for name in names:
            worker = PageWorker(self.url, self._token("join").read_text().strip(), name)
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

    @property
    def admin(self) -> str:
        return self._token("admin").read_text().strip()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is here: install it (on Debian: apt install chromium)")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def look(browser: Browser) -> Iterator[Callable[..., Page]]:
    """`look(url, **context options)`: a page whose console and errors must stay empty, but for `excused`."""
    faults: list[str] = []
    contexts = []

    def opened(url: str, excused: tuple[str, ...] = (), **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()

        def heard(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning") and not any(word in message.text for word in excused):
                faults.append(f"{message.type}: {message.text}")

        page.on("console", heard)
        page.on("pageerror", lambda error: faults.append(f"thrown: {error}"))
        page.set_default_timeout(30_000)
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageLab]:
    """An aggregator whose state is used by all tests of a module, one after the other."""
    with running(tmp_path_factory.mktemp("lab")) as opened:
        yield opened


@contextmanager
def running(folder: Path) -> Iterator[PageLab]:
    opened = PageLab(folder)
    try:
        opened.start_aggregator()
        yield opened
    finally:
        opened.stop()
