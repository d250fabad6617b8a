"""What the HTTP surface refuses, and how it says so."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.anyio

DIGEST = "0" * 64


def told(reply, status, kind):
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    body = reply.json()
    assert body["status"] == status and body["type"] == kind
    assert "\n" not in body["detail"] and body["detail"]
    return body["detail"]


async def test_health_and_readiness(open_lab):
    async with open_lab() as lab:
        assert (await lab.http.get("/healthz")).status_code == 200
        assert (await lab.http.get("/readyz")).status_code == 200
        lab.service.release()
        assert (await lab.http.get("/healthz")).status_code == 200
        assert (await lab.http.get("/readyz")).status_code == 503


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/join"),
        ("POST", "/v1/poll"),
        ("POST", "/v1/leave"),
        ("GET", "/v1/runs/r/plan"),
        ("GET", f"/v1/weights/{DIGEST}"),
        ("GET", f"/v1/states/{DIGEST}"),
        ("PUT", "/v1/orders/r.1.1.train.c0.1/update"),
        ("POST", "/v1/orders/r.1.1.train.c0.1/result"),
        ("POST", "/v1/runs"),
        ("POST", "/v1/runs/r/stop"),
        ("POST", "/v1/runs/r/resume"),
    ],
)
async def test_a_wrong_or_missing_token_is_refused(open_lab, make_experiment, method, path):
    bodies = {
        "/v1/poll": {"holding": []},
        "/v1/runs": {"experiment": make_experiment()},
        "/v1/orders/r.1.1.train.c0.1/result": {"status": "done"},
    }
    async with open_lab() as lab:
        for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic abc"}):
            reply = await lab.http.request(method, path, json=bodies.get(path), headers=headers)
            told(reply, 401, "urn:roundtable:unauthorized")
            assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/v1/runs", "/v1/experiments"])
async def test_a_body_is_not_looked_at_before_the_admin_token(open_lab, path):
    async with open_lab() as lab:
        for content in (b"{no", b'{"experiment": 3}', b"\xff"):
            reply = await lab.http.post(path, content=content)
            told(reply, 401, "urn:roundtable:unauthorized")
            told(await lab.http.post(path, content=content, headers=lab.admin), 422, reply_kind(path))


@pytest.mark.parametrize("path", ["/v1/poll", "/v1/orders/r.1.1.train.c0.1/result"])
async def test_a_body_is_not_looked_at_before_the_session_token(open_lab, path):
    async with open_lab() as lab:
        worker = await lab.joined()
        for content in (b"{no", b'{"holding": 3}', b"\xff"):
            reply = await lab.http.post(path, content=content)
            told(reply, 401, "urn:roundtable:unauthorized")
            reply = await lab.http.post(path, content=content, headers=worker.headers)
            told(reply, 422, "urn:roundtable:invalid-input")


async def test_a_stranger_s_body_is_not_even_read(open_lab):
    async with open_lab() as lab:

        async def pieces():
            pytest.fail("the body was read")
            yield b""

        for path in ("/v1/poll", "/v1/orders/r.1.1.train.c0.1/result"):
            told(await lab.http.post(path, content=pieces()), 401, "urn:roundtable:unauthorized")


def reply_kind(path):
    return f"urn:roundtable:invalid-{'input' if path == '/v1/runs' else 'experiment'}"


async def test_the_join_token_is_no_admin_token_and_no_session_token(open_lab, make_experiment):
    async with open_lab() as lab:
        join = {"Authorization": f"Bearer {lab.service.tokens.join}"}
        reply = await lab.http.post("/v1/runs", json={"experiment": make_experiment()}, headers=join)
        told(reply, 401, "urn:roundtable:unauthorized")
        told(await lab.http.post("/v1/poll", json={}, headers=join), 401, "urn:roundtable:unauthorized")


async def test_another_protocol_version_is_told_both_versions_before_its_fields_are_looked_at(open_lab):
    async with open_lab() as lab:
        headers = {"Authorization": f"Bearer {lab.service.tokens.join}"}
        body = {"protocol": 7, "something": "new"}
        detail = told(
            await lab.http.post("/v1/join", json=body, headers=headers),
            426,
            "urn:roundtable:incompatible-version",
        )
        assert "7" in detail and "1" in detail and "update the aggregator" in detail
        for nothing in (None, "1", True):
            body = lab.worker().introduction(protocol=nothing)
            reply = await lab.http.post("/v1/join", json=body, headers=headers)
            assert told(reply, 422, "urn:roundtable:invalid-input").startswith("protocol: found ")
        body = lab.worker().introduction(protocol=0)
        reply = await lab.http.post("/v1/join", json=body, headers=headers)
        assert "update the worker" in told(reply, 426, "urn:roundtable:incompatible-version")


async def test_a_bad_field_is_named(open_lab, make_experiment):
    async with open_lab() as lab:
        headers = {"Authorization": f"Bearer {lab.service.tokens.join}"}
        reply = await lab.http.post("/v1/join", json=lab.worker().introduction(cpus=0), headers=headers)
        assert "cpus" in told(reply, 422, "urn:roundtable:invalid-input")
        reply = await lab.http.post("/v1/join", content=b"{no", headers=headers)
        assert "JSON" in told(reply, 422, "urn:roundtable:invalid-input")
        body = make_experiment(rounds={"count": 0})
        reply = await lab.http.post("/v1/runs", json={"experiment": body}, headers=lab.admin)
        assert "experiment.rounds.count" in told(reply, 422, "urn:roundtable:invalid-input")
        reply = await lab.http.post("/v1/runs", json={"experiment": body, "x": 1}, headers=lab.admin)
        assert "x" in told(reply, 422, "urn:roundtable:invalid-input")


async def test_unknown_paths_methods_runs_and_contents_are_problems_too(open_lab):
    async with open_lab() as lab:
        worker = await lab.joined()
        told(await lab.http.get("/v2/nothing"), 404, "urn:roundtable:unknown")
        for path, allowed in (("/v1/runs", "GET, POST"), ("/readyz", "GET"), ("/openapi.json", "GET, HEAD")):
            reply = await lab.http.delete(path)
            told(reply, 405, "about:blank")
            assert reply.headers["allow"] == allowed
        told(await lab.http.get("/v1/runs/none"), 404, "urn:roundtable:unknown")
        told(await lab.http.get("/v1/runs/none/events"), 404, "urn:roundtable:unknown")
        told(await lab.http.get("/v1/runs/none/ledger"), 404, "urn:roundtable:unknown")
        told(await lab.http.get("/v1/runs/none/model"), 404, "urn:roundtable:unknown")
        told(await lab.http.get("/v1/runs/none/model?which=worst"), 422, "urn:roundtable:invalid-input")
        told(await lab.http.post("/v1/runs/none/stop", headers=lab.admin), 404, "urn:roundtable:unknown")
        for digest in (DIGEST, "..%2F..%2Flab.sqlite", "A" * 64):
            told(
                await lab.http.get(f"/v1/weights/{digest}", headers=worker.headers),
                404,
                "urn:roundtable:unknown",
            )
        for order in ("x", "r.1.1.train.c0.1", "r.1.1.train.c0.99999999999"):
            reply = await lab.http.put(f"/v1/orders/{order}/update", content=b"x", headers=worker.headers)
            assert reply.status_code in (404, 409)


async def test_json_bodies_are_bounded_whatever_they_say_of_their_length(open_lab):
    async with open_lab() as lab:
        worker = await lab.joined()
        body = json.dumps({"holding": ["x" * (1 << 20)]}).encode()
        reply = await lab.http.post("/v1/poll", content=body, headers=worker.headers)
        told(reply, 413, "urn:roundtable:too-large")

        async def pieces():
            for start in range(0, len(body), 1 << 16):
                yield body[start : start + (1 << 16)]

        reply = await lab.http.post("/v1/poll", content=pieces(), headers=worker.headers)
        assert reply.status_code == 413


async def test_a_fault_of_ours_is_a_problem_without_a_traceback(open_lab, monkeypatch):
    async with open_lab() as lab:
        monkeypatch.setattr(lab.service.reception, "views", lambda: 1 / 0)
        detail = told(await lab.http.get("/v1/workers"), 500, "urn:roundtable:error")
        assert "division" not in detail


async def test_the_api_describes_itself_with_its_tokens(open_lab):
    async with open_lab() as lab:
        schema = (await lab.http.get("/openapi.json")).json()
        assert schema["paths"]["/v1/poll"]["post"]["security"] == [{"session token": []}]
        assert set(schema["components"]["securitySchemes"]) == {
            "join token",
            "session token",
            "admin token",
            "read token",
        }
        assert schema["paths"]["/v1/orders/{order}/update"]["put"]["requestBody"]["required"]
        for path, message in (("/v1/poll", "Poll"), ("/v1/orders/{order}/result", "OrderResult")):
            told_to_send = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]
            assert told_to_send["schema"] == {"$ref": f"#/components/schemas/{message}"}


async def test_the_api_tells_its_errors_as_they_come(open_lab):
    async with open_lab() as lab:
        schema = (await lab.http.get("/openapi.json")).json()
    statuses = set()
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            refusals = {at: reply for at, reply in operation["responses"].items() if at[0] not in "23"}
            assert refusals, path
            assert [list(reply["content"]) for reply in refusals.values()] == [
                ["application/problem+json"]
            ] * len(refusals), path
            statuses |= set(refusals)
    assert statuses == {
        *("401", "403", "404", "409", "411", "413", "421", "422", "426", "429", "503", "507", "default")
    }
    assert "403" in schema["paths"]["/v1/runs"]["post"]["responses"]
    assert "urn:roundtable:stale" in str(
        schema["paths"]["/v1/orders/{order}/update"]["put"]["responses"]["409"]
    )
    for reference in references(schema):
        found = schema
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    assert "PinnedData" in schema["components"]["schemas"]


def references(schema):
    if isinstance(schema, dict):
        yield from (value for key, value in schema.items() if key == "$ref")
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from references(part)


LONG_NUMBER, DEEP = "9" * 5000, "[" * 200_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"protocol": ' + LONG_NUMBER + "}", "too many digits"),
        (DEEP, "too deep a nesting"),
        ("{no", "JSON"),
        (b"\xff", "JSON"),
    ],
)
async def test_json_that_cannot_be_read_is_the_sender_s_fault_wherever_it_is_sent(open_lab, content, says):
    async with open_lab() as lab:
        worker = await lab.joined()
        joining = {"Authorization": f"Bearer {lab.service.tokens.join}"}
        order = "/v1/orders/r.1.1.train.c0.1/result"
        for path, token in (("/v1/join", joining), ("/v1/runs", lab.admin), (order, worker.headers)):
            headers = token | {"Content-Type": "application/json"}
            detail = told(
                await lab.http.post(path, content=content, headers=headers),
                422,
                "urn:roundtable:invalid-input",
            )
            assert detail.startswith("body: ") and says in detail


async def test_a_number_too_long_for_an_experiment_is_the_sender_s_fault(open_lab):
    async with open_lab() as lab:
        reply = await lab.http.post("/v1/experiments", content=f"seed = {LONG_NUMBER}", headers=lab.admin)
        assert "digits" in told(reply, 422, "urn:roundtable:invalid-experiment")


@pytest.mark.parametrize("path", ["/v1/runs", "/sign-in"])
async def test_an_origin_that_is_no_address_is_another_site_s(open_lab, path):
    async with open_lab() as lab:
        for origin in ("http://[", "http://a]b", "null", "http://elsewhere"):
            reply = await lab.http.post(path, content="{}", headers=lab.admin | {"Origin": origin})
            told(reply, 403, "about:blank")


async def test_an_event_id_of_any_length_is_answered(open_lab):
    async with open_lab() as lab:
        for last in (LONG_NUMBER, "9" * 19, "-1", ""):
            reply = await lab.http.get("/v1/events", headers={"Last-Event-ID": last})
            assert "18 digits" in told(reply, 422, "urn:roundtable:invalid-input")


@pytest.mark.parametrize("field", ["node", "host", "arch"])
@pytest.mark.parametrize("name", ["pi\x1b[31m", "pi\n3", "pi\u202e3"])
async def test_a_name_that_would_not_print_as_it_is_cannot_join(open_lab, field, name):
    async with open_lab() as lab:
        headers = {"Authorization": f"Bearer {lab.service.tokens.join}"}
        body = lab.worker().introduction(**{field: name})
        detail = told(
            await lab.http.post("/v1/join", json=body, headers=headers), 422, "urn:roundtable:invalid-input"
        )
        assert detail.startswith(f"{field}: found 'pi\\") and detail.isprintable()
        assert (await lab.http.get("/v1/workers")).json() == []
        body = lab.worker().introduction(**{field: "Küche – пи 3"})
        assert (await lab.http.post("/v1/join", json=body, headers=headers)).status_code == 200


@pytest.mark.parametrize("cohort", [[999], [-1], [1, 1], [], [0, 4]])
async def test_a_replay_of_clients_that_cannot_take_part_is_refused(open_lab, make_experiment, cohort):
    async with open_lab() as lab:
        body = {"experiment": make_experiment(), "again": True, "participants": [[0, 3], cohort]}
        reply = await lab.http.post("/v1/runs", json=body, headers=lab.admin)
        detail = told(reply, 422, "urn:roundtable:invalid-input")
        assert detail.startswith(f"participants: round 2 is {cohort}; allowed: ") and "0 … 3" in detail
        assert (await lab.http.get("/v1/runs")).json() == []
