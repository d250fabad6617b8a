"""The spool's files as memory: received into, read from, and given to the next upload."""

from __future__ import annotations

from pathlib import Path

import pytest
from aggregator import rooms
from aggregator.rooms import Rooms
from hypothesis import given, settings
from hypothesis import strategies as st


def test_what_is_written_to_a_room_is_in_its_file(tmp_path: Path) -> None:
    room = Rooms(tmp_path).open(tmp_path / "a", 5)
    room[:] = b"hello"
    assert (tmp_path / "a").read_bytes() == b"hello"


def test_a_room_given_back_serves_the_next_upload_and_shows_nothing_of_the_last(
    tmp_path: Path,
) -> None:
    held = Rooms(tmp_path)
    held.open(tmp_path / "a", 100_000)[:] = b"a" * 100_000
    inode = (tmp_path / "a").stat().st_ino
    held.moved(tmp_path / "a", tmp_path / "accepted")  # as files.py renames it
    (tmp_path / "a").rename(tmp_path / "accepted")
    held.give_back(tmp_path / "accepted")
    assert not (tmp_path / "accepted").exists()
    room = held.open(tmp_path / "b", 100_050)
    assert (tmp_path / "b").stat().st_ino == inode
    assert len(room) == (tmp_path / "b").stat().st_size == 100_050
    room[:] = b"b" * 100_050
    assert (tmp_path / "b").read_bytes() == b"b" * 100_050
    assert _content(held, tmp_path / "b") == b"b" * 100_050
    held.cut(tmp_path / "b", 99_000)
    assert _content(held, tmp_path / "b") == (tmp_path / "b").read_bytes() == b"b" * 99_000
    assert held.of(tmp_path / "accepted") is None


def test_a_room_is_never_given_away_while_it_is_in_use(tmp_path: Path) -> None:
    held = Rooms(tmp_path)
    first = held.open(tmp_path / "a", 1000)
    first[:] = b"a" * 1000
    held.open(tmp_path / "b", 1000)[:] = b"b" * 1000
    assert first == b"a" * 1000
    with pytest.raises(FileExistsError):
        held.open(tmp_path / "a", 1000)


@given(sizes=st.lists(st.integers(1, 400_000), min_size=1, max_size=12))
@settings(max_examples=30, deadline=None)
def test_rooms_of_any_sizes_one_after_the_other_hold_exactly_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    held = Rooms(folder)
    for number, size in enumerate(sizes):
        path = folder / f"{number}"
        held.open(path, size)[:] = bytes([number]) * size
        assert path.read_bytes() == bytes([number]) * size == _content(held, path)
        if number % 3:
            held.give_back(path)
    held.close()
    assert not list(folder.glob("*.part"))


def test_rooms_beyond_those_held_are_plain_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "KEPT", 2)
    held = Rooms(tmp_path)
    for number in range(4):
        held.open(tmp_path / f"{number}.part", 1000)[:] = bytes([number]) * 1000
        held.moved(tmp_path / f"{number}.part", tmp_path / f"{number}")
        (tmp_path / f"{number}.part").rename(tmp_path / f"{number}")
    assert [held.of(tmp_path / f"{number}") is not None for number in range(4)] == [
        True,
        True,
        False,
        False,
    ]
    for number in range(4):
        held.give_back(tmp_path / f"{number}")
    assert len(list(tmp_path.iterdir())) == 2  # spare rooms; the others are gone


def test_file_descriptors_do_not_grow_with_the_number_of_uploads(tmp_path: Path) -> None:
    held = Rooms(tmp_path)
    counts = []
    for number in range(20):
        held.open(tmp_path / f"{number}", 1000)
        held.give_back(tmp_path / f"{number}")
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts[-1] == counts[1]


def test_once_closed_nothing_spare_is_left_and_nothing_is_kept(tmp_path: Path) -> None:
    held = Rooms(tmp_path)
    held.open(tmp_path / "a", 1000)
    held.open(tmp_path / "b", 1000)
    held.give_back(tmp_path / "a")
    held.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]
    held.give_back(tmp_path / "b")
    assert not list(tmp_path.iterdir())
    held.give_back(tmp_path / "b")  # absent is fine


def _content(held: Rooms, path: Path) -> bytes:
    room = held.of(path)
    assert room is not None
    return bytes(room.content)
