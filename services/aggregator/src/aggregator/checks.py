"""Uploads are looked at before they count: structure, dtypes, shapes, finite values, account; and hashed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError
from roundtable.codec import Buffer, Wire, content_hash, decode_initial, examine, groups_in
from roundtable.errors import DtypeMismatch, InvalidPayload
from roundtable.faults import faults
from roundtable.layout import Header
from roundtable.messages import Account, Initialized, Message
from roundtable.strategy import Strategy
from roundtable.types import Digest
from roundtable.weights import Manifest

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Checked:
    """What is known of an update once it has been looked at."""

    digest: Digest
    nbytes: int
    account: Account
    header: Header
    state_digest: Digest | None = None  # of its group `state`, as the float32 message that clients will fetch


@dataclass(frozen=True)
class CheckedInitial:
    digest: Digest
    nbytes: int
    initialized: Initialized


def update_groups(manifest: Manifest, strategy: Strategy) -> dict[str, Manifest]:
    """The groups of every update under this strategy."""
    groups = {"update": manifest}
    if strategy.objective.controls:
        groups |= {"broadcast": manifest.trainable, "state": manifest.trainable}
    return groups


def check_update(buffer: Buffer, expected: Mapping[str, Manifest], wire: Wire) -> Checked:
    """Look at an upload where it lies. Raises InvalidPayload and its kin."""
    message = examine(buffer, expected, wire=wire)
    account = _parsed(Account, message.header.metadata, "account")
    if account.num_examples == 0:
        raise InvalidPayload("account.num_examples is 0: an update needs at least one example")
    state = {group: manifest for group, manifest in expected.items() if group == "state"}
    state_digest = content_hash(groups_in(buffer, message.header, state)) if state else None
    return Checked(message.digest, len(buffer), account, message.header, state_digest)


def check_initial(buffer: Buffer) -> CheckedInitial:
    """The same for the reply to an initialize order. Raises InvalidPayload and its kin."""
    message = decode_initial(buffer)
    initialized = _parsed(Initialized, message.metadata, "initialized")
    for position, spec in enumerate(initialized.arrays):
        if spec.dtype == "bool":
            raise DtypeMismatch(f"array {position} ({spec.name}) is bool, which has no mean: use a number")
        if spec.trainable and not spec.dtype.startswith("float"):
            raise DtypeMismatch(f"array {position} ({spec.name}) is {spec.dtype} and trainable: use float32")
    return CheckedInitial(message.digest, len(buffer), initialized)


def _parsed(kind: type[M], metadata: Mapping[str, str], key: str) -> M:
    if key not in metadata:
        raise InvalidPayload(f"metadata `{key}` is missing: send it as JSON")
    try:
        return kind.model_validate_json(metadata[key])
    except ValidationError as error:
        raise InvalidPayload(f"metadata `{key}`: {faults(error, kind)[0]}") from None
