"""What can be read off a repeat: one number each, from its raw rounds alone, or nothing where it has none.

`named` finds a measure by its name in a study's `outcomes` or a published figure's `measure`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from roundtable.types import Seconds

from lab.study.records import Repeat, RoundFigures
from lab.study.schema import InvalidStudy, Study

MB: Final = 1_000_000
ACCOUNT: Final = 100  # bytes: what updates vary by that say the same, since their accounts are decimals


@dataclass(frozen=True)
class Target:
    """A metric's value to be reached."""

    metric: str
    value: float

    def round_of(self, repeat: Repeat) -> int | None:
        """The index of the first evaluated round at or above it; of a loss, at or below it."""
        for index, record in enumerate(repeat.rounds):
            value = metric_of(record, self.metric)
            if value is not None and better(self.metric) * (value - self.value) >= 0:
                return index
        return None


@dataclass(frozen=True)
class Measure:
    """`better`: +1 where more is better, −1 where less is, 0 where neither. `scale` is from raw to shown."""

    name: str
    label: str
    unit: str
    better: int
    read: Callable[[Repeat], float | None]
    scale: float = 1.0
    digits: int = 2
    target: Target | None = None  # of what reaching it takes

    @property
    def clocked(self) -> bool:
        """Whether it is of the experiment's own clock, real or virtual."""
        return self.name in ("seconds", "round_clock", "seconds_to_target")

    @property
    def moved(self) -> bool:
        """Whether it counts what goes over the wire, as training in one place need not do."""
        return self.name in ("bytes", "round_bytes", "bytes_to_target")

    @property
    def total(self) -> bool:
        """Whether it is what a whole run takes: the longer that is, the more."""
        return self.name in ("rounds", "seconds", "cpu_seconds", "bytes", "joules")

    @property
    def learned(self) -> bool:
        """Whether it says what was learned, not what that took."""
        return self.better > 0 or self.name.rpartition(".")[2] == "loss"

    @property
    def bounds(self) -> tuple[float, float]:
        """What it can be, in `unit`."""
        if self.unit == "%":
            return 0.0, 100.0
        if "." in self.name or self.name in ("loss", "personal_gain"):
            return limits(self.name.rpartition(".")[2])
        return 0.0, math.inf

    def possible(self, value: float) -> float:
        """The nearest that it can be: an interval of few repeats reaches further."""
        low, high = self.bounds
        return min(max(value, low), high)

    def possible_apart(self, value: float) -> float:
        """The same of a difference of two."""
        low, high = self.bounds
        return min(max(value, low - high), high - low)

    def possible_share(self, value: float, wholes: Sequence[float]) -> float:
        """The same of a mean of shares in %, one of each of `wholes`."""
        if min(wholes, default=0.0) <= 0:
            return value
        low, high = (100 * end / statistics.harmonic_mean(wholes) for end in self.bounds)
        return min(max(value, low), high)

    def of(self, repeat: Repeat) -> float | None:
        """In `unit`; nothing for a failed repeat."""
        if repeat.state != "finished" or not repeat.rounds:
            return None
        value = self.read(repeat)
        return None if value is None else value * self.scale

    def of_round(self, repeat: Repeat) -> float | None:
        """What a round adds to what the run takes, or reaching the target, in `unit`."""
        value = self.of(repeat)
        index = self.target.round_of(repeat) if self.target else len(repeat.rounds) - 1
        return None if value is None or index is None else value / (index + 1)

    def rounding(self, repeat: Repeat) -> float:
        """What it is known to, in `unit`: bytes to what the accounts of the updates vary by."""
        if not self.moved:
            return 0.0
        updates = sum(record.clients for record in repeat.rounds)
        return ACCOUNT * self.scale * updates / (len(repeat.rounds) if self.name == "round_bytes" else 1)

    def shown(self, value: float | None, unit: bool = True) -> str:
        if value is None:
            return "–"
        digits = self.digits if abs(value) < 1000 else 0
        return f"{number(value, digits)} {self.unit}" if unit and self.unit else number(value, digits)

    def apart(self, value: float | None) -> str:
        """A difference of two values: of per cents in points."""
        return f"{self.shown(value, unit=False)} points" if self.unit == "%" else self.shown(value)


