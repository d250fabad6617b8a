"""Every query of every dashboard against a real InfluxDB: a real Telegraf's minute, and a run's points."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from . import boards, influx
from .influx import Influx

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "monitoring" / "grafana"
sys.path.insert(0, str(GRAFANA))
import dashboards  # noqa: E402

SAMPLE = Path(__file__).with_name("telegraf-1.39.3-sample.lp")
SCHEMA = Path(__file__).with_name("dashboard.schema.json")
NAMES = sorted(dashboards.DASHBOARDS)

# Panels whose query may find nothing in the sample, and why.
NEEDS_HARDWARE = {
    ("workers", "Block I/O"): "the sample's kernel gave no block I/O figures for containers",
    ("machines", "Temperature"): "the sample's host has no sensor; a Pi reports pi_temperature",
    ("machines", "GPU load", "jetson_gpu"): "only a Jetson has it",
    ("machines", "Board power"): "only a Jetson has it",
    ("machines", "Supply too weak"): "only a Pi has it",
    ("federation", "Accuracy", "federated_accuracy"): "only runs with evaluation.federated have it",
}


def shifted(now: float) -> str:
    """The sample with its last point at `now`, containers named as telegraf.conf's processor does, and
    Telegraf's own point."""
    names = {source: f",worker=w{number}" for number, source in enumerate(docker_sources(), 1)}
    lines = SAMPLE.read_text(encoding="utf-8").splitlines()
    last = max(int(line.rsplit(" ", 1)[1]) for line in lines)
    by = int(now * 1e9) - last
    moved = [
        f"internal_write,host=lab-host,output=influxdb buffer_size=9i,metrics_dropped=0i {int(now * 1e9)}"
    ]
    for line in lines:
        head, when = line.rsplit(" ", 1)
        if head.startswith("docker_container"):
            head = re.sub(
                r",source=([0-9a-f]{12})", lambda found: found[0] + names.get(found[1], ""), head, count=1
            )
        moved.append(f"{head} {int(when) + by}")
    return "\n".join(moved)


def docker_sources() -> list[str]:
    """The workers' containers in the sample."""
    found = re.findall(
        r"docker_container_cpu,.*compose\.service=worker.*?source=([0-9a-f]{12})", SAMPLE.read_text()
    )
    return sorted(set(found))


def own_points(now: float) -> str:
    """What a run of three rounds with two workers tells, in the fields of docs/telemetry.md."""
    from roundtable.telemetry import Point, line

    points = []
    sources = docker_sources()[:2]
    for number in (1, 2, 3):
        at = now - 40 + 10 * number
        points.append(
            Point(
                "fl_round",
                {"run": "20260101-000000-demo", "source": "aggregator00"},
                {
                    "round": number,
                    "accuracy": 0.8 + number / 20,
                    "loss": 0.5 / number,
                    "train_loss": 0.6 / number,
                    "seconds": 1.5,
                    "seconds_clients": 1.4,
                    "seconds_aggregate": 0.1,
                    "seconds_slowest": 0.3,
                    "elapsed": 1.5 * number,
                    "clients_in": 10,
                    "clients_late": 0,
                    "clients_lost": 0,
                    "num_examples": 60_000,
                    "samples_seen": 60_000 * number,
                    "bytes_up": 8_000_000,
                    "bytes_down": 4_000_000,
                    "bytes_total": 12_000_000 * number,
                    "dropped": 0,
                },
                at,
            )
        )
        points.append(
            Point(
                "fl_event",
                {"run": "20260101-000000-demo", "source": "aggregator00", "kind": "round"},
                {"text": f"round {number}", "round": number},
                at,
            )
        )
        points.append(
            Point(
                "fl_event",
                {"run": "20260101-000000-demo", "source": "aggregator00", "kind": "worker"},
                {"text": "worker w3 is there", "round": number},
                at,
            )
        )
        for index, (source, client) in enumerate(itertools.product(sources, (0, 1))):
            tags = {
                "run": "20260101-000000-demo",
                "source": source,
                "worker": f"w{index // 2 + 1}",
                "client": str(client),
            }
            seconds = {
                f"seconds_{what}": 0.1 * (index + 1)
                for what in ("training", "waiting", "fetching", "sending")
            }
            points.append(
                Point("fl_client", tags, {"round": number, **seconds, "num_examples": 6000}, at + index)
            )
    for (number, source), seconds in itertools.product(enumerate(sources, 1), range(0, 40, 5)):
        points.append(
            Point(
                "fl_worker",
                {"source": source, "worker": f"w{number}", "node": "server", "run": "20260101-000000-demo"},
                {
                    "worker_id": f"w-{source}",
                    "usage_percent": 80.0,
                    "usage": 600_000_000,
                    "limit": 2_000_000_000,
                    "rx_bytes": (40 - seconds) * 1000,
                    "tx_bytes": (40 - seconds) * 2000,
                    "clients": 5,
                    "dropped": 0,
                },
                now - seconds,
            )
        )
    return "\n".join(text for point in points if (text := line(point)))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Influx]:
    if influx.INFLUXD is None:
        pytest.skip("no influxd on this machine: apt-get install influxdb gives one")
    with influx.running(tmp_path_factory.mktemp("influxdb")) as server:
        setup = YAML(typ="safe").load((ROOT / "compose.yaml").read_text())["services"]["influxdb-setup"][
            "command"
        ][0]
        for _ in range(2):  # safe to repeat
            for statement in re.sub(r"\$\{KEEP_POINTS:-(\w+)\}", r"\1", setup).split(";"):
                server.query(statement)
        now = time.time()
        server.write(shifted(now))
        server.write(own_points(now))
        yield server


