"""What a worker uses of its machine: the panels that several dashboards share."""

from __future__ import annotations

from panels import Json, by_worker, curve, mirrored
from queries import NO_LOAD, of_load


def cpu(title: str) -> Json:
    return by_worker(
        curve(
            title,
            [of_load("cpu", "usage_percent")],
            unit="percent",
            low=0,
            why="Of one core: 100 % is one core busy. From Docker where it reports, else from the worker itself.",
            empty=NO_LOAD,
        )
    )


def memory(title: str) -> Json:
    return by_worker(
        curve(
            title,
            [of_load("mem", "usage")],
            unit="bytes",
            low=0,
            why="Memory in use by each worker.",
            empty=NO_LOAD,
        )
    )


def network(title: str) -> Json:
    return mirrored(
        by_worker(
            curve(
                title,
                [
                    of_load("net", "rx_bytes", "$tag_worker in", rate=True),
                    of_load("net", "tx_bytes", "$tag_worker out", rate=True),
                ],
                unit="Bps",
                why="Bytes a second: received upwards, sent downwards.",
                empty=NO_LOAD,
            )
        ),
        "/ out$/",
    )