def number(value: float, digits: int) -> str:
    """With a true minus, and none before a zero (+ 0)."""
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def metric_of(record: RoundFigures, metric: str) -> float | None:
    """`metric`: accuracy, loss, one of the task's own, or any of these as federated.NAME."""
    if metric == "accuracy":
        return record.accuracy
    if metric == "loss":
        return record.loss
    scope, _, name = metric.rpartition(".")
    return (record.federated if scope == "federated" else record.metrics).get(name)


def better(metric: str) -> int:
    """Of what a task measures more is taken for better, but of its loss."""
    return -1 if metric.rpartition(".")[2] == "loss" else 1


def limits(metric: str) -> tuple[float, float]:
    """What a task's metric can be; without an end where only the task knows."""
    return (0.0, 1.0) if metric == "accuracy" or "iou" in metric.split("_") else (-math.inf, math.inf)


def last(repeat: Repeat, metric: str) -> float | None:
    """Its value after the last round that was evaluated."""
    values = [value for record in repeat.rounds if (value := metric_of(record, metric)) is not None]
    return values[-1] if values else None


def best(repeat: Repeat, metric: str) -> float | None:
    values = [value for record in repeat.rounds if (value := metric_of(record, metric)) is not None]
    return max(values, default=None)


def round_seconds(repeat: Repeat) -> Seconds | None:
    """The median round's, commit to commit, without the first, which traces the functions."""
    later = [record.seconds for record in repeat.rounds[1:]]
    return statistics.median(later) if later else None


def virtual_seconds(record: RoundFigures) -> Seconds | None:
    """Its length on the virtual clock, where the experiment has one."""
    found = (record.model_extra or {}).get("virtual_seconds")
    return None if found is None else float(found)


def clock(record: RoundFigures) -> Seconds:
    """A round's length on the clock that the experiment chose."""
    virtual = virtual_seconds(record)
    return record.seconds if virtual is None else virtual


def round_clock(repeat: Repeat) -> Seconds | None:
    """The same on the experiment's own clock, real or virtual."""
    later = [clock(record) for record in repeat.rounds[1:]]
    return statistics.median(later) if later else None


def _personal(when: str) -> Callable[[Repeat], float | None]:
    """Of the clients' held-out examples in the last round, before or after their local training."""

    def read(repeat: Repeat) -> float | None:
        found = (repeat.rounds[-1].model_extra or {}).get("personalized")
        return None if found is None else float(found[when]["accuracy"])

    return read


def _gain(repeat: Repeat) -> float | None:
    before, after = _personal("before")(repeat), _personal("after")(repeat)
    return None if before is None or after is None else after - before


def _whole() -> Mapping[str, Measure]:
    found = [
        Measure("accuracy", "test accuracy", "%", 1, lambda r: last(r, "accuracy"), 100),
        Measure("best_accuracy", "best test accuracy", "%", 1, lambda r: best(r, "accuracy"), 100),
        Measure("loss", "test loss", "", -1, lambda r: last(r, "loss"), digits=4),
        Measure("rounds", "rounds", "", 0, lambda r: float(len(r.rounds)), digits=0),
        Measure("seconds", "time", "s", -1, lambda r: sum(map(clock, r.rounds)), digits=1),
        Measure("round_seconds", "time of a round", "s", -1, round_seconds, digits=3),
        Measure("round_clock", "time of a round", "s", -1, round_clock, digits=2),
        Measure("cpu_seconds", "CPU time", "s", -1, lambda r: sum(x.cpu_seconds for x in r.rounds), digits=1),
        Measure("bytes", "bytes moved", "MB", -1, lambda r: _bytes(r.rounds), 1 / MB, 1),
        Measure(
            "round_bytes", "bytes of a round", "MB", -1, lambda r: _bytes(r.rounds) / len(r.rounds), 1 / MB
        ),
        Measure("joules", "energy", "J", -1, lambda r: r.joules, digits=0),
        Measure(
            "aggregator_memory",
            "aggregator's own memory, peak",
            "MB",
            -1,
            lambda r: None if r.aggregator_peak_bytes is None else float(r.aggregator_peak_bytes),
            1 / MB,
            1,
        ),
        Measure("personal_before", "own examples, global weights", "%", 1, _personal("before"), 100),
        Measure("personal_after", "own examples, own weights", "%", 1, _personal("after"), 100),
        Measure("personal_gain", "gain by local training", "points", 1, _gain, 100),
        Measure(
            "cut",
            "clients cut off a round",
            "",
            0,  # over-sampling cuts some off by design
            lambda r: sum(x.cut for x in r.rounds) / len(r.rounds),
        ),
    ]
    return {measure.name: measure for measure in found}


