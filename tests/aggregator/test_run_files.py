"""The run folder: whole files under names that mean something, checked uploads, what goes and what stays."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aggregator import commit, soundness
from aggregator.checks import check_initial, check_update
from aggregator.files import RunFiles
from aggregator.spool import Room
from roundtable.codec import content_hash, encode
from roundtable.errors import (
    CorruptStore,
    DtypeMismatch,
    InvalidPayload,
    NotFinite,
    ShapeMismatch,
    StorageFull,
    TooLarge,
    Truncated,
    Unknown,
)
from roundtable.weights import ArraySpec, Manifest, Weights

from tests.aggregator.on_disk import MANIFEST, RUN, DiskRun, arrays_like

ACCOUNT = json.dumps({"num_examples": 3, "num_steps": 1})


def upload(groups: dict[str, Weights], metadata: dict[str, str], wire: Any = "float32") -> bytes:
    return b"".join(bytes(buffer) for buffer in encode(groups, metadata, wire).buffers)


# --- checks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_a_good_update_is_known_by_its_hash_and_account(wire: Any) -> None:
    update = arrays_like(MANIFEST, [1])
    body = upload({"update": update}, {"account": ACCOUNT}, wire)
    checked = check_update(body, {"update": MANIFEST}, wire)
    assert checked.digest == encode({"update": update}, {}, wire).digest
    assert checked.nbytes == len(body)
    assert (checked.account.num_examples, checked.account.num_steps) == (3, 1)
    assert checked.state_digest is None


def test_a_state_is_known_by_the_hash_that_its_own_message_will_have() -> None:
    trained = MANIFEST.trainable
    groups = {
        "update": arrays_like(MANIFEST, [1]),
        "broadcast": arrays_like(trained, [2]),
        "state": arrays_like(trained, [3]),
    }
    body = upload(groups, {"account": ACCOUNT})
    expected = {"update": MANIFEST, "broadcast": trained, "state": trained}
    assert check_update(body, expected, "float32").state_digest == content_hash({"state": groups["state"]})


def _spoilt(value: float) -> Weights:
    update = arrays_like(MANIFEST, [1])
    update.arrays[0][3, 3] = value
    return update


SCALAR = Manifest((ArraySpec("scale", ()),))


@pytest.mark.parametrize(
    ("groups", "metadata", "error", "line"),
    [
        ({"update": _spoilt(np.nan)}, {"account": ACCOUNT}, NotFinite, "update/0000/kernel"),
        ({"update": _spoilt(-np.inf)}, {"account": ACCOUNT}, NotFinite, "update/0000/kernel"),
        ({"update": arrays_like(SCALAR, [1])}, {"account": ACCOUNT}, ShapeMismatch, "scale"),
        ({"weights": arrays_like(MANIFEST, [1])}, {"account": ACCOUNT}, ShapeMismatch, "weights/0000/kernel"),
        ({"update": arrays_like(MANIFEST, [1])}, {}, InvalidPayload, "`account` is missing"),
        ({"update": arrays_like(MANIFEST, [1])}, {"account": "{"}, InvalidPayload, "`account`"),
        (
            {"update": arrays_like(MANIFEST, [1])},
            {"account": '{"num_examples": -1, "num_steps": 0}'},
            InvalidPayload,
            "num_examples",
        ),
        (
            {"update": arrays_like(MANIFEST, [1])},
            {"account": '{"num_examples": 0, "num_steps": 0}'},
            InvalidPayload,
            "at least one example",
        ),
    ],
)
def test_a_bad_update_is_refused_in_one_line(
    groups: dict[str, Weights], metadata: dict[str, str], error: type[Exception], line: str
) -> None:
    with pytest.raises(error, match=line) as caught:
        check_update(upload(groups, metadata), {"update": MANIFEST}, "float32")
    assert "\n" not in str(caught.value)


def test_float16_where_float32_was_agreed_is_refused() -> None:
    body = upload({"update": arrays_like(MANIFEST, [1])}, {"account": ACCOUNT}, "float16")
    with pytest.raises(DtypeMismatch):
        check_update(body, {"update": MANIFEST}, "float32")


def test_uploads_cut_short_or_too_long_are_refused_at_every_length() -> None:
    body = upload({"update": arrays_like(SCALAR, [1])}, {"account": ACCOUNT})
    for length in range(len(body)):
        with pytest.raises(Truncated):
            check_update(body[:length], {"update": SCALAR}, "float32")
    with pytest.raises(TooLarge):
        check_update(body + b"\0", {"update": SCALAR}, "float32")


@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_first_weights_that_cannot_be_averaged_are_refused(dtype: str) -> None:
    manifest = Manifest((ArraySpec("mask", (2,), dtype, trainable=dtype != "bool"),))
    initialized = {
        "arrays": [{"name": "mask", "shape": [2], "dtype": dtype, "trainable": dtype != "bool"}],
        "task_hash": "a" * 64,
        "data_hash": "b" * 64,
        "train_examples": 1,
        "test_examples": 1,
        "metrics": [],
    }
    body = upload({"weights": Weights.zeros(manifest)}, {"initialized": json.dumps(initialized)})
    with pytest.raises(DtypeMismatch, match="mask"):
        check_initial(body)


@pytest.mark.parametrize("field", ["task_hash", "data_hash"])
@pytest.mark.parametrize("value", ["x", "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_a_hash_that_no_ledger_entry_can_have_is_refused_with_the_first_weights(
    field: str, value: str
) -> None:
    initialized = {
        "arrays": [{"name": "scale", "shape": [], "dtype": "float32", "trainable": True}],
        "task_hash": "a" * 64,
        "data_hash": "b" * 64,
        "train_examples": 1,
        "test_examples": 1,
        "metrics": [],
        field: value,
    }
    body = upload({"weights": Weights.zeros(SCALAR)}, {"initialized": json.dumps(initialized)})
    allowed = f"metadata `initialized`: {field}: found .*; allowed: 64 lower-case hexadecimal digits"
    with pytest.raises(InvalidPayload, match=allowed) as caught:
        check_initial(body)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["num_examples", "num_steps"])
def test_a_count_that_no_ledger_entry_can_have_is_refused_with_the_update(field: str) -> None:
    account = json.dumps({"num_examples": 1, "num_steps": 1, field: 2**53})
    with pytest.raises(InvalidPayload, match=f"account`: {field}: found {2**53}"):
        check_update(
            upload({"update": Weights.zeros(SCALAR)}, {"account": account}), {"update": SCALAR}, "float32"
        )


# --- moving -----------------------------------------------------------------------------------------------


def room_with(run: RunFiles, content: bytes) -> Room:
    room = run.spool.open(len(content))
    room.content[:] = content
    return room


@pytest.mark.parametrize("digest", ["../lab", "", "A" * 64, "a" * 63, "a" * 64 + "/x"])
def test_a_digest_from_outside_must_look_like_one(tmp_path: Path, digest: str) -> None:
    run = RunFiles(tmp_path, RUN)
    run.prepare()
    for look in (run.weights, run.message, run.state):
        with pytest.raises(Unknown):
            look(digest)


def test_the_spool_may_be_elsewhere_and_even_on_another_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFiles(tmp_path / "state", RUN, spool_dir=tmp_path / "spool", durability="power")
    run.prepare()
    room = room_with(run, b"weights")
    part = Path(room.place)
    assert part.parent == tmp_path / "spool" / RUN
    real = os.rename

    def across(source: str | Path, target: str | Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "rename", across)
    place = run.accept_initial(room, "c" * 64)
    assert place.read_bytes() == b"weights"
    assert place.parent == tmp_path / "state" / "runs" / RUN / "weights"
    assert not part.exists()


def test_power_durability_syncs_the_file_before_and_the_folder_after_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFiles(tmp_path, RUN, durability="power")
    run.prepare()
    seen: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(file: int) -> None:
        seen.append(f"sync {Path(f'/proc/self/fd/{file}').readlink().name}")
        real_fsync(file)

    def rename(source: str, target: str) -> None:
        seen.append("rename")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    room = room_with(run, b"x")
    part = Path(room.place)
    run.spool.accept(room, (1, 1), 0, "d" * 64)
    assert seen == [f"sync {part.name}", "rename", "sync spool"]

    seen.clear()
    relaxed = RunFiles(tmp_path, RUN)
    relaxed.spool.accept(room_with(relaxed, b"x"), (1, 1), 1, "e" * 64)
    assert seen == ["rename"]


# --- full disks -------------------------------------------------------------------------------------------


def _fold_within_limit(run: DiskRun) -> None:
    """Files may not grow past half of what the new weights need: the system's own error, in mid-write."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
    try:
        run.close(1, range(4))
    except StorageFull as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        left = [name for name in run.everything() if name.endswith(".part")]
        run.close(1, range(4))
        os._exit(0 if not left and "resume" in str(error) else 2)
    os._exit(3)


