"""Runs as the store has them: what can be read of those that wait or have ended. Nothing here changes
anything.
"""

from __future__ import annotations

from asyncio import to_thread
from pathlib import Path

from roundtable.errors import CorruptStore, Unknown
from roundtable.messages import Plan, RunDetail, RunView
from roundtable.types import Digest, RunId
from roundtable.weights import Manifest

from aggregator import views
from aggregator.files import RunFiles
from aggregator.rows import CommitRow, RunRow
from aggregator.settings import ServiceSettings
from aggregator.soundness import is_whole, whole_rounds
from aggregator.threads import StoreThread


class Archive:
    """All but `stored` may be called from anywhere, and raise Unknown for a run that is not there."""

    def __init__(self, storing: StoreThread, settings: ServiceSettings) -> None:
        self._storing = storing
        self._settings = settings

    def stored(self, row: RunRow) -> RunView:
        """On the store thread."""
        store = self._storing.store
        last = store.last_commit(row.id)
        return views.stored_view(row, last, store.last_accuracy(row.id))

    async def views(self) -> list[RunView]:
        """Oldest first."""
        return await self._storing.call(lambda: [self.stored(row) for row in self._storing.store.runs()])

    async def view(self, run: RunId) -> RunView:
        return await self._storing.call(lambda: self.stored(self._storing.store.run(run)))

    async def detail(self, run: RunId) -> RunDetail:
        def read() -> RunDetail:
            store = self._storing.store
            row = store.run(run)
            found = views.detail(self.stored(row), row, [commit.record for commit in store.commits(run)])
            return found.model_copy(update={"report": self._report(run).is_file()})

        return await self._storing.call(read)

    async def plan(self, run: RunId) -> Plan:
        row = await self._storing.call(self._storing.store.run, run)
        arrays = row.initialized.arrays if row.initialized else None
        return Plan(run=run, experiment=row.experiment, arrays=arrays, pinned_clients=row.pinned)

    async def ledger(self, run: RunId) -> str:
        """A JSON list of the entries as they were hashed, oldest first."""

        def read() -> str:
            self._storing.store.run(run)
            return f"[{','.join(commit.entry for commit in self._storing.store.commits(run))}]"

        return await self._storing.call(read)

    async def report(self, run: RunId) -> bytes:
        """The page that `lab` has made of it; Unknown where there is none to be had here, too."""

        def read() -> bytes:
            self._storing.store.run(run)
            try:
                return self._report(run).read_bytes()
            except OSError as error:
                raise Unknown(
                    f"run {run} has no report here ({error.strerror}): `lab report` makes it"
                ) from None

        return await self._storing.call(read)

    def _report(self, run: RunId) -> Path:
        """`run` is one of the store's: no path of somebody's choice."""
        return (self._settings.reports_dir or self._settings.state_dir / "reports") / run / "report.html"

    async def model(self, run: RunId, which: str) -> tuple[Path, Digest]:
        """The checkpoint of `latest`, `best` or `round:N`; Unknown where it is not kept, too, CorruptStore
        where its file is damaged, or missing though it should be kept.
        """
        files = RunFiles(self._settings.state_dir, run, spool_dir=self._settings.spool_dir)

        def find() -> tuple[CommitRow, Manifest]:
            store = self._storing.store
            initialized = store.run(run).initialized
            if which == "latest":
                commit = store.last_commit(run)
            elif which == "best":
                commit = store.best_commit(run) or store.last_commit(run)
            else:
                number = int(which.partition(":")[2])
                commit = next((commit for commit in store.commits(run) if commit.round == number), None)
            if commit is None or initialized is None:
                raise Unknown(f"run {run} has no weights of {which}: `lab runs` says how many rounds it has")
            return commit, initialized.manifest

        def explain() -> CorruptStore | Unknown:
            store = self._storing.store
            if path.exists():
                fault = "damaged (their content hash is another)"
            elif commit.weights in store.wanted(run, store.run(run).experiment.keep).weights:
                fault = "missing"
            else:
                return Unknown(
                    f"run {run} keeps no weights of round {commit.round} any more: keep.checkpoint_every says"
                    " which rounds stay, beside `latest` and `best`"
                )
            usable = whole_rounds(store, files, run, manifest)
            instead = (
                f", or take another: round {', '.join(map(str, usable))} can still be had" if usable else ""
            )
            return CorruptStore(
                f"the weights of round {commit.round} are {fault}: put {path} back from a copy{instead}"
            )

        commit, manifest = await self._storing.call(find)
        path = files.path("weights", commit.weights)
        if not await to_thread(is_whole, path, commit.weights, {"weights": manifest}):
            raise await self._storing.call(explain)
        return path, commit.weights
