"""The page in a real browser, looking at a real aggregator: what it shows as it happens, and who may act."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Error, Page, expect
from roundtable.experiment import Experiment, parse

from tests.page.conftest import Gate, PageLab, running

LATE = 60_000  # ms that anything may take on a busy machine


def softmax(name: str, rounds: int, clients: int = 4) -> Experiment:
    return parse(
        {
            "name": name,
            "task": "softmax",
            "description": f"<b>{name}</b> & others",
            "clients": {"count": clients},
            "training": {"batch_size": "full", "learning_rate": 0.05},
            "rounds": {"count": rounds},
            "evaluation": {"shards": 1},
        }
    )


@pytest.fixture
def gate(lab: PageLab) -> Iterator[Gate]:
    """Open: workers a and b of the lab train. What a test leaves unfinished is stopped."""
    if not lab.threads:
        lab.work("node-a", "node-b", gate=Gate())
    opened = lab.threads[0][0].gate
    opened.open()
    yield opened
    opened.open()
    lab.stop_runs()


def shows(page: Page, text: str, within: str = "#run-now") -> None:
    expect(page.locator(within)).to_contain_text(text, timeout=LATE)


def rounds_in_the_table(page: Page) -> list[int]:
    page.locator("#d-rounds").evaluate("details => { details.open = true }")
    expect(page.locator("#t-rounds tr").first).to_be_visible(timeout=LATE)
    return sorted(int(text) for text in page.locator("#t-rounds th").all_inner_texts())


def give_the_token(page: Page, token: str) -> None:
    page.keyboard.type(token)
    page.keyboard.press("Enter")


@pytest.mark.usefixtures("gate")
def test_a_run_is_shown_as_it_happens(lab: PageLab, look: Callable[..., Page]) -> None:
    lab.run(softmax("before", 2))
    page = look(lab.url)
    shows(page, "finished")
    run = lab.submit(softmax("curve", 8))
    expect(page.locator("#run-name")).to_have_text("curve", timeout=LATE)
    shows(page, "all 8 rounds are done")
    detail = lab.api.run(run)
    expect(page.locator("#waiting")).to_have_count(0)
    accuracy = detail.history[-1].accuracy
    assert accuracy is not None
    expect(page.locator("#f-accuracy")).to_have_text(f"{100 * accuracy:.2f} %")
    assert rounds_in_the_table(page) == list(range(1, 9))
    expect(page.locator("#c-accuracy canvas")).to_have_count(1)
    label = page.locator("#c-loss").get_attribute("aria-label") or ""
    assert "over 8 rounds" in label
    assert "Rounds 1 to 8 of 2 workers" in (page.locator("#timeline").get_attribute("aria-label") or "")
    expect(page.locator("#t-workers tr")).to_have_count(2)
    expect(page.locator("#t-past tr").first).to_contain_text("curve")
    expect(page.locator("#report")).to_contain_text("<b>curve</b> & others")  # as text
    expect(page.locator("#report")).to_contain_text(f"lab report {run}")
    with page.expect_download() as download:
        page.get_by_role("button", name="Rounds (CSV)").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("round,attempt,accuracy") and len(lines) == 9
    with page.expect_download() as download:
        page.get_by_role("link", name="Model (safetensors)").click()
    assert download.value.suggested_filename == f"{run}.safetensors"


def test_the_round_under_way_and_the_queue_are_shown_and_the_queue_can_be_changed(
    lab: PageLab, look: Callable[..., Page], gate: Gate
) -> None:
    gate.close()
    lab.submit(softmax("first", 2))
    second = lab.submit(softmax("second", 3))
    page = look(lab.url)
    shows(page, "round 1 of 2: 0 of 4 clients in")
    expect(page.locator("#t-workers")).to_contain_text("training 2 clients")
    expect(page.locator("#table .seat")).to_have_count(4)
    expect(page.locator("#queue li")).to_have_count(1, timeout=LATE)
    expect(page.locator("#queue")).to_contain_text("second")
    page.get_by_role("button", name=f"Take {second} out of the queue").click()
    give_the_token(page, lab.token("admin"))
    expect(page.locator("#queue li")).to_have_count(0, timeout=LATE)
    assert lab.api.run(second).state == "stopped"
    gate.open()
    shows(page, "all 2 rounds are done")


def test_a_run_is_stopped_and_gone_on_with_by_keyboard_and_with_the_right_token_alone(
    lab: PageLab, look: Callable[..., Page], gate: Gate
) -> None:
    gate.close()
    run = lab.submit(softmax("keys", 3))
    page = look(lab.url, excused=("401",))
    shows(page, "0 of 4 clients in")

    def tab_to(selector: str) -> None:
        for _ in range(60):
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab never comes to {selector}")

    tab_to("#stop")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"  # focus is seen
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Stop keys?")
    give_the_token(page, "not-the-token-at-all")
    expect(page.locator("#ask-fault")).to_have_text(
        "this is not the aggregator's admin token: read it from the admin token file again", timeout=LATE
    )
    assert page.evaluate("Object.keys({...sessionStorage, ...localStorage})") == []
    assert page.evaluate("document.cookie") == ""
    assert lab.api.run(run).state == "running"
    give_the_token(page, lab.token("admin"))
    shows(page, "stopped after 0 rounds")
    tab_to("#resume")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # the token is known by now
    gate.open()
    lab.wait_for_end(run)
    shows(page, "all 3 rounds are done")
    tab_to("#again")
    page.keyboard.press("Enter")
    tab_to("#ask-do")
    page.keyboard.press("Enter")
    expect(page.locator("#run-id")).not_to_have_text(run, timeout=LATE)
    shows(page, "all 3 rounds are done")
    assert [view.name for view in lab.api.runs()][-2:] == ["keys", "keys"]
    assert not page.evaluate("location.href").count(lab.token("admin"))


REPORT = """<!doctype html><title>made elsewhere</title><style>h1 { color: rgb(0, 114, 178); }</style>
<h1>as lab has made it</h1><script>document.title = "a script ran"</script>
<img src="https://elsewhere.example/a.png">
<svg><rect style="fill: rgb(213, 94, 0)" width="9" height="9"/></svg>"""


@pytest.mark.usefixtures("gate")
def test_the_report_that_lab_has_made_of_a_past_run_is_shown_and_runs_nothing(
    lab: PageLab, look: Callable[..., Page]
) -> None:
    run = lab.run(softmax("reported", 1)).id
    lab.run(softmax("later", 1))
    refused = ("elsewhere.example", "Content Security Policy", "sandboxed")
    page = look(lab.url, excused=refused)
    page.locator("#t-past").get_by_role("link", name="reported").click()
    expect(page.locator("#report")).to_contain_text(f"lab report {run}", timeout=LATE)
    (lab.reports / run).mkdir(parents=True)
    (lab.reports / run / "report.html").write_text(REPORT)
    page.locator("#t-past").get_by_role("link", name="later").click()
    expect(page.locator("#run-name")).to_have_text("later", timeout=LATE)
    page.locator("#t-past").get_by_role("link", name="reported").click()
    link = page.get_by_role("link", name="The report, with its charts")
    expect(link).to_be_visible(timeout=LATE)
    link.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading")).to_have_text("as lab has made it", timeout=LATE)
    assert page.url == f"{lab.url}/v1/runs/{run}/report" and page.title() == "made elsewhere"
    assert page.locator("h1").evaluate("e => getComputedStyle(e).color") == "rgb(0, 114, 178)"
    assert page.locator("rect").evaluate("e => getComputedStyle(e).fill") == "rgb(213, 94, 0)"
    assert page.evaluate("self.origin") == "null"


def test_a_node_that_brings_its_own_data_is_marked(lab: PageLab, look: Callable[..., Page]) -> None:
    own = {"examples": 7, "labels": {"0": 7}}
    said = {"protocol": 1, "instance": "feedbeef" * 2, "host": "pi-7", "node": "pi-7", "arch": "aarch64"}
    httpx.post(
        f"{lab.url}/v1/join",
        json=said | {"cpus": 4, "memory_bytes": 1 << 32, "pinned": own},
        headers={"Authorization": f"Bearer {lab.token('join')}"},
    ).raise_for_status()
    page = look(lab.url)
    row = page.locator("#t-workers tr", has_text="pi-7")
    expect(row.get_by_title("its data is on this node only")).to_have_text("pinned", timeout=LATE)
    others = page.locator("#t-workers tr", has_not_text="pi-7")
    assert "pinned" not in " ".join(others.all_inner_texts())


def test_a_round_under_way_began_when_the_last_was_committed_or_its_run_went_on(
    lab: PageLab, look: Callable[..., Page]
) -> None:
    opened, went_on = look(lab.url).evaluate(UNDER_WAY)
    assert opened == pytest.approx(60, abs=0.1)  # however long before the page was opened
    assert went_on == pytest.approx(5, abs=0.1)


@pytest.mark.slow
def test_a_page_of_which_a_part_did_not_arrive_says_so(lab: PageLab, look: Callable[..., Page]) -> None:
    page = look("about:blank", excused=("ERR_FAILED", "uPlot is not defined"))
    for missing in ("run.js", "vendor/uPlot.iife.min.js"):
        page.route(f"**/page/{missing}", lambda route: route.abort())
        page.goto(lab.url)
        expect(page.locator("#waiting")).to_be_visible(timeout=LATE)
        expect(page.locator("#waiting")).to_contain_text("a part of it did not arrive: load it again")
        page.unroute_all()


def test_the_http_interface_is_listed_with_nothing_from_elsewhere(
    lab: PageLab, look: Callable[..., Page]
) -> None:
    page = look(lab.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("link", name="The HTTP interface").click()
    paths = httpx.get(f"{lab.url}/openapi.json").json()["paths"]
    count = sum(len(operations) for operations in paths.values())
    expect(page.locator("tbody tr")).to_have_count(count, timeout=LATE)
    expect(page.locator("tr", has_text="/v1/runs/{run}/stop")).to_contain_text("admin token")
    expect(page.locator("#waiting")).to_have_count(0)
    assert asked and all(url.startswith(f"{lab.url}/") for url in asked)
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.usefixtures("gate")
def test_an_experiment_file_is_started_or_refused_with_its_faults(
    lab: PageLab, look: Callable[..., Page]
) -> None:
    page = look(lab.url, excused=("422",))
    page.get_by_role("button", name="Start a run").click()
    page.locator("#source").select_option("")
    page.locator("#text").fill('name = "written"\ntask = "softmax"\n[rounds]\ncount = 0\n')
    page.locator("#admin").fill(lab.token("admin"))
    page.locator("#ask-do").click()
    expect(page.locator("#ask-fault")).to_contain_text("rounds.count: found 0", timeout=LATE)
    page.locator("#text").fill(
        'name = "written"\ntask = "softmax"\n[clients]\ncount = 2\n[rounds]\ncount = 1\n'
        "[evaluation]\nshards = 1\n"
    )
    page.locator("#ask-do").click()
    expect(page.get_by_role("dialog")).to_have_count(0, timeout=LATE)
    expect(page.locator("#run-name")).to_have_text("written", timeout=LATE)
    shows(page, "all 1 rounds are done")


@pytest.mark.usefixtures("gate")
def test_it_is_readable_on_every_screen_in_light_and_dark_and_by_ear(
    lab: PageLab, look: Callable[..., Page]
) -> None:
    lab.run(softmax("a-name-that-is-as-long-as-names-of-experiments-may-ever-be-0", 1))
    page = look(lab.url)
    shows(page, "finished")
    page.locator("#d-rounds summary").click()
    page.locator("#d-workers summary").click()
    for width, height in [(360, 740), (768, 1024), (1920, 1080)]:
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Start a run").click()
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.keyboard.press("Escape")

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        found: dict[str, Any] = page.evaluate(CONTRAST)
        assert found["seen"] > 40
        assert found["low"] == []
        assert (found["ground"] > 0.5) == (scheme == "light")

    for role in ("banner", "main", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert page.locator("section[aria-labelledby]:not([hidden])").count() >= 6
    assert page.evaluate(NAMELESS) == []
    expect(page.locator("#news")).to_contain_text("is finished")
    assert page.evaluate(MOVING) == 0


def test_a_round_under_way_of_nodes_with_long_names_fits_a_phone(
    tmp_path: Path, look: Callable[..., Page]
) -> None:
    with running(tmp_path) as lab:
        lab.work("a-node-with-a-name-that-is-longer-than-a-phone-is-wide", gate=Gate())
        lab.submit(softmax("phone", 1))
        page = look(lab.url)
        page.set_viewport_size({"width": 360, "height": 740})
        expect(page.locator("#t-workers .hidden")).to_have_text([" asked"] * 4, timeout=LATE)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.close()  # before what it looks at goes


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
        page.close()  # before its aggregator: what it still loads would be refused


# Seconds since the round under way began, by the page: when it is opened; 5 s after the end of a pause.
UNDER_WAY = """async () => {
  const { State } = await import("/page/state.js");
  const now = Date.now() / 1000;
  const state = new State();
  const run = { id: "r", state: "running", round: 3, rounds: 9, cohort: [0], arrived: [] };
  const told = (ago, run) => state.told({ kind: "run", at: now - ago, run });
  state.told({ kind: "round", of: "r", at: now - 60, round: { round: 3, committed: now - 60 } });
  told(0, run);
  const opened = now - state.begun.at;
  told(20, { ...run, state: "paused" });
  told(5, run);
  return [opened, now - state.begun.at];
}"""
# What is darker or lighter than WCAG 2.2 asks for (4.5 : 1), element by element.
CONTRAST = """() => {
  const parts = (colour) => colour.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
  };
  const low = [];
  let seen = 0;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest("svg, option")) continue;
    const [a, b] = [light(parts(getComputedStyle(element).color)), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen += 1;
    if (ratio < 4.5) low.push(`${element.tagName} ${element.textContent.trim()}: ${ratio.toFixed(2)}`);
  }
  return { low, seen, ground: light(ground(document.body)) };
}"""
NAMELESS = """() => [...document.querySelectorAll("button, a, input, select, [role=img], [role=region]")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length))
  .map((e) => e.outerHTML)"""
MOVING = """() => [...document.querySelectorAll("*")]
  .filter((e) => getComputedStyle(e).transitionProperty !== "none").length"""