def test_a_file_system_that_is_really_full_pauses_and_loses_nothing(tmp_path: Path) -> None:
    manifest = Manifest((ArraySpec("kernel", (75_000,)),))
    run = DiskRun(tmp_path, manifest)
    run.initialize()
    run.begin(1, range(4))
    for client in range(4):
        run.accept(1, client)
    process = multiprocessing.get_context("fork").Process(target=_fold_within_limit, args=(run,))
    process.start()
    process.join(30)
    assert process.exitcode == 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_whatever_the_system_calls_a_full_or_failing_disk_is_storage_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    run = RunFiles(tmp_path, RUN)
    run.prepare()
    room = room_with(run, b"x")

    def full(*_: str) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(StorageFull, match="nothing accepted is lost"):
            run.spool.accept(room, (1, 1), 0, "a" * 64)
    run.spool.accept(room, (1, 1), 0, "a" * 64)
    assert run.spool.path((1, 1), 0, "a" * 64).read_bytes() == b"x"


# --- what goes and what stays -----------------------------------------------------------------------------


def test_by_default_the_latest_two_and_the_best_weights_stay_and_no_updates(tmp_path: Path) -> None:
    run = DiskRun(tmp_path)
    hashes = [run.initialize().weights_hash]
    for number, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7), (4, 0.8), (5, 0.9)):
        hashes.append(run.run_round(number).weights_hash)
        run.evaluate(number, accuracy)
    commit.tidy(run.store, run.files, RUN)
    run.files.let_go()
    assert set(run.files.kept("weights")) == {hashes[2], hashes[4], hashes[5]}
    assert not [name for name in run.everything() if name.startswith("spool")]