def test_points_are_kept_as_long_as_compose_says(database: Influx) -> None:
    columns = database.query("SHOW RETENTION POLICIES ON lab")[0]
    policies = {row[0]: dict(zip(columns["columns"], row, strict=True)) for row in columns["values"]}

    assert policies["lab"]["default"] is True
    assert policies["lab"]["duration"] == "2160h0m0s"


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_json_is_what_the_code_makes(name: str) -> None:
    committed = (GRAFANA / "dashboards" / f"{name}.json").read_text(encoding="utf-8")

    assert committed == dashboards.rendered(name), "run: make dashboards"


def complaints(*files: Path) -> str:
    """What check-jsonschema says against them; nothing where they are as the schema says."""
    command = [Path(sys.executable).with_name("check-jsonschema"), "--schemafile", SCHEMA, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""


def test_the_committed_json_is_as_grafanas_schema_says() -> None:
    assert not complaints(*(GRAFANA / "dashboards" / f"{name}.json" for name in NAMES))


def test_the_schema_knows_what_grafana_would_leave_aside_without_a_word(tmp_path: Path) -> None:
    """An option's misspelt name, or a value that it does not have: the panel would be drawn without it."""
    text = (GRAFANA / "dashboards" / "federation.json").read_text(encoding="utf-8")
    wrong = {'"drawStyle": "line"': '"drawStyle": "lines"', '"rawQuery": true': '"rawquery": true'}
    for number, (right, one) in enumerate(wrong.items()):
        assert right in text
        (tmp_path / f"{number}.json").write_text(text.replace(right, one, 1), encoding="utf-8")
        assert complaints(tmp_path / f"{number}.json"), one


def queries(name: str) -> list[tuple[str, str]]:
    board = dashboards.DASHBOARDS[name]()
    panels = [
        (panel["title"], target["query"]) for panel in board["panels"] for target in panel.get("targets", [])
    ]
    return panels + [("annotations", one["target"]["query"]) for one in board["annotations"]["list"]]


def filled(sql: str, load: str) -> str:
    """As Grafana fills in variables and its own macros."""
    values = {
        "$timeFilter": "time >= now() - 5m AND time <= now() + 1m",
        "$__interval": "5s",
        "${load}": load,
        "$run": "20260101-000000-demo",
        "$source": f"({'|'.join(docker_sources()[:2])})",
        "$host": "(lab-host)",
    }
    for variable, value in values.items():
        sql = sql.replace(variable, value)
    assert "$" not in sql.replace("$/", ""), sql
    return sql


def cases() -> Iterator[tuple[str, str, str, str]]:
    """Each query; those about containers a second time without docker's figures, where fl_worker must do."""
    for name in NAMES:
        for title, sql in queries(name):
            yield name, title, sql, "docker_container"
            docker_alone = "throttling" in sql or "io_service" in sql  # the panel says so
            if "${load}" in sql and not docker_alone:
                yield name, title, sql, "fl_worker"


@pytest.mark.parametrize(
    ("name", "title", "sql", "load"), list(cases()), ids=lambda value: value if len(value) < 40 else ""
)
def test_a_panels_query_finds_points(database: Influx, name: str, title: str, sql: str, load: str) -> None:
    series = database.query(filled(sql, load))

    excused = any(key[:2] == (name, title) and (len(key) == 2 or key[2] in sql) for key in NEEDS_HARDWARE)
    assert series or excused, sql


@pytest.mark.parametrize(
    ("title", "host", "expected"),
    [
        ("Board power", "jetson-orin", 5056 * 1384 / 1e6),
        ("Board power", "jetson-nano", 4.321),
        ("Supply too weak", "pi", 1),
        ("Temperature", "pi", 51.614),
        ("GPU load", "jetson-orin", 43.7),
    ],
)
def test_a_panel_shows_what_a_board_tells(database: Influx, title: str, host: str, expected: float) -> None:
    now = int(time.time() * 1e9)
    for measurement, field, value in boards.SAYS[host]:
        database.write(f"{measurement},host={host} {field}={value}i {now}")
    asked = [sql for panel, sql in queries("machines") if panel == title]
    shown = [
        row[1]
        for sql in asked
        for one in database.query(filled(sql.replace("$host", host), "docker_container"))
        for row in one["values"]
        if row[1] is not None
    ]
    assert shown and shown == pytest.approx([expected] * len(shown))


def test_gpus_of_one_name_are_a_curve_each(database: Influx) -> None:
    now = int(time.time() * 1e9)
    for index, value in enumerate((10, 80)):
        told = f"utilization_gpu={value}i,memory_used={value}i,temperature_gpu={value}i,power_draw={value}"
        database.write(f"nvidia_smi,host=two-gpus,index={index},name=NVIDIA\\ H100 {told} {now}")
    targets = [
        target
        for panel in dashboards.DASHBOARDS["machines"]()["panels"]
        for target in panel.get("targets", ())
        if "nvidia_smi" in target["query"]
    ]
    assert len(targets) == 4
    for target in targets:
        series = database.query(filled(target["query"].replace("$host", "two-gpus"), "docker_container"))
        assert sorted(one["values"][-1][1] for one in series) == [10, 80]
        names = {
            re.sub(r"\$tag_(\w+)", lambda tag: one["tags"][tag[1]], target["alias"])  # noqa: B023
            for one in series
        }
        assert len(names) == 2


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_resolves(database: Influx, name: str) -> None:
    for variable in dashboards.DASHBOARDS[name]()["templating"]["list"]:
        series = database.query(filled(variable["query"]["query"], "docker_container"))
        values = [row[-1] for one in series for row in one["values"]]
        if variable["regex"]:
            pattern = re.compile(variable["regex"].strip("/"))
            values = [match.group(1) for value in values if (match := pattern.match(value))]
        assert values, variable["name"]


@pytest.mark.parametrize("name", NAMES)
def test_a_panel_says_what_it_tells_and_why_it_may_be_empty(name: str) -> None:
    for panel in dashboards.DASHBOARDS[name]()["panels"]:
        if panel["type"] not in ("row", "text"):
            assert panel["description"], panel["title"]
            assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_marks_on_the_time_axis_have_the_form_that_grafana_reads(name: str) -> None:
    for note in dashboards.DASHBOARDS[name]()["annotations"]["list"]:
        target = note["target"]  # without it Grafana skips the query and says nothing
        assert target["fromAnnotations"] and target["query"]
        assert (
            f'"{target["textColumn"]}"' in target["query"] and f'"{target["tagsColumn"]}"' in target["query"]
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_table_never_shows_its_empty_states_words_in_a_cell(name: str) -> None:
    for panel in dashboards.DASHBOARDS[name]()["panels"]:
        if panel["type"] == "table":
            first = panel["fieldConfig"]["overrides"][0]
            assert first["matcher"] == {"id": "byRegexp", "options": "/.*/"}, panel["title"]
            assert first["properties"] == [{"id": "noValue", "value": "–"}], panel["title"]


def test_a_worker_has_the_same_colour_in_every_panel_and_no_two_of_seven_share_one() -> None:
    found: dict[str, set[str]] = {}
    for name in NAMES:
        for panel in dashboards.DASHBOARDS[name]()["panels"]:
            for override in panel.get("fieldConfig", {}).get("overrides", ()):
                if not override["matcher"]["options"].startswith("/^w("):
                    continue
                pattern = re.compile(override["matcher"]["options"].strip("/"))
                for series in ("w1", "w2 in", "w3 client 7", "w4", "w5", "w6", "w7", "w12"):
                    if pattern.search(series):
                        colour = override["properties"][0]["value"]["fixedColor"]
                        found.setdefault(series.split()[0], set()).add(colour)
    assert all(len(colours) == 1 for colours in found.values()), found
    assert len(set().union(*(found[f"w{number}"] for number in range(1, 8)))) == 7
    assert found["w12"] == found["w5"]


def test_a_worker_alone_resolves_where_docker_knows_nothing_of_it(database: Influx) -> None:
    """A run whose workers no Telegraf sees, in a database that has docker's points of others."""
    now = int(time.time() * 1e9)
    database.write(
        f"fl_worker,run=native,source=laptop-1,worker=w1,node=laptop usage_percent=50,usage=1i,limit=2i {now}"
    )
    load = next(
        one for one in dashboards.DASHBOARDS["workers"]()["templating"]["list"] if one["name"] == "load"
    )
    sql = load["query"]["query"].replace("$source", "(laptop-1)")

    assert [row[0] for one in database.query(sql) for row in one["values"]] == ["fl_worker"]


@pytest.mark.parametrize("name", NAMES)
def test_panels_fill_the_grid_without_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboards.DASHBOARDS[name]()["panels"]:
        grid: dict[str, Any] = panel["gridPos"]
        cells = set(
            itertools.product(
                range(grid["x"], grid["x"] + grid["w"]), range(grid["y"], grid["y"] + grid["h"])
            )
        )
        assert not cells & taken, panel["title"]
        assert grid["x"] + grid["w"] <= 24, panel["title"]
        taken |= cells


def test_the_home_dashboard_is_one_that_is_provisioned() -> None:
    grafana = YAML(typ="safe").load((ROOT / "compose.yaml").read_text())["services"]["grafana"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]

    assert (GRAFANA / "dashboards" / Path(home).name).is_file()
    assert json.loads((GRAFANA / "dashboards" / Path(home).name).read_text())["uid"] == "lab-federation"
