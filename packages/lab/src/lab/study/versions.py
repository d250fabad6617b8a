"""What a result depends on besides its experiment: code, packages, task and data, as hashes.

Results are only comparable where these are the same; records.py refuses to put others beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from blake3 import blake3
from pydantic import BaseModel, ConfigDict
from roundtable.sources import code_hash
from roundtable.types import Array, Digest

from lab import machine

SOURCES = ("roundtable", "aggregator", "worker")  # what trains, adds up and evaluates; lab only watches
PACKAGES = ("tensorflow", "keras", "numpy")


class Versions(BaseModel):
    """`labels` are the training set's, known before anything runs; a repeat's own hash covers all arrays."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: Digest
    code: Digest
    git_commit: str | None
    packages: dict[str, str]
    task: Digest | None
    labels: Digest | None  # nothing where the data is elsewhere

    def differs(self, kept: Versions) -> tuple[str, str] | None:
        """The first of `differences`; None where results can stand side by side."""
        return next(self.differences(kept), None)

    def differences(self, kept: Versions) -> Iterator[tuple[str, str]]:
        """(what was changed since `kept`, how to undo it)."""
        if kept.study != self.study:
            yield "the study file was changed", "restore it"
        if kept.code != self.code:
            if kept.git_commit is None:
                yield "the code was changed (they are of no git commit)", "restore it"
            else:
                commit = kept.git_commit[:9]
                yield f"the code was changed (they are of git commit {commit})", f"check out {commit}"
        for name, version in self.packages.items():
            if kept.packages.get(name) != version:
                before = kept.packages.get(name)
                yield f"{name} is {version} and was {before}", f"install {name} {before}"
        if kept.task != self.task:
            yield "the task's source was changed", "restore it"
        if kept.labels != self.labels and None not in (kept.labels, self.labels):
            yield "the data set is another", "restore the data"


def here(study: Digest, task: Digest | None, labels: Array | None) -> Versions:
    """Of the code and packages that are installed here."""
    environment = machine.here()
    return Versions(
        study=study,
        code=code_hash(*SOURCES),
        git_commit=environment.git_commit,
        packages={name: environment.packages[name] for name in PACKAGES if name in environment.packages},
        task=task,
        labels=None if labels is None else _hash(labels),
    )


def _hash(labels: Array) -> Digest:
    return blake3(np.ascontiguousarray(labels, "<i8").tobytes()).hexdigest()
