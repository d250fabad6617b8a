"""Several runs side by side: what a round, a second, a sample and a byte buy."""

from __future__ import annotations

from panels import Json, dashboard, place, query, scatter, table, text
from queries import NO_RUN, RUN, runs


def compare() -> Json:
    def accuracy_against(x: str, value: str, title: str, why: str) -> Json:
        """`value`: what the x axis shows, as an expression on the fields of a round; `x` is its name and the axis'."""
        return scatter(
            title,
            [
                query(
                    f'SELECT {value} AS "{x}", "accuracy" FROM "fl_round" WHERE {RUN} AND "accuracy" > 0 AND $timeFilter'
                    ' GROUP BY "run"',
                    table=True,
                )
            ],
            x,
            "accuracy",
            "run",
            why=why,
            empty=NO_RUN,
            y_unit="percentunit",
        )

    summary = table(
        "Where each run stands",
        [
            query(
                'SELECT max("round") AS "rounds", last("accuracy") AS "accuracy", max("accuracy") AS "best",'
                ' max("elapsed") AS "seconds", max("samples_seen") AS "samples", max("bytes_total") AS "bytes"'
                f' FROM "fl_round" WHERE {RUN} AND $timeFilter GROUP BY "run"',
                table=True,
            )
        ],
        {
            "run": ("run", ""),
            "rounds": ("rounds", "none"),
            "accuracy": ("accuracy, last", "percentunit"),
            "best": ("accuracy, best", "percentunit"),
            "seconds": ("wall time", "s"),
            "samples": ("samples seen", "short"),
            "bytes": ("bytes", "decbytes"),
        },
        why="Within the time shown.",
        empty=NO_RUN,
    )
    return dashboard(
        "lab-compare",
        "Compare runs",
        "Several runs side by side: what a round, a second, a sample and a byte buy.",
        [runs],
        place(
            (
                3,
                [
                    text(
                        "Pick runs above. Only points within the time at the top right are drawn: widen it for older runs. "
                        "**Federated against centralized**: run the same task once with `count = 1` under `[clients]`, one "
                        "client that has all the data, and compare by samples seen."
                    )
                ],
            ),
            (
                10,
                [
                    accuracy_against("round", '"round"', "Accuracy by rounds", "What a round buys."),
                    accuracy_against(
                        "seconds",
                        '"elapsed"',
                        "Accuracy by wall time",
                        "What a second buys, from the first order.",
                    ),
                ],
            ),
            (
                10,
                [
                    accuracy_against(
                        "million samples",
                        '"samples_seen" / 1000000',
                        "Accuracy by samples seen",
                        "Federated against centralized at equal samples: pick a run of one client with all the data as the baseline.",
                    ),
                    accuracy_against(
                        "MB", '"bytes_total" / 1000000', "Accuracy by bytes", "What a byte on the wire buys."
                    ),
                ],
            ),
            (8, [summary]),
        ),
    )
