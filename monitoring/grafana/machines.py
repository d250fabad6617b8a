"""Every host that reports: the server, each Pi and Jetson."""

from __future__ import annotations

from panels import RED, Json, curve, dashboard, heading, limits, mirrored, place
from queries import NO_HOST, host, of_host


def machines() -> Json:
    no_gpu = "No NVIDIA GPU reports here"
    no_sensor = "No temperature sensor reports here"
    no_board = "No board that tells this reports here"
    watts = 'mean("millivolts") * mean("milliamperes") / 1000000'
    return dashboard(
        "lab-machines",
        "Machines",
        "Every host that reports: the server, each Pi and Jetson.",
        [host],
        place(
            (
                9,
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
                            [
                                of_host("mem", 'mean("used_percent")'),
                                of_host("swap", 'mean("used_percent")', "$tag_host swap"),
                            ],
                            unit="percent",
                            low=0,
                            high=100,
                            why="Used, of what the machine has; swap, of its own size. Where swap fills, training is slow.",
                            empty=NO_HOST,
                        ),
                        (90, RED),
                    ),
                ],
            ),
            (
                9,
                [
                    limits(
                        curve(
                            "Disk used",
                            [
                                of_host(
                                    "disk",
                                    'max("used_percent")',
                                    "$tag_host $tag_device",
                                    by=("host", "device"),
                                )
                            ],
                            unit="percent",
                            low=0,
                            high=100,
                            why="Of each file system, by its device.",
                            empty=NO_HOST,
                        ),
                        (90, RED),
                    ),
                    _both_ways(
                        "Disk I/O",
                        ("diskio", "name"),
                        (("read_bytes", "read"), ("write_bytes", "write")),
                        why="Bytes a second of each disk and its parts: read upwards, written downwards.",
                    ),
                    _both_ways(
                        "Network",
                        ("net", "interface"),
                        (("bytes_recv", "in"), ("bytes_sent", "out")),
                        why="Bytes a second of each interface: received upwards, sent downwards.",
                    ),
                ],
            ),
            (
                9,
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
                9,
                [
                    curve(
                        "GPU load",
                        [
                            _of_gpu('mean("utilization_gpu")'),
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
                        [_of_gpu('mean("memory_used")')],
                        unit="mbytes",
                        low=0,
                        why="Used.",
                        empty=no_gpu,
                    ),
                    curve(
                        "GPU power and temperature",
                        [
                            _of_gpu('mean("power_draw")', "W"),
                            _of_gpu('mean("temperature_gpu")', "°C"),
                        ],
                        low=0,
                        why="Watts drawn, degrees Celsius.",
                        empty=no_gpu,
                    ),
                ],
            ),
            (1, [heading("Boards")]),
            (
                9,
                [
                    curve(
                        "Board power",
                        [
                            of_host("board_power", 'mean("milliwatts") / 1000'),
                            of_host("board_power", watts),
                        ],
                        unit="watt",
                        low=0,
                        why="What a whole Jetson draws, by its own INA3221. A Pi does not tell.",
                        empty=no_board,
                    ),
                    limits(
                        curve(
                            "Supply too weak",
                            [of_host("pi_supply", 'max("too_weak")')],
                            low=0,
                            high=1,
                            why="1: a Pi's supply gives too little, and its firmware slows the processor down.",
                            empty=no_board,
                        ),
                        (1, RED),
                    ),
                ],
            ),
        ),
    )


def _of_gpu(value: str, what: str = "$tag_name") -> Json:
    """Of each: two of a host may have one name."""
    return of_host("nvidia_smi", value, f"$tag_host $tag_index {what}", by=("host", "index", "name"))


def _both_ways(title: str, of: tuple[str, str], fields: tuple[tuple[str, str], ...], *, why: str) -> Json:
    """Two counters of bytes of each device, the second drawn downwards. `of`: measurement and the device's tag;
    `fields`: each counter and its word."""
    measurement, tag = of
    rates = [
        of_host(
            measurement,
            f'non_negative_derivative(mean("{field}"), 1s)',
            f"$tag_host $tag_{tag} {way}",
            by=("host", tag),
        )
        for field, way in fields
    ]
    return mirrored(curve(title, rates, unit="Bps", why=why, empty=NO_HOST), f"/ {fields[1][1]}$/")
