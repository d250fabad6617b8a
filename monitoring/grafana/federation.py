"""The home dashboard: what a run learns, and what it costs each worker, on one time axis."""

from __future__ import annotations

from loads import cpu, memory, network
from panels import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    Json,
    coloured,
    curve,
    dashboard,
    heading,
    place,
    query,
    stat,
    table,
)
from queries import EVENTS, NO_RUN, ROUNDS, RUN, load, of_round, run, source


def federation() -> Json:
    figures = [
        stat("Round", [of_round("round", "")], why="The last committed round.", empty="–", decimals=0),
        stat(
            "Accuracy",
            [of_round("accuracy", "")],
            unit="percentunit",
            why="On the test set, after the last round that was evaluated.",
            empty="–",
            decimals=2,
        ),
        stat(
            "Last round", [of_round("seconds", "")], unit="s", why="How long it took.", empty="–", decimals=2
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
            "Bytes so far",
            [of_round("bytes_total", "")],
            unit="decbytes",
            why="Weights and updates, both ways, since the run began.",
            empty="–",
            decimals=1,
        ),
        stat(
            "Points dropped",
            [
                query(
                    'SELECT sum("d") FROM (SELECT max("dropped") AS "d" FROM "fl_worker" WHERE $timeFilter GROUP BY "source")',
                    "workers",
                ),
                query('SELECT max("dropped") FROM "fl_round" WHERE $timeFilter', "aggregator"),
                query('SELECT max("metrics_dropped") FROM "internal_write" WHERE $timeFilter', "Telegraf"),
            ],
            why="Telemetry given up rather than delay training; curves have gaps then.",
            empty="0",
            decimals=0,
            alarm=1,
        ),
    ]
    accuracy = coloured(
        curve(
            "Accuracy",
            [of_round("accuracy", "test set"), of_round("federated_accuracy", "clients' held-out examples")],
            unit="percentunit",
            high=1,
            points=True,
            calcs=("lastNotNull", "mean", "max"),
            why="Of the global weights after each round, on the task's test set and, when asked for, on the clients' own.",
            empty=NO_RUN,
        ),
        {"test set": BLUE, "clients' held-out examples": GREEN},
    )
    loss = coloured(
        curve(
            "Loss",
            [of_round("loss", "test set"), of_round("train_loss", "training")],
            low=0,
            points=True,
            calcs=("lastNotNull", "mean", "min"),
            why="Test loss of the global weights; training loss as the clients report it.",
            empty=NO_RUN,
        ),
        {"test set": BLUE, "training": ORANGE},
    )
    phases = coloured(
        curve(
            "Round duration by phase",
            [of_round("seconds_clients", "clients"), of_round("seconds_aggregate", "aggregate")],
            unit="s",
            low=0,
            stacked=True,
            bars=True,
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
            why="In: counted. Late: asked, but cut by the deadline. Lost: asked again because their worker went away.",
            empty=NO_RUN,
        ),
        {"in": GREEN, "late": ORANGE, "lost": RED},
    )
    traffic = coloured(
        curve(
            "Bytes a round",
            [of_round("bytes_up", "up"), of_round("bytes_down", "down")],
            unit="decbytes",
            low=0,
            bars=True,
            stacked=True,
            why="Weights and updates as the aggregator counts them: up from workers, down to them.",
            empty=NO_RUN,
        ),
        {"up": PURPLE, "down": SKY},
    )
    slowest = coloured(
        curve(
            "What the slowest worker costs",
            [of_round("seconds_slowest", "the others wait")],
            unit="s",
            low=0,
            bars=True,
            why="Training seconds of a round's busiest worker above the mean of all: time the others stand idle.",
            empty=NO_RUN,
        ),
        {"the others wait": RED},
    )
    by_round = table(
        "Rounds",
        [
            query(
                'SELECT "round", "accuracy", "loss", "train_loss", "seconds", "clients_in", "clients_late", "clients_lost",'
                f' "bytes_up", "bytes_down" FROM "fl_round" WHERE {RUN} AND $timeFilter ORDER BY time DESC LIMIT 1000',
                table=True,
            )
        ],
        {
            "round": ("round", "none"),
            "accuracy": ("accuracy", "percentunit"),
            "loss": ("test loss", "none"),
            "train_loss": ("training loss", "none"),
            "seconds": ("took", "s"),
            "clients_in": ("clients in", "none"),
            "clients_late": ("late", "none"),
            "clients_lost": ("lost", "none"),
            "bytes_up": ("up", "decbytes"),
            "bytes_down": ("down", "decbytes"),
        },
        why="One line a round, the newest first.",
        empty=NO_RUN,
    )
    return dashboard(
        "lab-federation",
        "Federation",
        "What a run learns, and what it costs each worker, on one time axis.",
        [run, source, load],
        place(
            (3, figures),
            (9, [accuracy, loss]),
            (8, [phases, asked, traffic]),
            (1, [heading("What it costs each worker, on the same time axis")]),
            (12, [cpu("CPU by worker"), memory("Memory by worker")]),
            (12, [network("Network by worker"), slowest]),
            (11, [by_round]),
        ),
        (ROUNDS, EVENTS),
    )
