"""What goes wrong, and that nothing accepted is lost by it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from aggregator import database
from aggregator.rows import WorkerRow
from roundtable import codec
from roundtable.errors import CorruptStore, StorageFull
from roundtable.messages import Account, Join, OrderResult
from roundtable.weights import Weights

pytestmark = pytest.mark.anyio


def told(reply, status, kind):
    assert reply.status_code == status, reply.text
    assert reply.json()["type"] == f"urn:roundtable:{kind}"
    return reply.json()["detail"]


async def initialized(lab, body, *workers):
    """The run, with its first weights in and the first cohort's orders in the workers' hands."""
    run = await lab.create(body)
    await workers[0].poll()
    for order in list(workers[0].holding.values()):
        await workers[0].carry_out(order)
    await lab.until(run["id"], lambda detail: len(detail["cohort"]) > 0)
    for worker in workers:
        await worker.poll()
    return run["id"]


def trains(worker):
    return [order for order in worker.holding.values() if order.kind == "train"]


def homes(lab, worker):
    return next(view.clients for view in lab.service.reception.views() if view.id == worker.id)


async def finish(lab, run, *workers):
    async with lab.working(*workers):
        return await lab.ended(run)


async def nothing():
    pass


async def evaluate_all(worker):
    for order in [order for order in worker.holding.values() if order.kind == "evaluate"]:
        await worker.carry_out(order)


async def test_the_same_update_again_is_a_success_that_changes_nothing(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        await initialized(lab, make_experiment(), worker)
        order = trains(worker)[0]
        body = await worker.prepare(order)
        assert (await worker.upload(order, body)).json() == {"duplicate": False}
        assert (await worker.upload(order, body)).json() == {"duplicate": True}


async def test_an_update_counts_though_its_sender_is_cut_off_before_its_turn_comes(
    open_lab, make_experiment, tmp_path
):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(rounds={"count": 1}), worker)
        await evaluate_all(worker)
        first, *others = trains(worker)
        body, turns, released = await worker.prepare(first), lab.service.turns, asyncio.Event()
        turns.post(released.wait)
        sending = asyncio.create_task(worker.upload(first, body))
        while not turns._jobs.qsize() or not list(tmp_path.glob("state/runs/*/spool/*.part")):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait({sending})
        assert sending.cancelled()
        released.set()
        assert (await worker.upload(first, body)).json()["duplicate"]
        for order in others:
            await worker.carry_out(order)
        assert (await finish(lab, run, worker))["state"] == "finished"
        await turns.submit(nothing)  # after the turn that ended it, which lets go of spare rooms at its end
        assert not list(tmp_path.glob("state/runs/*/spool/*.part"))


async def test_another_content_for_an_accepted_order_is_refused(open_lab, make_experiment, join_bytes):
    async with open_lab() as lab:
        worker = await lab.joined()
        await initialized(lab, make_experiment(), worker)
        order = trains(worker)[0]
        await worker.upload(order, await worker.prepare(order))
        account = Account(num_examples=1, num_steps=1)
        zeros = {"update": Weights.zeros(lab.task.manifest)}
        other = join_bytes(codec.encode(zeros, {"account": account.model_dump_json()}))
        told(await worker.upload(order, other), 409, "already-accepted")


async def test_an_update_of_a_closed_round_is_stale(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        await evaluate_all(worker)
        orders = trains(worker)
        bodies = [await worker.prepare(order) for order in orders]
        for order, body in zip(orders, bodies, strict=True):
            await worker.upload(order, body)
        await lab.until(run, lambda detail: detail["round"] == 1)
        told(await worker.upload(orders[0], bodies[0]), 409, "stale")


async def test_a_stranger_is_not_asked(open_lab, make_experiment):
    async with open_lab() as lab:
        worker, stranger = await lab.joined(1), await lab.joined(2)
        await initialized(lab, make_experiment(), worker, stranger)
        order = trains(worker)[0]
        told(await stranger.upload(order, await worker.prepare(order)), 403, "not-asked")


async def test_a_superseded_attempt_is_refused_and_the_new_one_counts(
    open_lab, make_experiment, clock, settled
):
    async with open_lab(clock) as lab:
        slow, quick = await lab.joined(1), await lab.joined(2)
        run = await initialized(lab, make_experiment(), slow, quick)
        order = trains(slow)[0]
        late = await slow.prepare(order)
        waiting = asyncio.create_task(quick.poll())  # a poll that waits is no silence
        await settled()
        clock.turn(16)
        await asyncio.wait_for(waiting, 10)
        await lab.until(run, lambda _: order.client in homes(lab, quick))
        await asyncio.wait_for(quick.poll(), 10)
        taken = next(other for other in trains(quick) if other.client == order.client)
        assert taken.attempt == order.attempt + 1
        told(await slow.upload(order, late), 409, "superseded")
        assert (await quick.upload(taken, await quick.prepare(taken))).status_code == 200
        await settled()
        states = {view["id"]: view["state"] for view in (await lab.http.get("/v1/workers")).json()}
        assert states == {slow.id: "lost", quick.id: "present"}
        assert run


async def test_a_lost_worker_that_polls_again_is_back(open_lab, make_experiment, clock, settled):
    async with open_lab(clock) as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        held = tuple(worker.holding)
        clock.turn(16)
        detail = await lab.until(run, lambda detail: detail["state"] == "waiting")
        assert "no worker is there" in detail["reason"]
        waiting = asyncio.create_task(worker.poll())
        await lab.until(run, lambda detail: detail["state"] == "running")
        await settled()
        clock.turn(5)
        reply = await asyncio.wait_for(waiting, 10)
        assert (
            not reply.give and not reply.cancel and tuple(worker.holding) == held
        )  # it goes on where it was


async def test_a_worker_that_leaves_hands_its_orders_back_at_once(open_lab, make_experiment):
    async with open_lab() as lab:
        leaver, other = await lab.joined(1), await lab.joined(2)
        run = await initialized(lab, make_experiment(), leaver, other)
        assert (await lab.http.post("/v1/leave", headers=leaver.headers)).status_code == 204
        told(await lab.http.post("/v1/poll", json={}, headers=leaver.headers), 401, "unauthorized")
        detail = await finish(lab, run, other)
        assert detail["state"] == "finished" and detail["history"][1]["lost"] == 2


def nan(update):
    update.arrays[0][0, 0] = np.nan


@pytest.mark.parametrize(
    "fault", ["truncated", "oversized", "shape", "nan", "no account", "empty", "no length", "shorter"]
)
async def test_bad_uploads_are_refused_and_the_order_stays(open_lab, make_experiment, join_bytes, fault):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        order = trains(worker)[0]
        good = await worker.prepare(order)
        manifest = lab.task.manifest
        account = {"account": Account(num_examples=1, num_steps=1).model_dump_json()}
        broken = Weights.of(manifest, [np.full(spec.shape, np.nan, spec.dtype) for spec in manifest.arrays])
        part = Weights.zeros(manifest.trainable)
        whole = Weights.zeros(manifest)
        body, status, kind = {
            "truncated": (good[:-1], 422, "truncated"),
            "oversized": (good + bytes(10**6), 413, "too-large"),
            "shape": (join_bytes(codec.encode({"update": part}, account)), 422, "shape-mismatch"),
            "nan": (join_bytes(codec.encode({"update": broken}, account)), 422, "not-finite"),
            "no account": (join_bytes(codec.encode({"update": whole})), 422, "invalid-payload"),
            "empty": (b"", 422, "truncated"),
            "no length": (good, 411, None),
            "shorter": (good, 422, "truncated"),
        }[fault]
        if fault == "shorter":  # than its head says, by a server that passes on such a body
            head = {**worker.headers, "content-length": str(len(good) + 1)}
            reply = await lab.http.put(f"/v1/orders/{order.id}/update", content=body, headers=head)
            told(reply, status, kind)
        elif kind is None:

            async def pieces():
                yield body

            reply = await lab.http.put(
                f"/v1/orders/{order.id}/update", content=pieces(), headers=worker.headers
            )
            assert reply.status_code == status
        else:
            told(await worker.upload(order, body), status, kind)
        spool = lab.service.runs.live.files.spool.folder
        assert not list(spool.glob("*.part"))  # nothing of it is left
        assert (await worker.upload(order, good)).status_code == 200
        assert run


async def fail_thrice(worker, tell):
    client = trains(worker)[0].client
    for _ in range(3):
        order = next(order for order in trains(worker) if order.client == client)
        assert (await tell(order)).status_code == 204
        del worker.holding[order.id]
        await worker.poll()


async def test_an_order_that_keeps_failing_fails_the_run_with_the_reason(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        failed = OrderResult(status="failed", detail="out of memory")
        await fail_thrice(worker, lambda order: worker.report(order, failed))
        detail = await lab.ended(run)
        assert detail["state"] == "failed" and "out of memory" in detail["reason"]


async def test_a_reason_that_was_cut_in_mid_emoji_or_has_no_end_fails_the_run_all_the_same(
    open_lab, make_experiment
):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        content = '{"status": "failed", "detail": "out of\\nmemory \\ud83d' + "!" * 500_000 + '"}'
        headers = worker.headers | {"Content-Type": "application/json"}
        await fail_thrice(
            worker,
            lambda order: lab.http.post(f"/v1/orders/{order.id}/result", content=content, headers=headers),
        )
        detail = await lab.ended(run)
        assert detail["state"] == "failed" and r"out of memory \ud83d!" in detail["reason"]
        assert len(detail["reason"]) < 1200


async def test_a_worker_that_refuses_gets_nothing_more_of_the_run_and_is_told_of_once(
    open_lab, make_experiment, caplog
):
    caplog.set_level("INFO", "aggregator")
    async with open_lab() as lab:
        unfit, other = await lab.joined(1), await lab.joined(2)
        run = await initialized(lab, make_experiment(), unfit, other)
        held = trains(unfit)
        assert len(held) > 1
        for order in held:  # the second before it hears that it is withdrawn
            refusal = OrderResult(
                status="refused", problem="urn:roundtable:source-mismatch", detail="another task"
            )
            assert (await unfit.report(order, refusal)).status_code == 204
        (told,) = [record for record in caplog.records if record.message == "order refused"]
        assert (told.fields["worker"], told.fields["node"]) == (unfit.id, unfit.node)
        detail = await finish(lab, run, other)
        assert detail["state"] == "finished"
        assert {worker for record in detail["history"] for worker in record["workers"]} == {other.id}


async def test_an_evaluation_without_its_sums_is_refused(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        await initialized(lab, make_experiment(), worker)
        detail = told(
            await worker.report(trains(worker)[0], OrderResult(status="done")), 422, "invalid-input"
        )
        assert "evaluated" in detail


async def test_evaluations_that_do_not_fit_each_other_fail_the_run_and_do_not_hang_it(
    open_lab, make_experiment
):
    async with open_lab() as lab:
        worker = await lab.joined()

        async def evaluate(order):
            told = lab.task.evaluate(lab.task.first(), order.shard, 2)
            return told.model_copy(update={"sums": {f"metric{order.shard}": 1.0}})

        worker.evaluate = evaluate
        run = await lab.create(make_experiment())
        with contextlib.suppress(AssertionError):  # it may be told, or the run be over
            async with lab.working(worker):
                await lab.ended(run["id"])
        detail = await lab.ended(run["id"])
        assert detail["state"] == "failed" and "evaluation" in detail["reason"]


async def test_an_aggregator_that_restarts_goes_on_in_the_same_round(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        done = trains(worker)[:2]
        for order in done:
            await worker.carry_out(order)
        first = lab.service.tokens
    async with open_lab(poll_seconds=0.05) as lab:
        assert lab.service.tokens == first
        worker.http = lab.http
        detail = await lab.detail(run)
        assert detail["state"] == "running" and detail["arrived"] == [order.client for order in done]
        reply = await worker.poll()  # with the session token from before
        assert not reply.give and not reply.cancel
        again = await lab.joined()
        assert again.id == worker.id
        detail = await finish(lab, run, worker)
        assert detail["state"] == "finished"
        assert sorted(worker.trained).count((1, done[0].client)) == 1
        assert [record["lost"] for record in detail["history"]] == [0, 0, 0, 0]


@pytest.mark.parametrize("outlives", [True, False])
async def test_workers_that_went_with_their_aggregator_are_not_waited_for(
    open_lab, make_experiment, outlives
):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
    async with open_lab(poll_seconds=0.05, workers_outlive_it=outlives) as lab:
        (seen,) = (await lab.http.get("/v1/workers")).json()
        assert seen["state"] == ("present" if outlives else "lost")
        assert (lab.service.runs.active is not None) == outlives  # else not before somebody asks for it
        if not outlives:
            await lab.http.post(f"/v1/runs/{run}/resume", headers=lab.admin)
            detail = await finish(lab, run, await lab.joined(2))
            assert detail["state"] == "finished"


async def test_restarts_at_every_step_end_with_the_same_weights(open_lab, make_experiment):
    body = make_experiment(strategy={"objective": {"name": "control-variates"}})
    async with open_lab() as lab:
        run = await lab.create(body)
        other = await lab.joined(2)
        async with lab.working(other):
            expected = (await lab.ended(run["id"]))["history"][-1]["weights_hash"]
        await lab.http.post("/v1/leave", headers=other.headers)
        again = await lab.create(body, again=True)
        worker = lab.worker(1)
    steps = 0
    detail = {"state": "queued"}
    while detail["state"] != "finished" and steps < 60:
        steps += 1
        async with open_lab(poll_seconds=0.05) as lab:
            worker.http = lab.http
            await worker.join()
            await worker.poll()
            for order in list(worker.holding.values())[:1]:
                await worker.carry_out(order)
            detail = await lab.detail(again["id"])
    assert detail["state"] == "finished", detail["reason"]
    assert detail["history"][-1]["weights_hash"] == expected
    assert steps > 20


def full(*_arguments, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_full_disk_in_the_spool_pauses_the_run_and_loses_nothing(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        kept, refused, *_ = trains(worker)
        await worker.carry_out(kept)
        body = await worker.prepare(refused)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "posix_fallocate", full)
            told(await worker.upload(refused, body), 507, "storage-full")
            detail = await lab.detail(run)
            assert detail["state"] == "paused"
            assert "no space left" in detail["reason"] and f"lab resume {run}" in detail["reason"]
            assert detail["arrived"] == [kept.client]
        told(await worker.upload(refused, body), 507, "storage-full")  # until someone resumes it
        assert (await lab.http.post(f"/v1/runs/{run}/resume", headers=lab.admin)).json()["state"] == "running"
        assert (await worker.upload(refused, body)).status_code == 200
        assert (await finish(lab, run, worker))["state"] == "finished"


@pytest.mark.parametrize(
    "where", ["accept_update", "begin_round", "commit_round", "score_round", "accept_evaluation"]
)
async def test_a_full_disk_in_the_store_pauses_the_run_and_loses_nothing(open_lab, make_experiment, where):
    async with open_lab() as lab:
        worker = await lab.joined()
        store = lab.service.runs.store
        work = getattr(store, where)
        broken = asyncio.Event()

        def once(*arguments, **options):
            if not broken.is_set():
                broken.set()
                raise StorageFull("no space left for lab.sqlite")
            return work(*arguments, **options)

        setattr(store, where, once)

        async def work_on():
            while True:
                await worker.poll()
                for order in list(worker.holding.values()):
                    try:
                        await worker.carry_out(order)
                    except AssertionError as error:
                        assert "507" in str(error)
                        await lab.http.post(f"/v1/runs/{run}/resume", headers=lab.admin)

        run = (await lab.create(make_experiment()))["id"]
        task = asyncio.create_task(work_on())
        detail = await lab.until(
            run, lambda detail: broken.is_set() and detail["state"] in ("paused", "finished")
        )
        if detail["state"] == "paused":
            await lab.http.post(f"/v1/runs/{run}/resume", headers=lab.admin)
        detail = await lab.ended(run)
        task.cancel()
        assert detail["state"] == "finished", detail["reason"]
        assert broken.is_set()
        assert detail["history"][-1]["round"] == 3


@pytest.mark.parametrize("fault", ["read-only", "locked"])
async def test_a_disk_that_cannot_be_written_for_a_while_pauses_the_run_and_loses_nothing(
    open_lab, make_experiment, monkeypatch, fault
):
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        order = trains(worker)[0]
        body, store = await worker.prepare(order), lab.service.runs.store
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.closing(sqlite3.connect(store._db._path, isolation_level=None)) as another,
        ):
            if fault == "locked":
                another.execute("BEGIN IMMEDIATE")
            else:

                def read_only(*_):
                    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

                for name in ("rename", "unlink"):
                    patch.setattr(os, name, read_only)
                store._db.one("PRAGMA query_only = 1")
            told(await worker.upload(order, body), 507, "storage-full")
            detail = await lab.detail(run)
            assert detail["state"] == "paused" and f"lab resume {run}" in detail["reason"]
            # Whichever write comes first tells it in its own words: a file's, or SQLite's "readonly".
            assert fault in detail["reason"].lower().replace("readonly", "read-only")
            assert detail["arrived"] == []
        store._db.one("PRAGMA query_only = 0")
        assert (await lab.http.post(f"/v1/runs/{run}/resume", headers=lab.admin)).json()["state"] == "running"
        assert (await finish(lab, run, worker))["state"] == "finished"


async def test_a_store_that_is_damaged_fails_the_run_though_it_cannot_say_so_and_resuming_goes_on(
    open_lab, make_experiment
):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        order = trains(worker)[0]
        body, store = await worker.prepare(order), lab.service.runs.store
        with pytest.MonkeyPatch.context() as patch:
            for name in ("accept_update", "set_run_state"):
                patch.setattr(store, name, broken)
            told(await worker.upload(order, body), 500, "corrupt-store")
            await lab.service.turns.submit(nothing)  # after the turn in which it fails
            detail = await lab.detail(run)
            assert detail["state"] == "paused"
            assert detail["reason"].startswith(
                "failed, but that could not be recorded: lab.sqlite is damaged"
            )
        for state in ("failed", "running"):
            resumed = await lab.http.post(f"/v1/runs/{run}/resume", headers=lab.admin)
            assert resumed.json()["state"] == state
        assert (await finish(lab, run, worker))["state"] == "finished"


async def test_a_run_that_meets_damage_with_its_first_order_fails_and_the_next_begins(
    open_lab, make_experiment
):
    async with open_lab() as lab:
        await lab.joined()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lab.service.runs.store, "issue", broken)
            run = await lab.create(make_experiment())
            detail = await lab.ended(run["id"])
            assert (detail["state"], detail["reason"]) == ("failed", "lab.sqlite is damaged")
        assert (await lab.create(make_experiment(seed=2)))["state"] == "initializing"


def broken(*_arguments, **_options):
    raise CorruptStore("lab.sqlite is damaged")


async def test_what_cannot_be_stopped_for_want_of_space_can_be_once_there_is_some(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        queued = (await lab.create(make_experiment(seed=2)))["id"]

        async def stopping(run):
            return await lab.http.post(f"/v1/runs/{run}/stop", headers=lab.admin)

        def no_space(*_arguments, **_options):
            raise StorageFull("no space left for lab.sqlite")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lab.service.runs.store, "set_run_state", no_space)
            assert "no space left" in told(await stopping(queued), 507, "storage-full")
            for _ in range(2):
                assert "stopped, but" in told(await stopping(run), 507, "storage-full")
            assert [view["state"] for view in (await lab.http.get("/v1/runs")).json()] == ["paused", "queued"]
        assert (await stopping(run)).json()["state"] == "stopped"
        assert (await lab.until(queued, lambda detail: detail["state"] != "queued"))[
            "state"
        ] == "initializing"
        assert (await stopping(queued)).json()["state"] == "stopped"
        assert (await lab.create(make_experiment(seed=3)))["state"] == "initializing"


async def test_a_fold_that_meets_a_full_disk_is_done_again_when_resumed(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(rounds={"count": 1}), worker)
        await evaluate_all(worker)
        *others, last = trains(worker)
        for order in others:
            await worker.carry_out(order)
        body = await worker.prepare(last)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pwrite", full)  # the new weights; uploads are written through a map
            assert (await worker.upload(last, body)).status_code == 200
            detail = await lab.until(run, lambda detail: detail["state"] == "paused")
            assert "no space left" in detail["reason"]
        assert (await lab.http.post(f"/v1/runs/{run}/resume", headers=lab.admin)).status_code == 200
        assert (await finish(lab, run, worker))["state"] == "finished"


async def test_a_run_that_finds_no_room_to_begin_waits_for_its_resume(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "mkdir", full)
            run = await lab.create(make_experiment())
            assert run["state"] == "queued"
            feed = await lab.service.runs.feed(run["id"])
            assert "no space left" in next(event.note for event in feed.after(0) if event.kind == "note")
        reply = await lab.http.post(f"/v1/runs/{run['id']}/resume", headers=lab.admin)
        assert reply.json()["state"] == "initializing"
        assert (await finish(lab, run["id"], worker))["state"] == "finished"


async def test_a_run_whose_folder_cannot_be_used_fails_with_the_reason_and_the_next_begins(
    open_lab, make_experiment, tmp_path
):
    async with open_lab() as lab:
        run = (await lab.create(make_experiment()))["id"]
        await lab.create(make_experiment(seed=2))
        stray = tmp_path / "state" / "runs" / run / "weights" / f"{'a' * 64}.safetensors"
        stray.mkdir()
    async with open_lab() as lab:
        views = [(view["state"], view["reason"]) for view in (await lab.http.get("/v1/runs")).json()]
        assert views[0][0] == "failed" and str(stray) in views[0][1]
        assert views[1][0] == "waiting"


@pytest.mark.parametrize("options", [{}, {"start_workers": 2}])
async def test_a_disk_too_full_for_anybody_to_join_is_why_a_run_waits_until_one_can(
    open_lab, make_experiment, options
):
    async with open_lab() as lab:
        store = lab.service.runs.store
        pages = store._db.one("PRAGMA page_count")[0]
        run = (await lab.create(make_experiment(), **options))["id"]
        before = (await lab.detail(run))["reason"]
        store._db.one(f"PRAGMA max_page_count = {pages}")  # SQLite's own limit stands in for the disk's end
        joining, body = {"Authorization": f"Bearer {lab.service.tokens.join}"}, lab.worker().introduction()
        with pytest.raises(StorageFull):
            for number in range(1000):  # the last rows that there is room for
                join = Join.model_validate(body | {"instance": f"{number:032x}"})
                store.put_worker(WorkerRow(f"x{number}", join, "left"))
        feed = await lab.service.runs.feed(run)
        seen = max(event.seq for event in feed.after(0))
        for _ in range(2):
            told(await lab.http.post("/v1/join", json=body, headers=joining), 507, "storage-full")
            detail = await lab.detail(run)
            assert detail["state"] == "waiting" and detail["reason"].startswith(
                "no worker can join: no space"
            )
            assert "lab.sqlite" in detail["reason"] and "free some" in detail["reason"]
            listed = {view["id"]: view for view in (await lab.http.get("/v1/runs")).json()}
            assert listed[run]["reason"] == detail["reason"]
        assert [event.run.reason for event in feed.after(seen) if event.run] == [detail["reason"]]
        store._db.one("PRAGMA max_page_count = 1000000")
        await lab.joined()
        detail = await lab.detail(run)
        if options:
            assert detail["reason"] == before.replace("0 here", "1 here")
            await lab.joined(2)
            detail = await lab.detail(run)
        assert (detail["state"], detail["reason"]) == ("initializing", None)


async def test_a_pinned_node_name_belongs_to_one_live_instance(open_lab):
    pinned = {"examples": 5, "labels": {"cat": 5}}
    async with open_lab() as lab:
        await lab.joined(1, node="pi-1", pinned=pinned)
        second = lab.worker(2, node="pi-1", pinned=pinned)
        headers = {"Authorization": f"Bearer {second.join_token}"}
        detail = told(
            await lab.http.post("/v1/join", json=second.introduction(), headers=headers), 409, "not-possible"
        )
        assert "pi-1" in detail and "w1" in detail
        await lab.joined(3, node="pi-2", pinned=pinned)


async def test_a_corrupt_update_in_the_spool_fails_the_run_with_what_was_found(open_lab, make_experiment):
    async with open_lab() as lab:
        worker = await lab.joined()
        run = await initialized(lab, make_experiment(), worker)
        await evaluate_all(worker)
        orders = trains(worker)
        for order in orders[:-1]:
            await worker.carry_out(order)
        for path in lab.service.runs.live.files.spool.folder.rglob("*.safetensors"):
            path.write_bytes(path.read_bytes()[:-8])
        await worker.carry_out(orders[-1])
        detail = await lab.ended(run)
        assert detail["state"] == "failed" and detail["reason"]
