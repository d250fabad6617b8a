"""The page over HTTP: its headers, who may look, and what other sites' pages cannot do."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from aggregator import page
from roundtable.messages import CreateRun

pytestmark = pytest.mark.anyio

PUBLISHED = {"published_on": "192.0.2.1", "allow_plain_http": True}
EXPERIMENT = 'name = "from-a-file"\ntask = "digits"\n'


async def test_the_page_and_its_files_allow_nothing_inline_and_nothing_from_elsewhere(open_lab):
    async with open_lab() as lab:
        home = await lab.http.get("/")
        linked = re.findall(r'(?:src|href)="(/page/[^"]+)"', home.text)
        assert len(linked) >= 4
        for path in ["/", *linked]:
            reply = await lab.http.get(path)
            assert reply.status_code == 200, path
            policy = reply.headers["content-security-policy"]
            assert "default-src 'none'" in policy and "script-src 'self'" in policy
            assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert reply.headers["referrer-policy"] == "same-origin"
        assert not re.search(r"\son\w+=|<style|\sstyle=|<script(?![^>]*src)|https?://", home.text)


async def test_files_are_sent_again_only_when_they_have_changed_and_nothing_else_is_served(open_lab):
    async with open_lab() as lab:
        first = await lab.http.get("/page/app.js")
        again = await lab.http.get("/page/app.js", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for path in ("nothing.js", "__init__.py", "../__init__.py", "index.html", "vendor/LICENSE", ""):
            assert (await lab.http.get(f"/page/{path}")).status_code == 404, path


async def test_a_report_is_served_where_lab_has_left_one_for_a_run_that_is_known(open_lab, tmp_path):
    (tmp_path / "reports").mkdir()
    (tmp_path / "report.html").write_text("of nobody")
    async with open_lab(reports_dir=tmp_path / "reports") as lab:
        run = (await lab.create({"name": "told", "task": "digits"}))["id"]
        missing = await lab.http.get(f"/v1/runs/{run}/report")
        assert missing.status_code == 404 and "`lab report` makes it" in missing.json()["detail"]
        for path in ("..", "%2e%2e", "nobody"):
            assert (await lab.http.get(f"/v1/runs/{path}/report")).status_code == 404, path
        (tmp_path / "reports" / run).mkdir()
        (tmp_path / "reports" / run / "report.html").write_text("<h1>how it went</h1>")
        found = await lab.http.get(f"/v1/runs/{run}/report")
        assert found.text == "<h1>how it went</h1>" and found.headers["content-type"].startswith("text/html")
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy and policy.endswith("sandbox") and "script-src" not in policy


def test_every_file_that_a_module_imports_is_there():
    names = set(page.assets())
    for name, asset in page.assets().items():
        if name.endswith(".js") and "vendor" not in name:
            for imported in re.findall(r'from "\./([^"]+)"', asset.content.decode()):
                assert imported in names


async def test_beyond_loopback_only_the_form_is_shown_without_the_token(open_lab):
    async with open_lab(**PUBLISHED) as lab:
        home = await lab.http.get("/")
        assert 'action="/sign-in"' in home.text and "app.js" not in home.text
        for path in ("/v1/runs", "/v1/events", "/v1/workers"):
            assert (await lab.http.get(path)).status_code == 401
        wrong = await lab.http.post("/sign-in", data={"token": "wrong"})
        assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
        assert wrong.text.count("This is not the read token of this lab") == 1
        lab.http.cookies.set(lab.service.tokens.cookie_name, "0" * 64)
        assert (await lab.http.get("/v1/runs")).status_code == 401


@pytest.mark.parametrize("kind", ["read", "admin"])
async def test_the_right_token_is_answered_with_a_cookie_that_opens_what_is_for_readers(open_lab, kind):
    async with open_lab(**PUBLISHED) as lab:
        token = getattr(lab.service.tokens, kind)
        reply = await lab.http.post("/sign-in", data={"token": token})
        assert (reply.status_code, reply.headers["location"]) == (303, "/")
        cookie = reply.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and token.lower() not in cookie
        assert "app.js" in (await lab.http.get("/")).text
        assert (await lab.http.get("/v1/runs")).json() == []
        stop = await lab.http.post("/v1/runs/any/stop")
        assert stop.status_code == 401  # a reader's cookie changes nothing
        await lab.http.post("/sign-out")
        assert (await lab.http.get("/v1/runs")).status_code == 401


async def test_a_cookie_is_worthless_once_the_read_token_is_another(open_lab, tmp_path):
    async with open_lab(**PUBLISHED) as lab:
        known = lab.service.tokens
    (tmp_path / "state" / "tokens" / "read").unlink()
    async with open_lab(**PUBLISHED) as lab:
        assert lab.service.tokens.cookie_name == known.cookie_name
        lab.http.cookies.set(known.cookie_name, known.cookie)
        reply = await lab.http.get("/v1/runs")
        assert reply.status_code == 401


async def test_over_tls_the_cookie_never_goes_out_in_the_clear(open_lab):
    async with open_lab(**PUBLISHED) as lab:
        form = {"token": lab.service.tokens.read}
        reply = await lab.http.post("https://lab/sign-in", data=form)
        assert "secure" in reply.headers["set-cookie"].lower()


async def test_a_post_from_another_sites_page_is_refused(open_lab):
    async with open_lab() as lab:
        for path in ("/v1/runs", "/v1/runs/x/stop", "/v1/runs/x/resume", "/sign-in", "/sign-out"):
            for origin in ("http://evil.example", "null", "http://lab:81"):
                reply = await lab.http.post(path, headers=lab.admin | {"Origin": origin})
                assert reply.status_code == 403, (path, origin)
                assert "other sites' pages" in reply.json()["detail"]
            own = await lab.http.post(path, headers=lab.admin | {"Origin": "http://lab"})
            assert own.status_code != 403, path


async def test_a_name_that_somebody_else_points_here_reads_nothing(open_lab):
    async with open_lab() as lab:
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[::1"):
            for path in ("/", "/v1/runs", "/v1/events", "/v1/workers"):
                reply = await lab.http.get(path, headers={"Host": host})
                assert reply.status_code == 421, (host, path)
                assert "PUBLISHED_ON" in reply.json()["detail"]


async def test_names_of_this_machine_and_of_containers_read(open_lab):
    async with open_lab() as lab:
        for host in ("127.0.0.1:8080", "[::1]:8080", "localhost", "lab.localhost:80", "aggregator"):
            assert (await lab.http.get("/v1/runs", headers={"Host": host})).status_code == 200, host


async def test_an_experiment_file_is_checked_for_the_page(open_lab):
    async with open_lab() as lab:
        reply = await lab.http.post("/v1/experiments", content=EXPERIMENT, headers=lab.admin)
        checked = reply.json()
        assert (reply.status_code, checked["name"]) == (200, "from-a-file")
        created = await lab.http.post("/v1/runs", json={"experiment": checked}, headers=lab.admin)
        assert created.status_code == 201
        for text, word in (
            (EXPERIMENT + "extra = 1", "extra"),
            ("name =", "is not TOML"),
            (b"\xff", "UTF-8"),
        ):
            reply = await lab.http.post("/v1/experiments", content=text, headers=lab.admin)
            assert reply.status_code == 422 and word in reply.json()["detail"]
        marked = EXPERIMENT.encode("utf-8-sig")  # by an editor on Windows
        assert (await lab.http.post("/v1/experiments", content=marked, headers=lab.admin)).json() == checked
        assert (await lab.http.post("/v1/experiments", content=EXPERIMENT)).status_code == 401


async def test_weights_that_are_tidied_while_they_are_asked_for_are_said_to_be_gone(
    open_lab, monkeypatch, tmp_path
):
    async def found(*_):
        return tmp_path / "gone", "0" * 64

    async with open_lab() as lab:
        monkeypatch.setattr(lab.service.runs.archive, "model", found)
        reply = await lab.http.get("/v1/runs/r/model")
        assert reply.status_code == 404 and "ask again" in reply.json()["detail"]


# --- the lab's own stream


async def told(lab, seq=0, enough=lambda _: True):
    """The events from after `seq` until `enough` of them all."""
    seen = []

    async def read():
        async for piece in lab.service.runs.lab.watch(seq):
            for frame in piece.decode().split("\n\n"):
                fields = dict(line.split(": ", 1) for line in frame.splitlines() if ": " in line)
                if "data" in fields:
                    seen.append(json.loads(fields["data"]))
            if enough(seen):
                return

    await asyncio.wait_for(read(), 20)
    return seen


def ended(run):
    return lambda events: any(
        view["id"] == run and view["state"] == "finished"
        for event in events
        if event["kind"] == "runs"
        for view in event["runs"]
    )


async def test_one_stream_tells_of_all_runs_one_after_the_other(open_lab, make_experiment):
    async with open_lab() as lab:
        one = await lab.create(make_experiment(name="one"))
        two = await lab.create(make_experiment(name="two", seed=2))
        async with lab.working(await lab.joined()):
            events = await told(lab, enough=ended(two["id"]))
        assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
        for run in (one, two):
            rounds = {e["round"]["round"] for e in events if e["kind"] == "round" and e["of"] == run["id"]}
            assert rounds == {0, 1, 2, 3}
            assert ended(run["id"])(events)
        assert any(event["kind"] == "workers" and event["workers"] for event in events)


async def test_who_comes_back_is_told_of_the_lab_what_has_changed_since(open_lab, make_experiment):
    async with open_lab() as lab:
        run = await lab.create(make_experiment())
        last = (await told(lab, enough=lambda events: len(events) >= 2))[-1]["seq"]
        assert await lab.service.runs.lab.after(last + 100) == []
        await lab.joined()
        again = await told(lab, last, lambda events: any(event["kind"] == "workers" for event in events))
        assert all(event["seq"] > last for event in again)
    async with open_lab() as lab:  # another process: all of it is later than what was known
        after = await told(lab, again[-1]["seq"], lambda events: len(events) >= 3)
        assert {event["kind"] for event in after} == {"runs", "run", "workers"}
        (listed,) = (event["runs"] for event in after if event["kind"] == "runs")
        assert [view["id"] for view in listed] == [run["id"]]


async def test_runs_made_while_the_list_is_looked_up_are_told_next(open_lab, make_experiment):
    async with open_lab() as lab:
        feed = lab.service.runs.lab
        listed = feed._runs

        async def slow():
            found = await listed()
            if not feed._runs_seq > before:
                await lab.service.runs.create(_request(make_experiment(name="late", seed=2)))
            return found

        await lab.create(make_experiment(name="early"))
        before = feed._runs_seq
        feed._runs = slow
        first = await feed.after(0)
        second = await feed.after(first[-1].seq)
        names = [view.name for event in second if event.kind == "runs" for view in event.runs]
        assert names == ["early", "late"]


def _request(body):
    return CreateRun.model_validate({"experiment": body})
