"""A run in a folder of its own, driven by hand: what the conductor does, without asyncio or HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aggregator import commit
from aggregator.checks import check_initial, check_update, update_groups
from aggregator.events import Close
from aggregator.files import RunFiles
from aggregator.fold import stored_groups
from aggregator.rows import Accepted, EvaluationRow, Taken
from aggregator.spool import Room
from aggregator.store import FILE, Store, open_store
from roundtable.codec import Encoded, encode
from roundtable.experiment import Experiment
from roundtable.messages import Account, Evaluated, Initialized, Personal, RoundRecord
from roundtable.types import Array, ClientId
from roundtable.weights import ArraySpec, Manifest, Weights

RUN = "run-1"

# Two neighbours that are trained, batch statistics and counters between them and a scalar.
MANIFEST = Manifest(
    (
        ArraySpec("kernel", (7, 5)),
        ArraySpec("bias", (5,)),
        ArraySpec("moving_mean", (5,), trainable=False),
        ArraySpec("count", (), "int64", trainable=False),
        ArraySpec("flags", (3,), "uint8", trainable=False),
        ArraySpec("scale", ()),
    )
)


def arrays_like(manifest: Manifest, seed: Sequence[int], scale: float = 1.0) -> Weights:
    """Random weights; small integers where the arrays are integers."""
    draw = np.random.default_rng(list(seed))
    arrays: list[Array] = []
    for spec in manifest.arrays:
        if spec.dtype.startswith("float"):
            arrays.append(np.asarray(scale * draw.standard_normal(spec.shape), spec.dtype))
        else:
            arrays.append(np.asarray(draw.integers(0, 9, spec.shape), spec.dtype))
    return Weights(manifest, tuple(arrays))


def received(files: RunFiles, message: Encoded) -> Room:
    """As an upload of it would leave it."""
    content = b"".join(bytes(buffer) for buffer in message.buffers)
    room = files.spool.open(len(content))
    room.content[:] = content
    return room


class DiskRun:
    """Store and files of one run; every step is the real one."""

    def __init__(self, folder: Path, manifest: Manifest = MANIFEST, **experiment: Any) -> None:
        self.folder, self.manifest = folder, manifest
        self.experiment = Experiment.model_validate(
            {"name": "on-disk", "task": "digits", "clients": {"count": 4}, **experiment}
        )
        self.store: Store = open_store(folder / FILE)
        self.store.create_run(RUN, self.experiment, created=1.0)
        self.files = RunFiles(folder, RUN, durability=self.experiment.keep.durability)
        self.files.prepare()

    def reopen(self) -> None:
        """As after a crash: what memory held is gone."""
        self.store.close()
        self.store = open_store(self.folder / FILE)
        self.files = RunFiles(self.folder, RUN, durability=self.experiment.keep.durability)
        self.files.prepare()
        commit.tidy(self.store, self.files, RUN, starting=True)

    @property
    def groups(self) -> dict[str, Manifest]:
        return update_groups(self.manifest, self.experiment.strategy)

    def initialize(self, weights: Weights | None = None) -> RoundRecord:
        weights = arrays_like(self.manifest, [0]) if weights is None else weights
        initialized = Initialized(
            arrays=self.manifest.arrays,
            task_hash="a" * 64,
            data_hash="b" * 64,
            train_examples=100,
            test_examples=10,
            metrics=("loss", "accuracy"),
        )
        message = encode({"weights": weights}, {"initialized": initialized.model_dump_json()})
        room = received(self.files, message)
        checked = check_initial(room.content)
        self.files.accept_initial(room, checked.digest)
        self.store.accept_initial(RUN, checked.digest, checked.initialized)
        return self.close(0, ())

    def begin(self, round_number: int, cohort: Sequence[ClientId], trial: int = 1) -> None:
        self.store.begin_round(RUN, round_number, trial, cohort, Taken(1.0, 0.0, 0))

    def update(self, round_number: int, client: ClientId) -> dict[str, Weights]:
        """What this client sends in this round: a function of both."""
        return {
            group: arrays_like(manifest, [round_number, client, len(group)], 0.1)
            for group, manifest in self.groups.items()
        }

    def accept(
        self,
        round_number: int,
        client: ClientId,
        groups: Mapping[str, Weights] | None = None,
        trial: int = 1,
        personal: Personal | None = None,
    ) -> Accepted:
        account = Account(
            num_examples=10 * client + 10, num_steps=client + 1, loss=0.5 * client, personal=personal
        )
        groups = self.update(round_number, client) if groups is None else groups
        message = encode(groups, {"account": account.model_dump_json()}, self.experiment.wire)
        room = received(self.files, message)
        checked = check_update(room.content, self.groups, self.experiment.wire)
        self.files.spool.accept(room, (round_number, trial), client, checked.digest)
        accepted = Accepted(
            round=round_number,
            trial=trial,
            client=client,
            digest=checked.digest,
            worker=f"w{client % 2}",
            attempt=1,
            nbytes=checked.nbytes,
            account=checked.account,
            state_digest=checked.state_digest,
            seconds=1.0,
            bytes_down=0,
        )
        self.store.accept_update(RUN, accepted)
        return accepted

    def close(self, round_number: int, participants: Sequence[ClientId], trial: int = 1) -> RoundRecord:
        close = Close(round_number, trial, tuple(participants), (), 0)
        closing = commit.plan_round(self.store, self.files, self.store.run(RUN), close)
        outcome = commit.carry_out(self.files, closing)
        record = commit.commit_round(self.store, closing, outcome, commit.Times(1.0, 3.0, 1.0, 2.0))
        commit.tidy(self.store, self.files, RUN)
        return record

    def run_round(self, round_number: int, clients: Sequence[ClientId] = (0, 1, 2, 3)) -> RoundRecord:
        self.begin(round_number, sorted(clients))
        for client in clients:
            self.accept(round_number, client)
        return self.close(round_number, sorted(clients))

    def evaluate(self, round_number: int, accuracy: float) -> RoundRecord:
        for shard in range(2):
            evaluated = Evaluated(num_examples=10, sums={"loss": 5.0, "accuracy": 10 * accuracy})
            row = EvaluationRow(round_number, -1, shard, "w0", 1, evaluated)
            self.store.accept_evaluation(RUN, row)
        return commit.score(self.store, RUN, round_number)

    def weights(self) -> Weights:
        """After the last committed round."""
        last = self.store.last_commit(RUN)
        assert last is not None
        path = self.files.weights(last.weights)
        return stored_groups(path, {"weights": self.manifest})["weights"]

    def everything(self) -> set[str]:
        """The names of all files of the run, relative to its folder."""
        folder = self.files.folder
        return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
