"""The ledger: what each committed round was made of, chained so that a rewritten past shows.

The aggregator writes one entry a round (round 0: the first weights) and hands the last entry's hash, the
head, to every worker and into the results. An entry's bytes are canonical JSON: the keys in code-point order,
no spaces, whole numbers without sign or leading zeros, `null` for what is absent, and every text printable
ASCII without quotes or backslashes, so that no escape is ever needed. Its hash is BLAKE3 of these bytes in
hexadecimal. Any language that sorts keys writes the same:

    {"data_hash":"…","experiment":"…","message_hash":"…","participants":[{"client":0,"num_examples":6000,
    "num_steps":188,"state":null,"update":"…"},…],"previous":"…","round":1,"run":"…","server_hash":null,
    "task_hash":"…","trial":1,"weights_hash":"…"}        (in one line)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Final

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from roundtable.errors import CorruptStore
from roundtable.types import ClientId, Digest

START: Final[Digest] = "0" * 64  # the `previous` of round 0

Count = Annotated[int, Field(ge=0, lt=2**53)]  # exact in every JSON reader
Hash = Annotated[Digest, Field(pattern=r"^[0-9a-f]{64}$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Participation(_Record):
    """One client's part in a round."""

    client: Annotated[ClientId, Field(ge=0)]
    update: Hash  # content hash of the update as it went over the wire
    num_examples: Count
    num_steps: Count
    state: Hash | None = None  # the client's own state after the round, with strategies that keep one


class LedgerEntry(_Record):
    """One committed round."""

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,120}$")]
    round: Count
    trial: Annotated[int, Field(ge=1, lt=2**53)] = 1  # which sample of the round was committed
    participants: Annotated[
        tuple[Participation, ...], Field(strict=False)
    ] = ()  # in client order: that of the fold
    weights_hash: Hash  # of the float32 global weights after the round
    message_hash: (
        Hash  # of what went on the wire with them: group `broadcast` too, and rounded to the wire's dtype
    )
    server_hash: Hash | None = None  # the server optimizer's slots, where it has any
    task_hash: Hash
    data_hash: Hash
    experiment: Hash  # Experiment.digest
    previous: Hash  # entry_hash of the round before; START for round 0


def canonical(entry: LedgerEntry) -> bytes:
    """The bytes that are kept and hashed."""
    return json.dumps(entry.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def entry_hash(entry: LedgerEntry) -> Digest:
    return hash_of(canonical(entry))


def hash_of(written: bytes) -> Digest:
    """An entry's hash, from its canonical bytes."""
    return blake3(written).hexdigest()


def read_entry(data: bytes) -> LedgerEntry:
    """The inverse of `canonical`. Raises CorruptStore where `data` is anything else."""
    try:
        entry = LedgerEntry.model_validate_json(data)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in fault["loc"]) or "the entry"
        raise CorruptStore(f"a ledger entry cannot be read: {where}: {fault['msg']}") from None
    if canonical(entry) != data:
        raise CorruptStore(
            f"the ledger's entry of round {entry.round} is not in canonical form: it was not written by us"
        )
    return entry


def check_chain(entries: Sequence[LedgerEntry], head: Digest | None = None) -> Digest:
    """The head of `entries`, all of one run's from round 0 on.

    `head`, where one is known from elsewhere (result.json, a worker's log), is what the last entry must hash
    to: the chain alone cannot show a change of its last entry.
    Raises CorruptStore naming the first entry that does not fit.
    """
    if not entries:
        raise CorruptStore("the ledger has no entries: the run has no committed weights")
    previous = START
    for number, entry in enumerate(entries):
        if entry.round != number:
            raise CorruptStore(
                f"the ledger's entry {number} is of round {entry.round}: an entry is missing or doubled"
            )
        for field in ("run", "task_hash", "data_hash", "experiment"):
            if (found := getattr(entry, field)) != (first := getattr(entries[0], field)):
                raise CorruptStore(f"the ledger's round {number} has {field} {found}, round 0 has {first}")
        if entry.previous != previous:
            before = f"round {number - 1} hashes to {previous}" if number else "round 0 has none before it"
            raise CorruptStore(f"the ledger's round {number} names {entry.previous} before it, but {before}")
        clients = [part.client for part in entry.participants]
        if clients != sorted(set(clients)) or bool(clients) != bool(number):
            raise CorruptStore(f"the ledger's round {number} cannot have had the participants {clients}")
        previous = entry_hash(entry)
    if head is not None and head != previous:
        raise CorruptStore(
            f"the ledger ends in {previous}, but its head was given out as {head}: it was rewritten"
        )
    return previous