def test_every_nth_checkpoint_stays_when_asked_for(tmp_path: Path) -> None:
    run = DiskRun(tmp_path, keep={"checkpoint_every": 3})
    hashes = [run.initialize().weights_hash] + [run.run_round(number).weights_hash for number in range(1, 9)]
    assert set(run.files.kept("weights")) == {hashes[3], hashes[6], hashes[7], hashes[8]}


@pytest.mark.parametrize(("policy", "first"), [("none", 6), ("last:2", 4), ("last:50", 1), ("all", 1)])
def test_updates_stay_as_long_as_the_policy_says_with_what_they_were_folded_into(
    tmp_path: Path, policy: str, first: int
) -> None:
    run = DiskRun(tmp_path, keep={"updates": policy}, strategy={"server": {"momentum": 0.9}})
    hashes = [run.initialize().weights_hash] + [run.run_round(number).weights_hash for number in range(1, 6)]
    run.files.let_go()
    spooled = {name.split("/")[1][:8] for name in run.everything() if name.startswith("spool")}
    assert spooled == {f"{number:06d}.1" for number in range(first, 6)}
    assert set(hashes[max(first - 1, 0) :]) <= set(run.files.kept("weights"))
    slots = {row.server for row in run.store.commits(RUN)[max(first - 1, 0) :]} - {None}
    assert slots <= set(run.files.kept("server"))
    assert len(run.files.kept("server")) == len(slots) or policy == "none"


def test_tidying_while_uploads_come_in_touches_none_of_them(tmp_path: Path) -> None:
    run = DiskRun(tmp_path)
    run.initialize()
    run.run_round(1)
    wanted = run.store.wanted(RUN, run.store.run(RUN).experiment.keep)
    under_way = Path(room_with(run.files, b"half").place)
    run.begin(2, [0])
    accepted = run.accept(2, 0)
    run.files.tidy(wanted)  # decided before these two came in
    assert under_way.exists()
    assert run.files.spool.path((2, 1), 0, accepted.digest).exists()


