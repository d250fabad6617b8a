"""Each worker's machine: what it uses, what holds it back, who is slow."""

from __future__ import annotations

from loads import cpu, memory, network
from panels import (
    BLUE,
    GREY,
    ORANGE,
    RED,
    SKY,
    Json,
    bars,
    by_worker,
    curve,
    dashboard,
    heading,
    limits,
    mirrored,
    place,
    query,
    shares,
    table,
)
from queries import EVENTS, NO_LOAD, NO_RUN, OURS, ROUNDS, RUN, load, of_load, run, source


def workers() -> Json:
    throttled = by_worker(
        curve(
            "CPU throttling",
            [of_load("cpu", "throttling_throttled_time", rate=True, scale=" / 10000000")],
            unit="percent",
            low=0,
            why="Share of the time that the CPU limit held a container back (docker only).",
            empty="Docker does not report here, and a worker alone cannot tell",
        )
    )
    share = limits(
        by_worker(
            curve(
                "Memory against its limit",
                [
                    query(
                        f'SELECT mean("usage") / mean("limit") * 100 FROM /^${{load}}(_mem)?$/ WHERE {OURS} AND $timeFilter'
                        ' GROUP BY time($__interval), "worker" fill(none)',
                        "$tag_worker",
                    )
                ],
                unit="percent",
                low=0,
                high=100,
                why="Of the container's limit; beyond 90 % the kernel may end the worker.",
                empty=NO_LOAD,
            )
        ),
        (90, RED),
    )
    blocks = mirrored(
        by_worker(
            curve(
                "Block I/O",
                [
                    of_load("blkio", "io_service_bytes_recursive_read", "$tag_worker read", rate=True),
                    of_load("blkio", "io_service_bytes_recursive_write", "$tag_worker write", rate=True),
                ],
                unit="Bps",
                why="Bytes a second: read from disks upwards, written downwards (docker only).",
                empty="Docker does not report here, or its kernel counts no block I/O for containers",
            )
        ),
        "/ write$/",
    )
    training = by_worker(
        curve(
            "Training seconds of each client",
            [
                query(
                    f'SELECT mean("seconds_training") FROM "fl_client" WHERE {RUN} AND $timeFilter'
                    ' GROUP BY time($__interval), "worker", "client" fill(none)',
                    "$tag_worker client $tag_client",
                )
            ],
            unit="s",
            low=0,
            scattered=True,
            why="Wall time of each client's local training, in its worker's colour: a row of marks above the others is a straggler.",
            empty=NO_RUN,
        )
    )
    stragglers = by_worker(
        bars(
            "Mean training seconds by worker",
            [
                query(
                    f'SELECT mean("seconds_training") FROM "fl_client" WHERE {RUN} AND $timeFilter GROUP BY "worker"',
                    "$tag_worker",
                )
            ],
            unit="s",
            why="The longest bars are the stragglers.",
            empty=NO_RUN,
        )
    )
    times = {"training": BLUE, "waiting": GREY, "fetching": SKY, "sending": ORANGE}
    spent = shares(
        "Where a client's time goes, by worker",
        [
            query(
                f"SELECT {', '.join(f'mean(seconds_{part}) AS {part}' for part in times)}"
                f' FROM "fl_client" WHERE {RUN} AND $timeFilter GROUP BY "worker"',
                table=True,
            )
        ],
        "worker",
        times,
        why="Mean seconds of an order: waiting for its turn in the worker, fetching weights, training, sending the update.",
        empty=NO_RUN,
    )
    who = table(
        "Workers",
        [
            query(
                'SELECT last("clients") AS "clients", mean("usage_percent") AS "cpu", max("usage") AS "memory",'
                ' last("limit") AS "limit", max("dropped") AS "dropped" FROM "fl_worker"'
                f' WHERE {OURS} AND $timeFilter GROUP BY "worker", "source", "node"',
                table=True,
            )
        ],
        {
            "worker": ("worker", ""),
            "source": ("container or process", ""),
            "node": ("node", ""),
            "clients": ("clients", "none"),
            "cpu": ("CPU, mean", "percent"),
            "memory": ("memory, most", "bytes"),
            "limit": ("its limit", "bytes"),
            "dropped": ("points dropped", "none"),
        },
        why="Who is who, as the workers themselves tell it: a container's id is the one that docker ps shows. Memory here is all that the process has resident; docker's figures below leave out files that containers share, TensorFlow's libraries above all.",
        empty=NO_LOAD,
        sort="worker",
    )
    return dashboard(
        "lab-workers",
        "Workers",
        "Each worker's machine: what it uses, what holds it back, who is slow.",
        [run, source, load],
        place(
            (8, [who]),  # five workers without scrolling
            (12, [cpu("CPU"), throttled]),
            (12, [memory("Memory"), share]),
            (12, [network("Network"), blocks]),
            (1, [heading("Who is slow")]),
            (9, [stragglers, spent]),
            (12, [training]),
        ),
        (ROUNDS, EVENTS),
    )
