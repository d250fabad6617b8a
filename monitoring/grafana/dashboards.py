"""The lab's four dashboards, as code. `python monitoring/grafana/dashboards.py` writes the JSON beside it; a test holds
the two equal.

The lab's own points are described in docs/telemetry.md. Container figures come from Telegraf's docker input where there
is one, else from the workers' own `fl_worker`, which has the same field names: the hidden variable `load` is the
measurement's beginning, so one query serves both.
"""

from __future__ import annotations

import json
from pathlib import Path

from panels import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Json,
    bars,
    choice,
    coloured,
    curve,
    dashboard,
    heading,
    limits,
    place,
    query,
    scatter,
    stat,
    table,
    text,
)

RUN = "run =~ /^$run$/"
OURS = "source =~ /^$source$/"
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
    "SHOW MEASUREMENTS WITH MEASUREMENT =~ /^(docker_container_cpu|fl_worker)$/",
    regex="/^(docker_container|fl_worker)/",
    hidden=True,
)
host = choice("host", "Machine", "SHOW TAG VALUES FROM mem WITH KEY = host", many=True)

ROUNDS: Json = {
    "name": "Rounds",
    "datasource": {"type": "influxdb", "uid": "lab-influxdb"},
    "enable": True,
    "hide": False,
    "iconColor": "rgba(127, 127, 127, 0.5)",
    "query": f'SELECT "text" FROM "fl_event" WHERE {RUN} AND $timeFilter',
    "textColumn": "text",
    "tagsColumn": "kind",
}


def of_round(field: str, alias: str, how: str = "last") -> Json:
    return query(
        f'SELECT {how}("{field}") FROM "fl_round" WHERE {RUN} AND $timeFilter GROUP BY time($__interval) fill(none)',
        alias,
    )


def of_load(part: str, field: str, alias: str = "$tag_source", rate: bool = False) -> Json:
    """A figure of each worker, from docker's measurement `docker_container_<part>` or from `fl_worker`."""
    value = f'mean("{field}")'
    value = f"non_negative_derivative({value}, 1s)" if rate else value
    return query(
        f"SELECT {value} FROM /^${{load}}(_{part})?$/ WHERE {OURS} AND $timeFilter"
        ' GROUP BY time($__interval), "source" fill(none)',
        alias,
    )


