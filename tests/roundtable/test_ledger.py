"""A ledger that was touched anywhere is refused, naming where; and anyone can write the same bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from roundtable.errors import CorruptStore
from roundtable.ledger import (
    START,
    LedgerEntry,
    Participation,
    canonical,
    check_chain,
    entry_hash,
    read_entry,
)


def digest(number: int) -> str:
    return f"{number:064x}"


def entry_of(number: int, previous: str, **changes: Any) -> LedgerEntry:
    participants = tuple(
        Participation(client=client, update=digest(client), num_examples=600, num_steps=19)
        for client in range(3)
    )
    fields: dict[str, Any] = {
        "run": "20250102-030405-demo",
        "round": number,
        "participants": participants if number else (),
        "weights_hash": digest(100 + number),
        "message_hash": digest(200 + number),
        "task_hash": digest(1),
        "data_hash": digest(2),
        "experiment": digest(3),
        "previous": previous,
    }
    return LedgerEntry(**{**fields, **changes})


def chain(length: int, **changes: Any) -> list[LedgerEntry]:
    entries: list[LedgerEntry] = []
    for number in range(length):
        previous = entry_hash(entries[-1]) if entries else START
        entries.append(entry_of(number, previous, **changes))
    return entries


class TestCanonicalForm:
    def test_is_what_any_json_writer_makes_with_sorted_keys(self) -> None:
        entry = entry_of(1, START, server_hash=digest(9))
        plain = {
            "run": "20250102-030405-demo",
            "round": 1,
            "trial": 1,
            "participants": [
                {"client": c, "update": digest(c), "num_examples": 600, "num_steps": 19, "state": None}
                for c in range(3)
            ],
            "weights_hash": digest(101),
            "message_hash": digest(201),
            "server_hash": digest(9),
            "task_hash": digest(1),
            "data_hash": digest(2),
            "experiment": digest(3),
            "previous": START,
        }
        written = json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
        assert canonical(entry) == written
        assert entry_hash(entry) == blake3(written).hexdigest()

    def test_does_not_change_from_one_version_of_the_lab_to_the_next(self) -> None:
        assert (
            entry_hash(entry_of(0, START))
            == "cb59c4590b00ebad2084f401656f5da277692bfea2572dc9e77a20c89dcfc640"
        )

    @given(st.integers(0, 2**53 - 1), st.integers(1, 99), st.none() | st.integers(0, 2**256 - 1).map(digest))
    def test_comes_back_as_it_was_written(self, number: int, trial: int, state: str | None) -> None:
        part = Participation(
            client=number % 7, update=digest(5), num_examples=number, num_steps=1, state=state
        )
        entry = entry_of(number, digest(4), trial=trial, participants=(part,), server_hash=state)
        assert read_entry(canonical(entry)) == entry

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"[]",
            b"\xff",
            canonical(entry_of(1, START)) + b"\n",
            canonical(entry_of(1, START))[:-1],
            canonical(entry_of(1, START)).replace(b",", b", "),
            canonical(entry_of(1, START)).replace(b'"round":1', b'"round":1,"round":1'),
            canonical(entry_of(1, START)).replace(b'"round":1', b'"round":1.0'),
            canonical(entry_of(1, START)).replace(b'"round":1', b'"round":-1'),
            canonical(entry_of(1, START)).replace(b'"round":1', b'"rounds":1'),
            canonical(entry_of(1, START)).replace(b'"trial":1,', b""),
            canonical(entry_of(10, START)).replace(digest(110).encode(), digest(110).upper().encode() + b"0"),
            canonical(entry_of(1, START)).replace(b"demo", b"d\\u0065mo"),
        ],
    )
    def test_anything_else_is_a_corrupt_store(self, data: bytes) -> None:
        with pytest.raises(CorruptStore, match="ledger"):
            read_entry(data)

    @pytest.mark.parametrize("run", ["", "a b", 'a"b', "ä", "a/b", "x" * 121])
    def test_names_that_would_need_escapes_are_no_names(self, run: str) -> None:
        with pytest.raises(ValidationError):
            entry_of(0, START, run=run)


class TestChain:
    def test_a_whole_one_gives_its_head(self) -> None:
        entries = chain(4)
        assert (
            check_chain(entries) == entry_hash(entries[-1]) == check_chain(entries, entry_hash(entries[-1]))
        )
        assert check_chain(entries[:1]) == entry_hash(entries[0])

    @given(st.integers(0, 4), st.data())
    def test_a_change_anywhere_is_named_where_it_stops_fitting(self, at: int, data: st.DataObject) -> None:
        entries = chain(5)
        head = entry_hash(entries[-1])
        field = data.draw(
            st.sampled_from(["weights_hash", "message_hash", "server_hash", "trial", "previous"])
        )
        value = 7 if field == "trial" else digest(data.draw(st.integers(2**200, 2**250)))
        entries[at] = entries[at].model_copy(update={field: value})
        if field == "previous":
            named = f"round {at} names"
        else:
            named = f"round {at + 1} names" if at < 4 else "rewritten"
        with pytest.raises(CorruptStore, match=named):
            check_chain(entries, head)

    def test_a_change_of_a_participant_shows(self) -> None:
        entries = chain(3)
        first, *others = entries[1].participants
        changed = first.model_copy(update={"num_examples": 601})
        entries[1] = entries[1].model_copy(update={"participants": (changed, *others)})
        with pytest.raises(CorruptStore, match="round 2 names"):
            check_chain(entries)

    def test_a_past_that_was_rewritten_throughout_shows_against_the_head(self) -> None:
        head = check_chain(chain(3))
        with pytest.raises(CorruptStore, match=f"given out as {head}"):
            check_chain(chain(3, weights_hash=digest(7)), head)

    @pytest.mark.parametrize(
        ("order", "words"),
        [
            ([], "no entries"),
            ([1, 2], "entry 0 is of round 1"),
            ([0, 2], "entry 1 is of round 2"),
            ([0, 1, 1], "entry 2 is of round 1"),
            ([1, 0], "entry 0 is of round 1"),
        ],
    )
    def test_entries_missing_doubled_or_moved_are_named(self, order: list[int], words: str) -> None:
        entries = chain(3)
        with pytest.raises(CorruptStore, match=words):
            check_chain([entries[number] for number in order])

    @pytest.mark.parametrize("field", ["run", "task_hash", "data_hash", "experiment"])
    def test_all_entries_are_of_one_run(self, field: str) -> None:
        entries = chain(1)
        value = "another" if field == "run" else digest(77)
        entries.append(entry_of(1, entry_hash(entries[0]), **{field: value}))
        with pytest.raises(CorruptStore, match=f"round 1 has {field}"):
            check_chain(entries)

    @pytest.mark.parametrize("clients", [[], [1, 0], [2, 2]])
    def test_a_round_has_participants_in_client_order(self, clients: list[int]) -> None:
        entries = chain(1)
        parts = tuple(Participation(client=c, update=digest(c), num_examples=1, num_steps=1) for c in clients)
        entries.append(entry_of(1, entry_hash(entries[0]), participants=parts))
        with pytest.raises(CorruptStore, match=r"round 1 cannot have had the participants \["):
            check_chain(entries)

    def test_the_first_weights_have_no_participants(self) -> None:
        part = Participation(client=0, update=digest(1), num_examples=1, num_steps=1)
        with pytest.raises(CorruptStore, match="round 0 cannot"):
            check_chain([entry_of(0, START, participants=(part,))])
