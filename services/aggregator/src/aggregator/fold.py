"""A round's updates become the next weights: block by block, in client order, from files into files.

Only a few blocks are ever in memory: updates, weights and server slots are memory-mapped, results written as
they come. What comes out depends on the files' contents and the order of `inputs` alone, and not on the block
size where aggregation and server work element by element. All arithmetic is float64, all that is stored has
the manifest's dtypes.

- trainable arrays: aggregation.combine, then server.apply with its slots;
- other floating arrays (batch statistics): averaged by aggregation.combine with coefficients that sum to 1,
  then added, without the server optimizer;
- integer arrays (counters): averaged likewise, rounded half to even, then added, wrapping around as
  integers do; the update of an unsigned array is taken as signed, since it may be negative;
- `broadcast`: the uniform mean of the clients' changes, through objective.advance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

import numpy as np
from roundtable.codec import Buffer, Wire, decode, encode, examine, form_of
from roundtable.errors import InvalidPayload, RunFailed
from roundtable.layout import Header
from roundtable.strategy import Strategy
from roundtable.strategy.means import UniformMean
from roundtable.strategy.part import Share
from roundtable.types import Array, ClientId, Digest, Float64
from roundtable.weights import Manifest, Weights

from aggregator.checks import update_groups
from aggregator.disk import Place, failing_disk_is_storage_full
from aggregator.files import RunFiles
from aggregator.tensors import Draft, Mapped, Span, damaged, map_file

BLOCK: Final = 32_768  # elements: the float64 scratch of a block stays in a core's second-level cache


@dataclass(frozen=True)
class Input:
    """One participant's update."""

    client: ClientId
    path: Place
    share: Share
    content: Buffer | None = None  # of the file, where it is in memory
    header: Header | None = None  # read from it before


@dataclass(frozen=True)
class FoldPlan:
    """All that decides a fold's result, and where its inputs are."""

    round: int  # the round that is closed
    manifest: Manifest
    strategy: Strategy
    wire: Wire
    clients: int  # K
    inputs: tuple[Input, ...]  # in client order, at least one
    weights: Path  # before the round
    server: Path | None  # before the round; None: all slots and the broadcast are zero


@dataclass(frozen=True)
class Folded:
    """What the round left in its run's folder, each whole and under its content hash."""

    weights: Digest
    message: Digest  # what clients fetch next; the same as `weights` for float32 without broadcast
    server: Digest | None


def server_groups(manifest: Manifest, strategy: Strategy) -> dict[str, Manifest]:
    """What the aggregator keeps besides the weights: the server's slots, and the broadcast."""
    names = (*strategy.server.slots, *(("broadcast",) if strategy.objective.controls else ()))
    return dict.fromkeys(names, manifest.trainable)


def fold(files: RunFiles, plan: FoldPlan, block: int = BLOCK) -> Folded:
    """Raises StorageFull (nothing is left behind: call it again), CorruptStore for inputs that are missing or
    damaged, RunFailed where the new weights would not be finite."""
    groups = form_of({"weights": plan.manifest})
    kept = server_groups(plan.manifest, plan.strategy)
    with (
        failing_disk_is_storage_full(files.folder),
        Draft(files.temporary("weights"), groups) as weights,
        Draft(files.temporary("server"), kept) if kept else nullcontext() as server,
    ):
        _Fold(plan, weights, server, block).run()
        weights_digest = weights.digest() or digest_of(weights.path, groups)
        server_digest = None
        if server is not None:
            server_digest = server.digest() or digest_of(server.path, kept)
            files.adopt(server.path, "server", server_digest)
        files.adopt(weights.path, "weights", weights_digest)
    message = write_message(files, plan.manifest, plan.strategy, plan.wire, weights_digest, server_digest)
    return Folded(weights_digest, message, server_digest)


def write_message(
    files: RunFiles,
    manifest: Manifest,
    strategy: Strategy,
    wire: Wire,
    weights: Digest,
    server: Digest | None = None,
) -> Digest:
    """What clients fetch with these weights: the checkpoint itself, or a file beside it where the wire is
    float16 or the strategy has a broadcast (zeros before the first round, where there is no `server`)."""
    if wire == "float32" and not strategy.objective.controls:
        return weights
    groups = stored_groups(files.path("weights", weights), {"weights": manifest})
    if strategy.objective.controls:
        groups["broadcast"] = (
            Weights.zeros(manifest.trainable)
            if server is None
            else stored_groups(files.path("server", server), server_groups(manifest, strategy))["broadcast"]
        )
    message = encode(groups, wire=wire)
    files.write("messages", message)
    return message.digest