def of_client(how: str, field: str, alias: str) -> Json:
    return query(
        f'SELECT {how}("{field}") FROM "fl_client" WHERE {RUN} AND $timeFilter GROUP BY time($__interval), "worker" fill(none)',
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


def cpu(title: str) -> Json:
    return curve(
        title,
        [of_load("cpu", "usage_percent")],
        unit="percent",
        low=0,
        why="Of one core: 100 % is one core busy. From Docker where it reports, else from the worker itself.",
        empty=NO_LOAD,
    )


def memory(title: str) -> Json:
    return curve(
        title,
        [of_load("mem", "usage")],
        unit="bytes",
        low=0,
        why="Memory in use by each worker.",
        empty=NO_LOAD,
    )


def network(title: str) -> Json:
    return curve(
        title,
        [
            of_load("net", "rx_bytes", "$tag_source in", True),
            of_load("net", "tx_bytes", "$tag_source out", True),
        ],
        unit="Bps",
        low=0,
        why="Bytes a second, in and out.",
        empty=NO_LOAD,
    )


def federation() -> Json:
    accuracy = curve(
        "Accuracy",
        [of_round("accuracy", "test set"), of_round("federated_accuracy", "clients' held-out examples")],
        unit="percentunit",
        low=0,
        high=1,
        points=True,
        calcs=("lastNotNull", "max"),
        legend="bottom",
        why="Of the global weights after each round, on the task's test set and, when asked for, on the clients' own.",
        empty=NO_RUN,
    )
    loss = curve(
        "Loss",
        [of_round("loss", "test set"), of_round("train_loss", "training")],
        low=0,
        points=True,
        calcs=("lastNotNull", "min"),
        legend="bottom",
        why="Test loss of the global weights; training loss as the clients report it.",
        empty=NO_RUN,
    )
    phases = coloured(
        curve(
            "Round duration by phase",
            [of_round("seconds_clients", "clients"), of_round("seconds_aggregate", "aggregate")],
            unit="s",
            low=0,
            stacked=True,
            bars=True,
            legend="bottom",
            why="From the first order to the last update in; from then to the round's commit.",
            empty=NO_RUN,
        ),
        {"clients": BLUE, "aggregate": ORANGE},
    )
    asked = coloured(
        curve(
            "Clients",
            [
                of_round("clients_in", "in"),
                of_round("clients_late", "late"),
                of_round("clients_lost", "lost"),
            ],
            low=0,
            stacked=True,
            bars=True,
            legend="bottom",
            why="In: counted. Late: asked, but cut by the deadline. Lost: asked again because their worker went away.",
            empty=NO_RUN,
        ),
        {"in": GREEN, "late": ORANGE, "lost": RED},
    )
    traffic = coloured(
        curve(
            "Bytes a round",
            [of_round("bytes_up", "up"), of_round("bytes_down", "down")],
            unit="bytes",
            low=0,
            bars=True,
            stacked=True,
            legend="bottom",
            why="Weights and updates as the aggregator counts them: up from workers, down to them.",
            empty=NO_RUN,
        ),
        {"up": PURPLE, "down": SKY},
    )
    slowest = coloured(
        curve(
            "What the slowest worker costs",
            [
                query(
                    'SELECT max("busy") - mean("busy") FROM (SELECT sum("seconds_training") AS "busy" FROM "fl_client"'
                    f' WHERE {RUN} AND $timeFilter GROUP BY time(10s), "worker") WHERE $timeFilter GROUP BY time(10s) fill(none)',
                    "the others wait",
                ),
            ],
            unit="s",
            low=0,
            legend="bottom",
            why="Training seconds of the busiest worker above the mean of all, in each 10 s: time the others stand idle.",
            empty=NO_RUN,
        ),
        {"the others wait": RED},
    )
    by_round = table(
        "Rounds",
        [
            query(
                'SELECT "round", "accuracy", "loss", "seconds", "clients_in", "clients_late", "clients_lost", "bytes_up",'
                f' "bytes_down" FROM "fl_round" WHERE {RUN} AND $timeFilter ORDER BY time DESC',
                table=True,
            )
        ],
        units={"accuracy": "percentunit", "seconds": "s", "bytes_up": "bytes", "bytes_down": "bytes"},
        why="One line a round, the newest first.",
        empty=NO_RUN,
    )
    figures = [
        stat("Round", [of_round("round", "")], why="The last committed round.", empty="–", decimals=0),
        stat(
            "Accuracy",
            [of_round("accuracy", "")],
            unit="percentunit",
            why="On the test set.",
            empty="–",
            decimals=2,
        ),
        stat(
            "Seconds a round",
            [of_round("seconds", "")],
            unit="s",
            why="The last round.",
            empty="–",
            decimals=2,
        ),
        stat(
            "Workers",
            [
                query(
                    'SELECT count(distinct("worker_id")) FROM "fl_worker" WHERE $timeFilter AND time > now() - 30s'
                )
            ],
            why="That reported in the last 30 s.",
            empty="0",
            decimals=0,
        ),
        stat(
            "Points dropped",
            [
                query(
                    'SELECT sum("d") FROM (SELECT max("dropped") AS "d" FROM "fl_worker" WHERE $timeFilter GROUP BY "source")'
                )
            ],
            why="Telemetry given up rather than delay training.",
            empty="0",
            decimals=0,
        ),
    ]
    return dashboard(
        "lab-federation",
        "Federation",
        "What a run learns, and what it costs each worker, on one time axis.",
        [run, source, load],
        place(
            (3, figures),
            (9, [accuracy, loss]),
            (7, [phases, asked, traffic]),
            (1, [heading("Machines, on the same time axis")]),
            (8, [cpu("CPU by worker"), memory("Memory by worker"), network("Network by worker")]),
            (8, [slowest, by_round]),
        ),
        (ROUNDS,),
    )


def workers() -> Json:
    throttled = curve(
        "CPU throttling",
        [of_load("cpu", "throttling_throttled_time", "$tag_source", True)],
        unit="ns",
        low=0,
        why="Nanoseconds a second that the CPU limit held a container back (docker only).",
        empty="No container is limited, or docker does not report (fl_worker has no such figure)",
    )
    share = limits(
        curve(
            "Memory against its limit",
            [
                query(
                    f'SELECT mean("usage") / mean("limit") * 100 FROM /^${{load}}(_mem)?$/ WHERE {OURS} AND $timeFilter'
                    ' GROUP BY time($__interval), "source" fill(none)',
                    "$tag_source",
                )
            ],
            unit="percent",
            low=0,
            high=100,
            why="Of the container's limit; beyond 90 % the kernel may end the worker.",
            empty=NO_LOAD,
        ),
        (90, RED),
    )
    blocks = curve(
        "Block I/O",
        [
            of_load("blkio", "io_service_bytes_recursive_read", "$tag_source read", True),
            of_load("blkio", "io_service_bytes_recursive_write", "$tag_source write", True),
        ],
        unit="Bps",
        low=0,
        why="Bytes a second to and from disks (docker only).",
        empty="The kernel gives no block I/O figures for containers here",
    )
    training = curve(
        "Training seconds by client",
        [
            query(
                f'SELECT mean("seconds_training") FROM "fl_client" WHERE {RUN} AND $timeFilter'
                ' GROUP BY time($__interval), "client" fill(none)',
                "client $tag_client",
            )
        ],
        unit="s",
        low=0,
        points=True,
        why="Wall time of each client's local training.",
        empty=NO_RUN,
    )
    stragglers = bars(
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
    waiting = curve(
        "Where a worker's time goes: waiting and sending",
        [
            of_client("sum", "seconds_waiting", "$tag_worker waiting"),
            of_client("sum", "seconds_sending", "$tag_worker sending"),
        ],
        unit="s",
        low=0,
        why="Orders waiting for their turn, and updates on their way.",
        empty=NO_RUN,
    )
    return dashboard(
        "lab-workers",
        "Workers",
        "Each worker's machine: what it uses, what holds it back, who is slow.",
        [run, source, load],
        place(
            (8, [cpu("CPU"), throttled]),
            (8, [memory("Memory"), share]),
            (8, [network("Network"), blocks]),
            (1, [heading("Who is slow")]),
            (9, [training, stragglers]),
            (8, [waiting]),
        ),
        (ROUNDS,),
    )


def machines() -> Json:
    no_gpu = "No NVIDIA GPU reports here"
    no_sensor = "No temperature sensor reports here"
    return dashboard(
        "lab-machines",
        "Machines",
        "Every host that reports: the server, each Pi and Jetson.",
        [host],
        place(
            (
                8,
                [
                    curve(
                        "CPU",
                        [of_host("cpu", '100 - mean("usage_idle")', where="AND \"cpu\" = 'cpu-total'")],
                        unit="percent",
                        low=0,
                        high=100,
                        why="Of all cores together.",
                        empty=NO_HOST,
                    ),
                    limits(
                        curve(
                            "Memory",
                            [of_host("mem", 'mean("used_percent")')],
                            unit="percent",
                            low=0,
                            high=100,
                            why="Used, of what the machine has.",
                            empty=NO_HOST,
                        ),
                        (90, RED),
                    ),
                ],
            ),
            (
                8,
                [
                    limits(
                        curve(
                            "Disk used",
                            [
                                of_host(
                                    "disk", 'max("used_percent")', "$tag_host $tag_path", by=("host", "path")
                                )
                            ],
                            unit="percent",
                            low=0,
                            high=100,
                            why="Of each file system.",
                            empty=NO_HOST,
                        ),
                        (90, RED),
                    ),
                    curve(
                        "Network",
                        [
                            of_host("net", 'non_negative_derivative(mean("bytes_recv"), 1s)', "$tag_host in"),
                            of_host(
                                "net", 'non_negative_derivative(mean("bytes_sent"), 1s)', "$tag_host out"
                            ),
                        ],
                        unit="Bps",
                        low=0,
                        why="Bytes a second, in and out.",
                        empty=NO_HOST,
                    ),
                ],
            ),
            (
                8,
                [
                    curve(
                        "Temperature",
                        [
                            of_host("temp", 'max("temp")', "$tag_host $tag_sensor", by=("host", "sensor")),
                            of_host("pi_temperature", 'max("millidegrees") / 1000', "$tag_host SoC"),
                        ],
                        unit="celsius",
                        why="Every sensor that the machine has.",
                        empty=no_sensor,
                    ),
                    curve(
                        "Load",
                        [of_host("system", 'mean("load1")')],
                        low=0,
                        why="Processes that want a core, over one minute.",
                        empty=NO_HOST,
                    ),
                ],
            ),
            (1, [heading("GPUs")]),
            (
                8,
                [
                    curve(
                        "GPU load",
                        [
                            of_host(
                                "nvidia_smi",
                                'mean("utilization_gpu")',
                                "$tag_host $tag_name",
                                by=("host", "name"),
                            ),
                            of_host("jetson_gpu", 'mean("load_per_mille") / 10', "$tag_host Jetson"),
                        ],
                        unit="percent",
                        low=0,
                        high=100,
                        why="From nvidia-smi, or a Jetson's sysfs.",
                        empty=no_gpu,
                    ),
                    curve(
                        "GPU memory",
                        [
                            of_host(
                                "nvidia_smi",
                                'mean("memory_used")',
                                "$tag_host $tag_name",
                                by=("host", "name"),
                            )
                        ],
                        unit="decmbytes",
                        low=0,
                        why="Used, in MB.",
                        empty=no_gpu,
                    ),
                    curve(
                        "GPU power and temperature",
                        [
                            of_host("nvidia_smi", 'mean("power_draw")', "$tag_host W", by=("host", "name")),
                            of_host(
                                "nvidia_smi", 'mean("temperature_gpu")', "$tag_host °C", by=("host", "name")
                            ),
                        ],
                        low=0,
                        why="Watts drawn, degrees Celsius.",
                        empty=no_gpu,
                    ),
                ],
            ),
        ),
    )


def compare() -> Json:
    def accuracy_against(x: str, title: str, unit: str, why: str) -> Json:
        return scatter(
            title,
            [
                query(
                    f'SELECT "{x}", "accuracy" FROM "fl_round" WHERE {RUN} AND "accuracy" > 0 AND $timeFilter GROUP BY "run"',
                    table=True,
                )
            ],
            x,
            "accuracy",
            "run",
            why=why,
            empty=NO_RUN,
            x_unit=unit,
            y_unit="percentunit",
        )

    summary = table(
        "Runs",
        [
            query(
                'SELECT max("round") AS "rounds", last("accuracy") AS "accuracy", max("accuracy") AS "best",'
                ' max("elapsed") AS "seconds", max("samples_seen") AS "samples", max("bytes_total") AS "bytes"'
                f' FROM "fl_round" WHERE {RUN} AND $timeFilter GROUP BY "run"',
                table=True,
            )
        ],
        units={"accuracy": "percentunit", "best": "percentunit", "seconds": "s", "bytes": "bytes"},
        why="Where each run ended within the time shown.",
        empty=NO_RUN,
    )
    return dashboard(
        "lab-compare",
        "Compare runs",
        "Several runs side by side: what a round, a second, a sample and a byte buy.",
        [runs],
        place(
            (
                10,
                [
                    accuracy_against("round", "Accuracy by rounds", "short", "What a round buys."),
                    accuracy_against(
                        "elapsed", "Accuracy by wall time", "s", "What a second buys, from the first order."
                    ),
                ],
            ),
            (
                10,
                [
                    accuracy_against(
                        "samples_seen",
                        "Accuracy by samples seen",
                        "short",
                        "Federated against centralized at equal samples: pick a run of one client with all the data as the baseline.",
                    ),
                    accuracy_against(
                        "bytes_total", "Accuracy by bytes", "bytes", "What a byte on the wire buys."
                    ),
                ],
            ),
            (8, [summary]),
            (
                3,
                [
                    text(
                        "Runs older than the time shown are not in the charts: widen the time at the top right. A centralized"
                        " baseline is a run with one client that has all the data."
                    )
                ],
            ),
        ),
    )


DASHBOARDS = {"federation": federation, "workers": workers, "machines": machines, "compare": compare}


def rendered(name: str) -> str:
    """The committed text of one dashboard."""
    return json.dumps(DASHBOARDS[name](), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    folder = Path(__file__).parent / "dashboards"
    folder.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (folder / f"{name}.json").write_text(rendered(name), encoding="utf-8")


if __name__ == "__main__":
    main()
