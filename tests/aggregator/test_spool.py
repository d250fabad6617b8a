"""The spool's files as memory: received into, accepted, read from, and given to the next upload."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from aggregator import spool
from aggregator.rows import Wanted
from aggregator.spool import Room, Spool
from hypothesis import given, settings
from hypothesis import strategies as st
from roundtable.errors import StorageFull

DIGEST = "a" * 64


def fill(held: Spool, content: bytes) -> Room:
    room = held.open(len(content))
    room.content[:] = content
    return room


def wanted(open_: tuple[int, int], *kept: tuple[int, int]) -> Wanted:
    return Wanted((), (), (), (), rounds=kept, open=open_, accepted=())


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_what_is_written_to_a_room_is_in_its_file(tmp_path: Path) -> None:
    room = fill(Spool(tmp_path), b"hello")
    assert Path(room.place).read_bytes() == b"hello"
    assert Path(room.place).parent == tmp_path


def test_accepted_updates_are_named_by_round_trial_and_client_and_none_is_ever_replaced(
    tmp_path: Path,
) -> None:
    held = Spool(tmp_path)
    for number, digest in enumerate(("a" * 64, "b" * 64)):
        held.accept(fill(held, b"%d" % number), (1, 2), 7, digest)
    places = [held.path((1, 2), 7, digest) for digest in ("a" * 64, "b" * 64)]
    assert [place.read_bytes() for place in places] == [b"0", b"1"]
    assert names(tmp_path) == {f"000001.2.000007.{digest}.safetensors" for digest in ("a" * 64, "b" * 64)}


def test_a_room_given_back_serves_the_next_upload_and_shows_nothing_of_the_last(tmp_path: Path) -> None:
    held = Spool(tmp_path)
    first = fill(held, b"a" * 100_000)
    inode = Path(first.place).stat().st_ino
    held.accept(first, (1, 1), 0, DIGEST)
    held.tidy(wanted((2, 1)))
    assert not held.path((1, 1), 0, DIGEST).exists()
    assert held.room(held.place((1, 1), 0, DIGEST)) is None
    room = fill(held, b"b" * 100_050)
    file = Path(room.place)
    assert file.stat().st_ino == inode
    assert file.stat().st_size == len(room.content) == 100_050
    assert file.read_bytes() == b"b" * 100_050


def test_an_upload_is_discarded_unless_it_was_accepted_meanwhile(tmp_path: Path) -> None:
    held = Spool(tmp_path)
    refused, accepted = fill(held, b"a" * 1000), fill(held, b"b" * 1000)
    held.accept(accepted, (1, 1), 0, DIGEST)
    for room in (refused, accepted):
        held.discard(room)
    assert held.path((1, 1), 0, DIGEST).read_bytes() == b"b" * 1000
    assert names(tmp_path) == {f"000001.1.000000.{DIGEST}.safetensors"}
    held.tidy(wanted((2, 1)))
    held.discard(accepted)  # its file is a spare room by now, and no longer its own
    assert len(names(tmp_path)) == 1


def test_an_upload_from_before_a_resume_discards_nothing_of_those_after_it(tmp_path: Path) -> None:
    before = fill(Spool(tmp_path), b"a" * 1000)
    held = Spool(tmp_path)
    held.tidy(wanted((1, 1)), starting=True)
    after = fill(held, b"b" * 1000)
    held.discard(before)
    held.accept(after, (1, 1), 0, DIGEST)
    assert held.path((1, 1), 0, DIGEST).read_bytes() == b"b" * 1000


def test_a_room_whose_file_is_gone_keeps_no_other_from_being_tidied(tmp_path: Path) -> None:
    held = Spool(tmp_path)
    for client in range(4):
        held.accept(fill(held, b"a" * 1000), (1, 1), client, DIGEST)
    held.path((1, 1), 2, DIGEST).unlink()
    held.tidy(wanted((2, 1)))
    held.close()
    assert names(tmp_path) == set()


def test_a_room_is_never_given_away_while_it_is_in_use(tmp_path: Path) -> None:
    held = Spool(tmp_path)
    under_way, accepted, kept = (fill(held, letter * 1000) for letter in (b"a", b"b", b"c"))
    held.accept(kept, (1, 1), 0, DIGEST)
    held.accept(accepted, (2, 1), 0, DIGEST)
    held.tidy(wanted((2, 1), (1, 1)))
    for _ in range(3):
        fill(held, b"x" * 1000)
    assert [bytes(room.content) for room in (under_way, accepted, kept)] == [
        letter * 1000 for letter in (b"a", b"b", b"c")
    ]
    assert held.room(held.place((2, 1), 0, DIGEST)) is accepted
    assert held.room(held.place((1, 1), 0, DIGEST)) is None  # it stays, as a file
    assert held.path((1, 1), 0, DIGEST).read_bytes() == b"c" * 1000


def test_a_file_that_somebody_cut_is_not_read_as_memory(tmp_path: Path) -> None:
    held = Spool(tmp_path)
    held.accept(fill(held, b"a" * 1000), (1, 1), 0, DIGEST)
    os.truncate(held.place((1, 1), 0, DIGEST), 10)
    assert held.room(held.place((1, 1), 0, DIGEST)) is None
    held.path((1, 1), 0, DIGEST).unlink()
    assert held.room(held.place((1, 1), 0, DIGEST)) is None


@given(sizes=st.lists(st.integers(1, 400_000), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_uploads_of_any_sizes_one_after_the_other_hold_exactly_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    held = Spool(folder)
    for number, size in enumerate(sizes):
        content = bytes([number]) * size
        room = fill(held, content)
        held.accept(room, (number, 1), 0, DIGEST)
        assert held.path((number, 1), 0, DIGEST).read_bytes() == content == bytes(room.content)
        if number % 3:
            held.tidy(wanted((number + 1, 1)))
    held.close()
    assert not list(folder.glob("*.part"))


def test_updates_beyond_the_rooms_that_are_held_are_plain_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "KEPT", 2)
    held = Spool(tmp_path)
    for client in range(4):
        held.accept(fill(held, bytes([client]) * 1000), (1, 1), client, DIGEST)
    rooms = [held.room(held.place((1, 1), client, DIGEST)) for client in range(4)]
    assert [room is not None for room in rooms] == [True, True, False, False]
    held.tidy(wanted((2, 1)))
    assert len(list(tmp_path.iterdir())) == 2  # spare rooms; the others are gone


def test_file_descriptors_do_not_grow_with_the_number_of_uploads(tmp_path: Path) -> None:
    held = Spool(tmp_path)
    counts = []
    for number in range(20):
        held.accept(fill(held, b"a" * 1000), (number, 1), 0, DIGEST)
        held.tidy(wanted((number + 1, 1)))
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts[-1] == counts[1]


@pytest.mark.parametrize("spare", [False, True])
def test_no_space_for_an_upload_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spare: bool
) -> None:
    held = Spool(tmp_path)
    if spare:
        held.accept(fill(held, b"a" * 1000), (1, 1), 0, DIGEST)
        held.tidy(wanted((2, 1)))

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StorageFull, match="free some"):
            held.open(1001)
    assert names(tmp_path) == set()
    assert len(held.open(1001).content) == 1001


def test_once_closed_nothing_spare_is_left_and_nothing_is_kept(tmp_path: Path) -> None:
    held = Spool(tmp_path)
    held.accept(fill(held, b"a" * 1000), (1, 1), 0, DIGEST)
    held.accept(fill(held, b"b" * 1000), (2, 1), 0, DIGEST)
    held.tidy(wanted((2, 1)))
    held.close()
    assert names(tmp_path) == {f"000002.1.000000.{DIGEST}.safetensors"}
    held.tidy(wanted((3, 1)))
    assert names(tmp_path) == set()