def extract_states(files: RunFiles, plan: FoldPlan) -> dict[ClientId, Digest]:
    """Each update's group `state` as a message of its own in `states/`; nothing for strategies without.

    What is stored is float32 whatever the wire, so that a client gets back what the aggregator understood.
    """
    states: dict[ClientId, Digest] = {}
    if plan.strategy.objective.controls:
        expected = update_groups(plan.manifest, plan.strategy)
        for part in plan.inputs:
            state = stored_groups(part.path, expected, plan.wire)["state"]
            message = encode({"state": state})
            files.write("states", message)
            states[part.client] = message.digest
    return states


class _Fold:
    """One fold under way: its mapped inputs, its drafts, and a few blocks of scratch, used over and over."""

    def __init__(self, plan: FoldPlan, weights: Draft, server: Draft | None, block: int) -> None:
        self._plan = plan
        expected = form_of(update_groups(plan.manifest, plan.strategy))
        self._updates = [Mapped(part.path, expected, part.content, part.header) for part in plan.inputs]
        self._weights = Mapped(plan.weights, {"weights": plan.manifest})
        kept = server_groups(plan.manifest, plan.strategy)
        self._server = Mapped(plan.server, kept) if kept and plan.server is not None else None
        self._new_weights, self._new_server = weights, server
        aggregation = plan.strategy.aggregation
        shares = [part.share for part in plan.inputs]
        self._coefficients = aggregation.coefficients(shares)
        self._averaging = aggregation.averaging(shares)
        self._block = min(block, max(plan.manifest.size, 1))
        self._result = np.empty(self._block, np.float64)
        self._before = np.empty(self._block, np.float64)
        self._scratch = np.empty((aggregation.scratch_rows(len(plan.inputs)), self._block), np.float64)
        self._slots = {name: np.empty(self._block, np.float64) for name in plan.strategy.server.slots}
        self._finite = np.empty(self._block, np.bool_)

    def run(self) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is seen where it is written
            for run in _runs(self._plan.manifest):
                for part in self._pieces(run):
                    self._fold(part)

    def _fold(self, part: _Run) -> None:
        if np.dtype(part.dtype).kind != "f":
            self._add_integers(part)
        elif part.trained is None:
            self._add(part)
        else:
            self._step(part, part.trained)
            if self._plan.strategy.objective.controls:
                self._advance(part, part.trained)

    def _step(self, part: _Run, trained: Span) -> None:
        """Trainable weights: the server optimizer's step on the aggregated update."""
        weights, updates = self._flat(part)
        before = {name: self._kept(name, trained) for name in self._slots}
        out = np.empty(self._block, part.dtype)
        for block in self._blocks(weights.size):
            change = self._combined(updates, block, self._coefficients)
            slots = {name: _load(kept, block, self._slots[name]) for name, kept in before.items()}
            slots, after = self._plan.strategy.server.apply(
                slots, _load(weights, block, self._before), change, self._plan.round
            )
            self._put(self._new_weights, "weights", part.span, block, after, out)
            for name, slot in slots.items():
                assert self._new_server is not None
                self._put(self._new_server, name, trained, block, slot, out)

    def _add(self, part: _Run) -> None:
        """Batch statistics and the like: the mean, added."""
        weights, updates = self._flat(part)
        out = np.empty(self._block, part.dtype)
        for block in self._blocks(weights.size):
            after = _load(weights, block, self._before)
            after += self._combined(updates, block, self._averaging)
            self._put(self._new_weights, "weights", part.span, block, after, out)

    def _add_integers(self, part: _Run) -> None:
        signed = np.dtype(part.dtype.replace("uint", "int"))
        weights, updates = self._flat(part)
        weights, updates = weights.view(signed), [update.view(signed) for update in updates]
        for block in self._blocks(weights.size):
            change = np.rint(self._combined(updates, block, self._averaging)).astype(signed)
            self._new_weights.write("weights", part.span, block.start, weights[block] + change)

    def _advance(self, part: _Run, trained: Span) -> None:
        """The next broadcast, from the uniform mean of the clients' changes."""
        mean = UniformMean()
        coefficients = mean.coefficients([part.share for part in self._plan.inputs])
        changes = [update.flat("broadcast", trained) for update in self._updates]
        before = self._kept("broadcast", trained)
        out = np.empty(self._block, part.dtype)
        assert self._new_server is not None
        for block in self._blocks(changes[0].size):
            change = mean.combine([part[block] for part in changes], coefficients, *self._room(block))
            after = self._plan.strategy.objective.advance(
                _load(before, block, self._before), change, len(changes), self._plan.clients
            )
            self._put(self._new_server, "broadcast", trained, block, after, out)

    # --- where things are -----------------------------------------------------------------------------------

    def _pieces(self, run: _Run) -> Iterator[_Run]:
        """The run as a whole, where every file has its arrays side by side, as ours have; else one by one."""
        groups = {"update": run.span}
        if run.trained is not None and self._plan.strategy.objective.controls:
            groups["broadcast"] = run.trained
        whole = self._weights.adjoins("weights", run.span) and all(
            update.adjoins(group, span) for update in self._updates for group, span in groups.items()
        )
        return iter([run]) if whole else run.split()

    def _flat(self, part: _Run) -> tuple[Array, list[Array]]:
        """(weights, updates) of these arrays, each [elements]."""
        weights = self._weights.flat("weights", part.span)
        return weights, [update.flat("update", part.span) for update in self._updates]

    def _kept(self, group: str, trained: Span) -> Array | None:
        """A slot or the broadcast before the round: [elements]; None: zeros."""
        return None if self._server is None else self._server.flat(group, trained)

    def _blocks(self, size: int) -> Iterator[slice]:
        return (slice(start, min(start + self._block, size)) for start in range(0, size, self._block))

    # --- one block ------------------------------------------------------------------------------------------

    def _room(self, block: slice) -> tuple[Float64, Float64]:
        length = block.stop - block.start
        return self._result[:length], self._scratch[:, :length]

    def _combined(self, updates: Sequence[Array], block: slice, coefficients: Float64) -> Float64:
        return self._plan.strategy.aggregation.combine(
            [update[block] for update in updates], coefficients, *self._room(block)
        )

    def _put(self, draft: Draft, group: str, span: Span, block: slice, values: Float64, out: Array) -> None:
        """Round to the stored dtype, look, write."""
        out = out[: values.size]
        np.copyto(out, values, casting="same_kind")
        if not np.isfinite(out, out=self._finite[: values.size]).all():
            raise RunFailed(
                f"round {self._plan.round}: the new {group} are not finite:"
                " lower strategy.server.learning_rate or training.learning_rate"
            )
        draft.write(group, span, block.start, out)


