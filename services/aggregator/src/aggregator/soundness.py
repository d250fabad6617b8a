"""Before a run goes on: are the files that it goes on from what the store says they are? Store thread.

What cannot be replaced stops the run, with what to do. What can be had again is: an accepted update that is
damaged (a machine that lost power while `durability` was "process") is forgotten, and its client asked anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from roundtable.codec import Wire
from roundtable.errors import CorruptStore
from roundtable.types import ClientId, Digest, RunId
from roundtable.weights import Manifest

from aggregator.checks import update_groups
from aggregator.files import Kind, RunFiles
from aggregator.fold import digest_of, server_groups
from aggregator.store import Store


def check_run(store: Store, files: RunFiles, run: RunId) -> list[ClientId]:
    """The clients whose accepted updates of the round under way were damaged, and are forgotten now.

    Raises CorruptStore where the last committed weights, message, server state or a client state is missing
    or damaged; it names the rounds whose weights are still whole.
    """
    row = store.run(run)
    if row.initialized is None:
        return []
    experiment, manifest = row.experiment, row.initialized.manifest
    weights, trained = {"weights": manifest}, manifest.trainable
    last = store.last_commit(run)
    if last is None:
        _check(files, "weights", row.initial, weights)
        return []
    message = weights | ({"broadcast": trained} if experiment.strategy.objective.controls else {})
    try:
        _check(files, "weights", last.weights, weights)
        if last.message != last.weights:
            _check(files, "messages", last.message, message, experiment.wire)
        _check(files, "server", last.server, server_groups(manifest, experiment.strategy))
        for digest in store.client_states(run).values():
            _check(files, "states", digest, {"state": trained})
    except CorruptStore as error:
        usable = whole_rounds(store, files, run, manifest)
        export = (
            f"; the weights of round {', '.join(map(str, usable))} can still be exported" if usable else ""
        )
        raise CorruptStore(f"{error}, then `lab resume {run}`{export}") from None
    return _forget_damaged(store, files, run, update_groups(manifest, experiment.strategy), experiment.wire)


def whole_rounds(store: Store, files: RunFiles, run: RunId, manifest: Manifest) -> list[int]:
    """The committed rounds whose weights are here, with the content hash that they had."""
    return [
        commit.round
        for commit in store.commits(run)
        if is_whole(files.path("weights", commit.weights), commit.weights, {"weights": manifest})
    ]


def _forget_damaged(
    store: Store, files: RunFiles, run: RunId, groups: Mapping[str, Manifest], wire: Wire
) -> list[ClientId]:
    begun = store.open_round(run)
    if begun is None:
        return []
    forgotten = []
    for client, update in store.updates(run, begun.round, begun.trial).items():
        path = files.spool.path((begun.round, begun.trial), client, update.digest)
        if not is_whole(path, update.digest, groups, wire):
            store.forget_update(run, begun.round, begun.trial, client)
            path.unlink(missing_ok=True)
            forgotten.append(client)
    return forgotten


def _check(
    files: RunFiles,
    kind: Kind,
    digest: Digest | None,
    groups: Mapping[str, Manifest],
    wire: Wire = "float32",
) -> None:
    if digest is None:
        return
    path = files.path(kind, digest)
    if digest_of(path, groups, wire) != digest:
        raise CorruptStore(f"{path} is damaged (its content hash is another): put it back from a copy")


def is_whole(path: Path, digest: Digest, groups: Mapping[str, Manifest], wire: Wire = "float32") -> bool:
    """Whether the file is there with this content; from any thread."""
    try:
        return digest_of(path, groups, wire) == digest
    except CorruptStore:
        return False