def test_a_start_removes_what_a_crash_left_and_nothing_that_counts(tmp_path: Path) -> None:
    run = DiskRun(tmp_path, strategy={"objective": {"name": "control-variates"}})
    run.initialize()
    run.run_round(1)
    run.begin(2, range(4), trial=1)
    run.accept(2, 0, trial=1)
    run.begin(2, range(4), trial=2)
    run.accept(2, 0, trial=2)
    gone = ("spool/000002.1", f"spool/{os.getpid()}")  # another trial, spare rooms
    counts = {name for name in run.everything() if not name.startswith(gone)}
    orphans = [
        run.files.spool.folder / "4711.0.part",
        run.files.temporary("weights"),
        run.files.path("weights", "1" * 64),
        run.files.path("states", "2" * 64),
        run.files.spool.path((2, 2), 3, "3" * 64),
        run.files.spool.path((2, 2), 0, "4" * 64),
        run.files.spool.path((7, 1), 0, "5" * 64),
    ]
    for orphan in orphans:
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"left over")
    run.reopen()
    assert run.everything() == counts


@pytest.mark.parametrize("step", ["spooled", "folded", "states", "committed"])
def test_a_crash_between_any_two_steps_ends_in_the_same_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    strategy = {"objective": {"name": "control-variates"}, "server": {"momentum": 0.5}}
    undisturbed, run = DiskRun(tmp_path / "a", strategy=strategy), DiskRun(tmp_path / "b", strategy=strategy)
    for each in (undisturbed, run):
        each.initialize()
        each.run_round(1)
    expected = undisturbed.run_round(2)

    class CrashedError(BaseException):
        pass

    def crash(*_: object, **__: object) -> None:
        raise CrashedError

    place = {
        "spooled": (type(run.store), "accept_update"),
        "folded": (commit, "extract_states"),
        "states": (commit, "commit_round"),
        "committed": (commit, "tidy"),
    }[step]
    with monkeypatch.context() as patch:
        patch.setattr(*place, crash)
        with pytest.raises(CrashedError):
            run.run_round(2, (3, 1, 0, 2))
    run.reopen()
    if step != "committed":
        for client in range(4):
            if client not in run.store.updates(RUN, 2, 1):
                run.accept(2, client)
        run.close(2, range(4))
    last = run.store.last_commit(RUN)
    assert last is not None
    assert (last.round, last.entry_hash, last.weights) == (2, expected.entry_hash, expected.weights_hash)
    assert run.run_round(3).entry_hash == undisturbed.run_round(3).entry_hash
    for each in (undisturbed, run):
        each.files.let_go()  # spare rooms, which a crash takes away
    assert run.everything() == undisturbed.everything()


# --- before a run goes on ---------------------------------------------------------------------------------


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
@pytest.mark.parametrize("kind", ["weights", "messages", "server", "states"])
def test_a_damaged_checkpoint_is_refused_with_what_to_do_and_what_is_still_usable(
    tmp_path: Path, kind: Any, damage: str
) -> None:
    run = DiskRun(
        tmp_path,
        keep={"checkpoint_every": 1},
        strategy={"objective": {"name": "control-variates"}, "server": {"momentum": 0.5}},
    )
    run.initialize()
    for number in (1, 2):
        run.run_round(number)
    assert soundness.check_run(run.store, run.files, RUN) == []
    last = run.store.last_commit(RUN)
    assert last is not None
    digest = {"weights": last.weights, "messages": last.message, "server": last.server}.get(
        kind, run.store.client_states(RUN)[2]
    )
    assert digest is not None
    path = run.files.path(kind, digest)
    if damage == "flip":
        _flip(path)
    elif damage == "cut":
        os.truncate(path, 100)
    else:
        path.unlink()
    usable = "1" if kind == "weights" else "1, 2"
    with pytest.raises(
        CorruptStore, match=rf"{digest}.*put it back from a copy.*lab resume.*round {usable} can still"
    ):
        soundness.check_run(run.store, run.files, RUN)


def test_a_damaged_update_of_the_round_under_way_is_asked_for_again(tmp_path: Path) -> None:
    run = DiskRun(tmp_path)
    run.initialize()
    run.begin(1, range(4))
    for client in range(4):
        run.accept(1, client)
    updates = run.store.updates(RUN, 1, 1)
    _flip(run.files.spool.path((1, 1), 2, updates[2].digest))
    run.files.spool.path((1, 1), 3, updates[3].digest).unlink()
    assert soundness.check_run(run.store, run.files, RUN) == [2, 3]
    assert set(run.store.updates(RUN, 1, 1)) == {0, 1}
    run.accept(1, 2)
    run.accept(1, 3)
    undisturbed = DiskRun(tmp_path / "undisturbed")
    undisturbed.initialize()
    assert run.close(1, range(4)).weights_hash == undisturbed.run_round(1).weights_hash
