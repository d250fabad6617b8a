"""The experiment that the service starts by itself (EXPERIMENT), as a lab in containers does.

A file that cannot be used is one line in the log, and again in /readyz: the service is up all the same, so
that `docker compose` shows the line instead of starting the container over and over, and runs can be sent to
it.
"""

from __future__ import annotations

from dataclasses import dataclass

from roundtable import experiment as experiments
from roundtable.errors import InvalidExperiment
from roundtable.messages import CreateRun

from aggregator.gathering import SETTLED, Gathering
from aggregator.logs import trouble
from aggregator.settings import ServiceSettings


@dataclass(frozen=True)
class First:
    """A run to be had at the start: the one that this experiment has already, or a new one."""

    request: CreateRun
    gathering: Gathering


def first(settings: ServiceSettings) -> First | str | None:
    """What to start with; a text: why nothing can be; None: nothing is asked for."""
    if settings.experiment is None:
        return None
    try:
        experiment = experiments.load(settings.experiment)
    except InvalidExperiment as error:
        trouble(
            "EXPERIMENT cannot be used", detail=str(error), remedy="correct it, then restart the aggregator"
        )
        return f"EXPERIMENT cannot be used: {error}"
    return First(CreateRun(experiment=experiment), Gathering(settings.start_workers, settled=SETTLED))
