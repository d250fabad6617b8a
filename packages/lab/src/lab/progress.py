"""What is known of a run while it goes on: a record that events are folded into and views read."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median

from roundtable.experiment import Experiment
from roundtable.messages import ENDED, Event, RoundRecord, RunView, WorkerView
from roundtable.types import Seconds, WorkerId

_RECENT = 5  # rounds that the time left is estimated from


@dataclass
class Progress:
    experiment: Experiment
    launched: tuple[str, ...] = ()  # node names of the workers that this lab started
    options: str = ""  # of a suggested `lab resume`
    run: RunView | None = None
    rounds: dict[int, RoundRecord] = field(default_factory=dict)
    workers: tuple[WorkerView, ...] = ()
    notes: list[str] = field(default_factory=list)  # not shown yet
    died: dict[str, str] = field(default_factory=dict)  # node name → last words
    shown: int = 0  # rounds whose line has been shown
    first_worker: float | None = None  # Unix seconds
    _seen: set[WorkerId] = field(default_factory=set)  # workers that have been present
    told_since: bool = False  # the run's state, since the first worker was there

    def observe(self, event: Event) -> None:
        if event.run is not None:
            self.run = event.run
            self.told_since = self.first_worker is not None
        if event.round is not None and event.round.round > 0:
            self.rounds[event.round.round] = event.round
        if event.workers is not None:
            self._seen.update(worker.id for worker in event.workers if worker.state == "present")
            # An earlier lab's had the names of ours, which are starting until they are there.
            self.workers = tuple(
                worker
                for worker in event.workers
                if worker.id in self._seen or worker.node not in self.launched
            )
            if self.first_worker is None and any(worker.state == "present" for worker in event.workers):
                self.first_worker = time.time()
        if event.note:
            self.notes.append(event.note)

    def take_notes(self) -> list[str]:
        notes, self.notes = self.notes, []
        return notes

    def take_rounds(self) -> list[RoundRecord]:
        """Rounds whose line can be shown now: in order, each once its evaluation is in or will never be."""
        ended = self.run is not None and self.run.state in ENDED
        ready = []
        while (record := self.rounds.get(self.shown + 1)) is not None:
            due = (
                record.round % self.experiment.evaluation.every == 0
                or record.round == self.experiment.rounds.count
            )
            if due and not record.metrics and record.accuracy is None and record.loss is None and not ended:
                break
            ready.append(record)
            self.shown += 1
        return ready

    @property
    def committed(self) -> int:
        return self.run.round if self.run else 0

    def seconds_left(self, now: float) -> Seconds | None:
        """From the last few rounds' durations; None before there is one. `now`: Unix seconds."""
        recent = [self.rounds[number] for number in sorted(self.rounds)[-_RECENT:]]
        if not recent or self.run is None:
            return None
        each = median(record.seconds for record in recent)  # the first round, which compiles, is no measure
        underway = min(max(now - recent[-1].committed, 0.0), each)
        return max(each * (self.run.rounds - self.committed) - underway, 0.0)

    def waiting_for(self) -> str:
        """What happens now, in words, so that nothing looks frozen."""
        present = sum(worker.state == "present" for worker in self.workers)
        starting = len(self.launched) - present - len(self.died)
        if self.run is None:
            return "starting the aggregator" if self.launched else "asking for the run"
        if self.run.state in ("queued", "paused"):
            resume = f"`lab resume {self.run.id}"  # as the aggregator says it, which knows no options
            reason = (self.run.reason or "another run is active").replace(resume, resume + self.options)
            return f"{self.run.state}: {reason}"
        if self.run.state == "waiting":
            # "No worker is there" is what was told last before the first came: no news while they start.
            if self.launched and starting + present > 0 and not (present and self.told_since):
                return f"starting {counted(max(starting, 1), 'worker')}: TensorFlow is being imported"
            return self.run.reason or "waiting for workers"
        if self.run.state == "initializing":
            return "making the first weights: a worker builds the model and reads the data"
        if self.run.state in ENDED:
            return self.run.state
        return self._round_under_way()

    def _round_under_way(self) -> str:
        assert self.run is not None
        if self.committed >= self.run.rounds:
            return "evaluating the last round"
        number = self.committed + 1
        if not self.run.cohort:
            return f"round {number}"
        return f"round {number}: {len(self.run.arrived)} of {counted(len(self.run.cohort), 'client')} in"


def counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
