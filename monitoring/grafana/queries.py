"""What dashboards ask the database: the variables at their top, and queries for a round, a client, a worker, a host.

The lab's own points are described in docs/telemetry.md. Container figures come from Telegraf's docker input where there
is one, else from the workers' own `fl_worker`, which has the same field names: the hidden variable `load` is the
measurement's beginning, so one query serves both. Telegraf gives docker's points the tag `worker` (telegraf.conf), so
that a worker has one name everywhere.
"""

from __future__ import annotations

from panels import GREY, ORANGE, Json, choice, notes, query

RUN = "run =~ /^$run$/"
OURS = "source =~ /^$source$/ AND worker != ''"

NO_RUN = "No points of this run in the time shown: widen it, or start a run"
NO_LOAD = "No container or worker figures in the time shown: is Telegraf up?"
NO_HOST = "No machine reports in the time shown: is Telegraf up?"

run = choice("run", "Run", "SHOW TAG VALUES FROM fl_round WITH KEY = run", newest=True)
runs = choice("run", "Runs", "SHOW TAG VALUES FROM fl_round WITH KEY = run", many=True, newest=True)
source = choice(
    "source",
    "Workers",
    "SHOW TAG VALUES FROM fl_worker WITH KEY = source WHERE run =~ /^$run$/",
    many=True,
    hidden=True,
)
load = choice(
    "load",
    "Figures from",
    f"SHOW MEASUREMENTS WITH MEASUREMENT =~ /^(docker_container_cpu|fl_worker)$/ WHERE {OURS}",
    regex="/^(docker_container|fl_worker)/",
    hidden=True,
)
host = choice("host", "Machine", "SHOW TAG VALUES FROM mem WITH KEY = host", many=True)

ROUNDS = notes(
    "Rounds",
    f'SELECT "text", "kind" FROM "fl_event" WHERE {RUN} AND "kind" = \'round\' AND $timeFilter',
    GREY,
)
EVENTS = notes(
    "Runs and workers",
    f'SELECT "text", "kind" FROM "fl_event" WHERE {RUN} AND "kind" != \'round\' AND $timeFilter',
    ORANGE,
)


def of_round(field: str, alias: str, how: str = "last") -> Json:
    return query(
        f'SELECT {how}("{field}") FROM "fl_round" WHERE {RUN} AND $timeFilter GROUP BY time($__interval) fill(none)',
        alias,
    )


def of_load(part: str, field: str, alias: str = "$tag_worker", rate: bool = False, scale: str = "") -> Json:
    """A figure of each worker, from docker's measurement `docker_container_<part>` or from `fl_worker`."""
    value = f'mean("{field}")'
    value = f"non_negative_derivative({value}, 1s){scale}" if rate else f"{value}{scale}"
    return query(
        f"SELECT {value} FROM /^${{load}}(_{part})?$/ WHERE {OURS} AND $timeFilter"
        ' GROUP BY time($__interval), "worker" fill(none)',
        alias,
    )


def of_host(
    measurement: str, value: str, alias: str = "$tag_host", where: str = "", by: tuple[str, ...] = ("host",)
) -> Json:
    tags = ", ".join(f'"{tag}"' for tag in by)
    return query(
        f'SELECT {value} FROM "{measurement}" WHERE "host" =~ /^$host$/ {where} AND $timeFilter'
        f" GROUP BY time($__interval), {tags} fill(none)",
        alias,
    )
