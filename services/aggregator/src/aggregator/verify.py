"""`python -m aggregator.verify RUN --state-dir DIR`: is a run what its ledger says it is?

Checks the ledger's chain always, the run's experiment, task and data against it, every kept file against its
content hash, and folds each round again whose updates and starting point were kept, comparing the bits.
Scores (accuracy, loss, metrics) are no part of the ledger: they are added up again from the evaluations in
the store, which nothing else vouches for. Reads only (what it folds goes to a temporary folder), so it may
run beside the aggregator. Exit code 0: everything holds; 1: something does not, and the report says what,
and what to do; 3: nothing is committed yet, which is one line on stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from roundtable.codec import Wire
from roundtable.errors import CorruptStore, NotPossible, RoundtableError
from roundtable.ledger import LedgerEntry, check_chain, entry_hash, read_entry
from roundtable.messages import Initialized
from roundtable.types import ClientId, Digest, RunId
from roundtable.weights import Manifest

from aggregator.checks import update_groups
from aggregator.commit import fold_plan, scored
from aggregator.disk import allow_files
from aggregator.files import Kind, RunFiles
from aggregator.fold import digest_of, extract_states, fold, server_groups
from aggregator.rows import Accepted, CommitRow, RunRow
from aggregator.store import FILE, Store, read_store


@dataclass(frozen=True)
class Checkpoint:
    """Weights that are there and whole; `lab export RUN --round N` takes them."""

    round: int
    weights: Digest
    path: str


@dataclass
class Report:
    run: RunId
    rounds: int = 0  # last committed; 0 is the first weights
    head: Digest | None = None
    files: int = 0  # compared with their hashes
    folded: list[int] = field(default_factory=list)  # rounds that were recomputed, with the same result
    usable: list[Checkpoint] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # what was found, and what to do; one line each

    @property
    def holds(self) -> bool:
        return not self.problems


def verify(
    state_dir: Path, run: RunId, *, spool_dir: Path | None = None, head: Digest | None = None
) -> Report:
    """`head` is what somebody else was told the ledger ends in (result.json, a worker), where known.

    Raises NotPossible for a run without a committed round: it has nothing to verify.
    """
    report = Report(run)
    try:
        store = read_store(state_dir / FILE)
        try:
            _Look(store, RunFiles(state_dir, run, spool_dir=spool_dir), report).at_everything(head)
        finally:
            store.close()
    except NotPossible:
        raise
    except RoundtableError as error:
        report.problems.append(str(error))
    return report


class _Look:
    """One verification under way, adding to its report."""

    def __init__(self, store: Store, files: RunFiles, report: Report) -> None:
        self._store, self._files, self._report = store, files, report
        self._row: RunRow = store.run(report.run)
        self._commits: list[CommitRow] = store.commits(report.run)
        self._whole: dict[Kind, set[Digest]] = {
            "weights": set(),
            "messages": set(),
            "server": set(),
            "states": set(),
        }
        self._updates: dict[
            int, dict[ClientId, Accepted]
        ] = {}  # of rounds whose updates are all there and whole

    def at_everything(self, head: Digest | None) -> None:
        known, state = self._row.initialized, self._row.state
        if not self._commits and self._row.first_order is None and head is None:
            raise NotPossible(f"run {self._row.id} ({state}) has no committed round: nothing to verify")
        if not self._commits or known is None:
            self._fault(f"the run is {state}, but its weights are not in the store: start the run anew")
            return
        entries = self._chain(head)
        if entries:
            self._what_was_run(known, entries[0])
        self._stored_files(known)
        self._needed_files()
        self._spool(known)
        for commit in self._commits:
            if commit.weights in self._whole["weights"]:
                path = str(self._files.path("weights", commit.weights))
                self._report.usable.append(Checkpoint(commit.round, commit.weights, path))
        for entry in entries[1:]:
            if entry.round in self._updates:
                self._refold(known, entry, self._updates[entry.round])
        for commit in self._commits:
            self._scores(commit)

    def _fault(self, line: str) -> None:
        self._report.problems.append(line)

    def _chain(self, head: Digest | None) -> list[LedgerEntry]:
        """The ledger's entries; none where one cannot be read."""
        try:
            entries = [read_entry(commit.entry.encode()) for commit in self._commits]
        except RoundtableError as error:
            self._fault(f"{error}: start the run anew")
            return []
        self._report.rounds = entries[-1].round
        try:
            self._report.head = check_chain(entries, head)
        except RoundtableError as error:
            self._fault(f"{error}: the results after that point cannot be trusted; start the run anew")
        for commit, entry in zip(self._commits, entries, strict=True):
            said = (entry.round, entry.trial, entry.weights_hash, entry.message_hash, entry.server_hash)
            if said != (commit.round, commit.trial, commit.weights, commit.message, commit.server):
                self._fault(
                    f"round {commit.round}: the store names other files than the ledger: start the run anew"
                )
            if commit.entry_hash != entry_hash(entry):
                self._fault(
                    f"round {commit.round}: its ledger entry has another hash than it had: start the run anew"
                )
            record = commit.record
            told = (record.entry_hash, record.weights_hash, record.participants)
            if told != (commit.entry_hash, commit.weights, tuple(part.client for part in entry.participants)):
                self._fault(f"round {commit.round}: its record contradicts the ledger: start the run anew")
        return entries

    def _what_was_run(self, known: Initialized, entry: LedgerEntry) -> None:
        """Any entry will do: along the chain these do not change."""
        for name, found, said in (
            ("id", self._row.id, entry.run),
            ("experiment", self._row.experiment.digest, entry.experiment),
            ("task source", known.task_hash, entry.task_hash),
            ("data set", known.data_hash, entry.data_hash),
        ):
            if found != said:
                self._fault(
                    f"the run's {name} is {found} in the store, {said} in the ledger: rewritten, or read by"
                    " another version; start the run anew"
                )

    def _scores(self, commit: CommitRow) -> None:
        """A round without its scores yet has to be without any."""
        rows = self._store.evaluations(self._row.id, commit.round) if commit.scored else []
        record = scored(commit.record, rows)
        if (record, record.accuracy) != (commit.record, commit.accuracy):
            self._fault(
                f"round {commit.round}: its evaluations add up to other scores (accuracy {record.accuracy})"
                " than it has: start the run anew"
            )

    def _stored_files(self, known: Initialized) -> None:
        experiment, manifest = self._row.experiment, known.manifest
        weights = {"weights": manifest}
        trained = manifest.trainable
        broadcast = {"broadcast": trained} if experiment.strategy.objective.controls else {}
        kinds: Mapping[Kind, tuple[dict[str, Manifest], Wire]] = {
            "weights": (weights, "float32"),
            "messages": (weights | broadcast, experiment.wire),
            "server": (server_groups(manifest, experiment.strategy), "float32"),
            "states": ({"state": trained}, "float32"),
        }
        for kind, (groups, wire) in kinds.items():
            for digest in self._files.kept(kind):
                path = self._files.path(kind, digest)
                if self._matches(path, digest, groups, wire):
                    self._whole[kind].add(digest)

    def _missing(self) -> set[Path]:
        """What the run cannot go on without, and is not there."""
        last = self._store.last_commit(self._row.id) or self._commits[-1]
        needed: list[tuple[Kind, Digest]] = [("weights", last.weights)]
        if last.message != last.weights:
            needed.append(("messages", last.message))
        if last.server is not None:
            needed.append(("server", last.server))
        needed += [("states", digest) for digest in self._store.client_states(self._row.id).values()]
        paths = {self._files.path(kind, digest) for kind, digest in needed}
        return {path for path in paths if not path.exists()}

    def _needed_files(self) -> None:
        # Twice: an aggregator may have moved on, and removed a file, between the store's answer and the look.
        for path in sorted(self._missing() & self._missing()):
            self._fault(f"{path} is missing: the run cannot go on; put it back from a copy, or start it anew")

    def _spool(self, known: Initialized) -> None:
        """Accepted updates: all of the round under way, and of the rounds that the policy keeps."""
        run, experiment = self._row.id, self._row.experiment
        groups = update_groups(known.manifest, experiment.strategy)
        wanted = self._store.wanted(run, experiment.keep)
        for round_number, trial in sorted({*wanted.rounds, wanted.open}):
            updates = self._store.updates(run, round_number, trial)
            whole = {}
            for client, update in updates.items():
                path = self._files.spool.path((round_number, trial), client, update.digest)
                if self._matches(path, update.digest, groups, experiment.wire):
                    whole[client] = update
                elif not path.exists() and self._still_needs(round_number, trial):
                    self._fault(f"{path} is missing: put it back from a copy, or start the run anew")
            if len(whole) == len(updates):
                self._updates[round_number] = whole

    def _still_needs(self, round_number: int, trial: int) -> bool:
        """Asked again, since an aggregator may have committed, tried anew or tidied meanwhile."""
        wanted = self._store.wanted(self._row.id, self._row.experiment.keep)
        return (round_number, trial) in {*wanted.rounds, wanted.open}

    def _matches(self, path: Path, digest: Digest, groups: Mapping[str, Manifest], wire: Wire) -> bool:
        """False, without a word, for a missing file too: an aggregator may have removed it since it was
        listed, or, in the spool, used it for another upload (hence no memory map there: it might shrink)."""
        try:
            content = path.read_bytes() if self._files.spool.folder in path.parents else None
            found = digest_of(path, groups, wire, content)
        except (FileNotFoundError, RoundtableError) as error:
            if path.exists():
                self._fault(str(error))
            return False
        if found != digest and not path.exists():
            return False
        self._report.files += 1
        if found != digest:
            self._fault(
                f"{path} has the content hash {found}: it was changed; put it back from a copy, or delete it"
            )
        return found == digest

    def _refold(self, known: Initialized, entry: LedgerEntry, updates: Mapping[ClientId, Accepted]) -> None:
        """Fold the round again, where its starting point is there too."""
        before = self._commits[entry.round - 1]
        if before.weights not in self._whole["weights"]:
            return
        if before.server is not None and before.server not in self._whole["server"]:
            return
        accepted = {
            part.client: updates[part.client] for part in entry.participants if part.client in updates
        }
        said = [(part.client, part.update, part.num_examples, part.num_steps) for part in entry.participants]
        kept = [
            (client, update.digest, update.account.num_examples, update.account.num_steps)
            for client, update in accepted.items()
        ]
        if said != kept:
            self._fault(
                f"round {entry.round}: the updates kept are not those in the ledger: start the run anew"
            )
            return
        plan = fold_plan(
            self._files, self._row, known, entry.round, entry.trial, accepted, before.weights, before.server
        )
        try:
            with tempfile.TemporaryDirectory(prefix="roundtable-verify-") as folder:
                scratch = RunFiles(Path(folder), self._row.id)
                scratch.prepare()
                folded = fold(scratch, plan)
                states = extract_states(scratch, plan)
        except CorruptStore:
            if self._still_needs(entry.round, entry.trial):
                raise
            return  # a file was there when it was looked at, and went since
        found = (folded.weights, folded.message, folded.server, states)
        expected = (
            entry.weights_hash,
            entry.message_hash,
            entry.server_hash,
            {part.client: part.state for part in entry.participants if part.state is not None},
        )
        if found == expected:
            self._report.folded.append(entry.round)
        else:
            self._fault(
                f"round {entry.round}: folding its updates again gives weights {folded.weights}, the ledger"
                f" says {entry.weights_hash}: another numpy or CPU type, or a round that was tampered with"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m aggregator.verify", description=__doc__.splitlines()[0])
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--state-dir", type=Path, required=True, help="the aggregator's STATE_DIR")
    parser.add_argument("--spool-dir", type=Path, help="the aggregator's SPOOL_DIR, where it has one")
    parser.add_argument("--head", help="what the ledger should end in, from result.json or a worker's log")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    allow_files()
    try:
        report = verify(options.state_dir, options.run, spool_dir=options.spool_dir, head=options.head)
    except NotPossible as error:
        print(error, file=sys.stderr)
        return 3
    print(json.dumps({**asdict(report), "holds": report.holds}, indent=2) if options.json else _text(report))
    return 0 if report.holds else 1


def _text(report: Report) -> str:
    lines = [
        f"run {report.run}: {report.rounds} rounds, ledger head {report.head or 'unknown'}",
        f"{report.files} files compared with their hashes",
        f"rounds folded again: {_ranges(report.folded) or 'none (no updates were kept)'}",
        f"usable checkpoints: rounds {_ranges([one.round for one in report.usable]) or 'none'}",
    ]
    lines += [f"PROBLEM {line}" for line in report.problems] or ["everything holds"]
    return "\n".join(lines)


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 → "1-3, 7"."""
    groups: list[list[int]] = []
    for number in numbers:
        if groups and number == groups[-1][-1] + 1:
            groups[-1].append(number)
        else:
            groups.append([number])
    return ", ".join(str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)


if __name__ == "__main__":
    sys.exit(main())