def _to_target(target: Target) -> Mapping[str, Measure]:
    def upto(total: Callable[[tuple[RoundFigures, ...]], float]) -> Callable[[Repeat], float | None]:
        def read(repeat: Repeat) -> float | None:
            index = target.round_of(repeat)
            return None if index is None else total(repeat.rounds[: index + 1])

        return read

    def joules(repeat: Repeat) -> float | None:
        index = target.round_of(repeat)
        if index is None or repeat.joules is None:
            return None
        return (
            repeat.joules
            * sum(r.seconds for r in repeat.rounds[: index + 1])
            / sum(r.seconds for r in repeat.rounds)
        )

    to = f"to {target_words(target)}"
    found = [
        Measure(
            "rounds_to_target", f"rounds {to}", "", -1, upto(lambda rounds: float(rounds[-1].round)), digits=1
        ),
        Measure(
            "seconds_to_target", f"time {to}", "s", -1, upto(lambda rounds: sum(map(clock, rounds))), digits=1
        ),
        Measure("bytes_to_target", f"bytes {to}", "MB", -1, upto(_bytes), 1 / MB, 1),
        Measure(
            "cpu_to_target",
            f"CPU time {to}",
            "s",
            -1,
            upto(lambda rounds: sum(r.cpu_seconds for r in rounds)),
            digits=1,
        ),
        Measure("joules_to_target", f"energy {to}", "J", -1, joules, digits=0),
    ]
    return {measure.name: replace(measure, target=target) for measure in found}


def target_words(target: Target) -> str:
    if target.metric == "accuracy":
        return f"{100 * target.value:g} %"
    return f"{metric_words(target.metric)} {target.value:g}"


def metric_words(metric: str) -> str:
    """mean_iou → mean IoU."""
    scope, _, name = metric.rpartition(".")
    words = name.replace("_", " ").replace("iou", "IoU")
    return words + " on clients' own examples" * (scope == "federated")


def plain(metric: str) -> str:
    """One name for one metric: metrics.accuracy is accuracy, of the whole test set."""
    return metric.removeprefix("metrics.")


def target_of(study: Study) -> Target | None:
    return None if study.target is None else Target(plain(study.target_metric), study.target)


def measures(study: Study) -> Mapping[str, Measure]:
    target = target_of(study)
    return {**_whole(), **(_to_target(target) if target else {})}


def named(name: str, study: Study) -> Measure:
    """Raises InvalidStudy. `metrics.NAME` and `federated.NAME` are whatever the task measures."""
    scope, _, metric = name.partition(".")
    path = plain(name)
    if metric and scope in ("metrics", "federated") and path not in ("accuracy", "loss"):
        return Measure(name, metric_words(path), "", better(path), lambda r: last(r, path), digits=3)
    known = measures(study)
    if path not in known:
        without = " (those to a target need `target`)" if name.endswith("_to_target") else ""
        raise InvalidStudy(
            f"{study.name}: outcomes: found {name!r}{without}; allowed: {', '.join(known)}, "
            "metrics.NAME, federated.NAME"
        )
    return known[path]


def _bytes(rounds: tuple[RoundFigures, ...]) -> float:
    return float(sum(record.bytes_up + record.bytes_down for record in rounds))