@dataclass(frozen=True)
class _Run:
    """Neighbouring arrays that are treated alike. `trained`: their positions among the trainable ones."""

    span: Span
    trained: Span | None
    dtype: str

    def split(self) -> Iterator[_Run]:
        for offset in range(self.span.last - self.span.first + 1):
            at = self.span.first + offset
            trained = (
                None
                if self.trained is None
                else Span(self.trained.first + offset, self.trained.first + offset)
            )
            yield _Run(Span(at, at), trained, self.dtype)


def _runs(manifest: Manifest) -> Iterator[_Run]:
    trained = 0
    treatment = lambda item: (item[1].trainable, item[1].dtype)  # noqa: E731
    for (trainable, dtype), group in groupby(enumerate(manifest.arrays), treatment):
        positions = [position for position, _ in group]
        span = Span(positions[0], positions[-1])
        if trainable:
            yield _Run(span, Span(trained, trained + len(positions) - 1), dtype)
            trained += len(positions)
        else:
            yield _Run(span, None, dtype)


def _load(values: Array | None, block: slice, into: Float64) -> Float64:
    """The block as float64 in scratch; None stands for zeros."""
    room = into[: block.stop - block.start]
    if values is None:
        room.fill(0)
    else:
        np.copyto(room, values[block])
    return room


def stored_groups(
    path: Place, expected: Mapping[str, Manifest], wire: Wire = "float32"
) -> dict[str, Weights]:
    """A stored message's groups, in place. Raises CorruptStore."""
    with _readable(path):
        return decode(map_file(path), expected, wire=wire, finite=False).groups


def digest_of(
    path: Place, expected: Mapping[str, Manifest], wire: Wire = "float32", content: Buffer | None = None
) -> Digest:
    """A stored message's content hash (`content`: its bytes, if they are in memory). Raises CorruptStore."""
    with _readable(path):
        buffer = map_file(path) if content is None else content
        return examine(buffer, expected, wire=wire, finite=False).digest


@contextmanager
def _readable(path: Place) -> Iterator[None]:
    try:
        yield
    except (InvalidPayload, FileNotFoundError) as error:
        raise damaged(path, error) from None
