"""Closing a round, in four steps that the conductor runs where they belong.

    plan_round   (store thread)   what is folded, from the store
    carry_out    (fold thread)    the arithmetic and the files: nothing is visible yet
    commit_round (store thread)   ledger entry, record, client states, weights: the round counts
    tidy         (fold thread)    files that nothing names any more go

A crash between any two steps leaves the round open with all its updates: closing it again gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aggregator.events import Close
from aggregator.files import RunFiles
from aggregator.fold import Folded, FoldPlan
from aggregator.rows import Accepted
from aggregator.store import Store
from roundtable.messages import RoundRecord
from roundtable.types import ClientId, Digest, RunId, Seconds


@dataclass(frozen=True)
class Closing:
    """A round about to be folded. `plan` is None for round 0, whose weights are there already."""

    run: RunId
    close: Close
    plan: FoldPlan | None
    accepted: Mapping[ClientId, Accepted]  # the participants' updates, in client order


@dataclass(frozen=True)
class Outcome:
    """What carrying out left in the run's folder."""

    folded: Folded
    states: Mapping[ClientId, Digest]  # the participants' new states


@dataclass(frozen=True)
class Times:
    """Unix seconds of the round: first order issued, last update in, fold begun, and now."""

    started: Seconds
    closed: Seconds
    committed: Seconds


def plan_round(store: Store, files: RunFiles, run: RunId, close: Close) -> Closing:
    raise NotImplementedError


def carry_out(files: RunFiles, closing: Closing) -> Outcome:
    """Raises StorageFull (nothing visible changed; do it again once there is space) and CorruptStore."""
    raise NotImplementedError


def commit_round(store: Store, closing: Closing, outcome: Outcome, times: Times) -> RoundRecord:
    """The record as stored, entry hash included; evaluation figures come later (store.score_round)."""
    raise NotImplementedError


def score(store: Store, run: RunId, round_number: int) -> RoundRecord:
    """Sum up the evaluations of a round into its record, and store it. Call for events.Score, then say RoundScored."""
    raise NotImplementedError


def tidy(store: Store, run: RunId) -> None:
    raise NotImplementedError
