"""Panels as plain functions: each returns Grafana's classic panel JSON. dashboards.py puts them together.

One query language (InfluxQL, what runs on InfluxDB 1.6.7 to 2.x), one data source, one palette: Okabe and Ito's, which
the colour-blind can tell apart. Sizes are in Grafana's grid of 24 columns; `place` lays rows out.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

SOURCE: Json = {"type": "influxdb", "uid": "lab-influxdb"}
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#7F7F7F",
)  # fmt: skip
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW, GREY)


def query(sql: str, alias: str = "", table: bool = False, ref: str = "A") -> Json:
    """One InfluxQL query; `alias` may use $tag_name and $col."""
    return {
        "refId": ref,
        "datasource": SOURCE,
        "rawQuery": True,
        "query": " ".join(sql.split()),
        "alias": alias,
        "resultFormat": "table" if table else "time_series",
    }


def panel(
    kind: str, title: str, queries: list[Json], *, why: str, empty: str, unit: str = "short", **more: Any
) -> Json:
    """`why` says what the panel tells (its info text), `empty` why it can have nothing to show."""
    field = {"unit": unit, "noValue": empty, "color": {"mode": "palette-classic"}, "custom": {}}
    for ref, one in zip("ABCDEFGH", queries, strict=False):
        one["refId"] = ref
    return {
        "type": kind,
        "title": title,
        "description": why,
        "datasource": SOURCE,
        "targets": queries,
        "fieldConfig": {"defaults": field, "overrides": []},
        "options": {},
        "transformations": [],
        **more,
    }


def curve(
    title: str,
    queries: list[Json],
    *,
    why: str,
    empty: str,
    unit: str = "short",
    low: float | None = None,
    high: float | None = None,
    stacked: bool = False,
    points: bool = False,
    bars: bool = False,
    calcs: tuple[str, ...] = ("lastNotNull", "mean", "max"),
    legend: str = "right",
) -> Json:
    """A time series with last, mean and max in its legend."""
    made = panel("timeseries", title, queries, why=why, empty=empty, unit=unit)
    made["fieldConfig"]["defaults"]["custom"] = {
        "drawStyle": "bars" if bars else "line",
        "lineWidth": 0 if bars else 2,
        "fillOpacity": 70 if bars else 25 if stacked else 0,
        "showPoints": "always" if points else "never",
        "pointSize": 6,
        "spanNulls": 60_000,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    if low is not None:
        made["fieldConfig"]["defaults"]["min"] = low
    if high is not None:
        made["fieldConfig"]["defaults"]["max"] = high
    made["options"] = {
        "legend": {"displayMode": "table", "placement": legend, "calcs": list(calcs), "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return made


def stat(
    title: str, queries: list[Json], *, why: str, empty: str, unit: str = "short", decimals: int | None = None
) -> Json:
    """One large number, the last."""
    made = panel("stat", title, queries, why=why, empty=empty, unit=unit)
    made["fieldConfig"]["defaults"]["color"] = {"mode": "fixed", "fixedColor": BLUE}
    if decimals is not None:
        made["fieldConfig"]["defaults"]["decimals"] = decimals
    made["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "value_and_name" if len(queries) > 1 else "value",
    }
    return made


def table(
    title: str, queries: list[Json], *, why: str, empty: str, units: dict[str, str] | None = None
) -> Json:
    """Rows as they are; `units` by column."""
    made = panel("table", title, queries, why=why, empty=empty)
    made["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for name, unit in (units or {}).items()
    ]
    made["options"] = {"showHeader": True, "cellHeight": "sm"}
    return made


def bars(title: str, queries: list[Json], *, why: str, empty: str, unit: str = "short") -> Json:
    """One horizontal bar a series: who is slow, at a glance."""
    made = panel("bargauge", title, queries, why=why, empty=empty, unit=unit)
    made["fieldConfig"]["defaults"]["color"] = {"mode": "fixed", "fixedColor": BLUE}
    made["fieldConfig"]["defaults"]["min"] = 0
    made["options"] = {
        "orientation": "horizontal",
        "displayMode": "basic",
        "reduceOptions": {"calcs": ["mean"], "fields": "", "values": False},
        "valueMode": "text",
    }
    return made


def scatter(
    title: str,
    queries: list[Json],
    x: str,
    y: str,
    by: str,
    *,
    why: str,
    empty: str,
    x_unit: str,
    y_unit: str,
) -> Json:
    """An XY chart with lines, one frame for each value of the column `by`."""
    made = panel("xychart", title, queries, why=why, empty=empty, unit=y_unit)
    made["transformations"] = [
        {
            "id": "partitionByValues",
            "options": {"fields": [by], "keepFields": False, "naming": {"asLabels": True}},
        }
    ]
    made["fieldConfig"]["defaults"]["custom"] = {
        "show": "points+lines",
        "pointSize": {"fixed": 5},
        "lineWidth": 2,
        "axisLabel": y,
    }
    made["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": x},
            "properties": [{"id": "unit", "value": x_unit}, {"id": "custom.axisLabel", "value": x}],
        }
    ]
    made["options"] = {
        "mapping": "auto",
        "series": [
            {
                "x": {"matcher": {"id": "byName", "options": x}},
                "y": {"matcher": {"id": "byName", "options": y}},
            }
        ],
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return made


def text(markdown: str) -> Json:
    return {
        "type": "text",
        "title": "",
        "transparent": True,
        "options": {"mode": "markdown", "content": markdown},
        "targets": [],
    }


def coloured(made: Json, colours: dict[str, str]) -> Json:
    """The panel with fixed colours for the series named."""
    made["fieldConfig"]["overrides"] += [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in colours.items()
    ]
    return made


def limits(made: Json, *steps: tuple[float, str]) -> Json:
    """The panel with threshold lines: a dashed line at each value."""
    defaults = made["fieldConfig"]["defaults"]
    defaults["thresholds"] = {
        "mode": "absolute",
        "steps": [
            {"value": None, "color": "transparent"},
            *({"value": at, "color": colour} for at, colour in steps),
        ],
    }
    defaults["custom"]["thresholdsStyle"] = {"mode": "dashed"}
    return made


def heading(title: str) -> Json:
    return {"type": "row", "title": title, "collapsed": False, "panels": []}


def place(*rows: tuple[int, list[Json]]) -> list[Json]:
    """Rows of (height, panels) share the 24 columns equally, top to bottom; a heading takes a line of its own."""
    placed: list[Json] = []
    top = 0
    for height, members in rows:
        width = 24 // len(members)
        for column, member in enumerate(members):
            grid = {"x": column * width, "y": top, "w": width, "h": height}
            placed.append({**member, "id": len(placed) + 1, "gridPos": grid})
        top += height
    return placed


def choice(
    name: str,
    label: str,
    sql: str,
    *,
    many: bool = False,
    regex: str = "",
    newest: bool = False,
    hidden: bool = False,
) -> Json:
    """A variable filled by a query; `newest` sorts descending, so that the last run comes first."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": " ".join(sql.split()), "refId": name},
        "definition": " ".join(sql.split()),
        "refresh": 2,
        "sort": 2 if newest else 1,
        "regex": regex,
        "multi": many,
        "includeAll": many,
        "hide": 2 if hidden else 0,
        "current": {"text": ["All"], "value": ["$__all"]} if many and not newest else {},
        "options": [],
    }


def dashboard(
    uid: str,
    title: str,
    why: str,
    variables: list[Json],
    panels: list[Json],
    annotations: tuple[Json, ...] = (),
) -> Json:
    """The whole, as Grafana 12's provisioning reads it."""
    return {
        "uid": uid,
        "title": title,
        "description": why,
        "tags": ["roundtable"],
        "timezone": "browser",
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timepicker": {"refresh_intervals": ["5s", "10s", "30s", "1m"]},
        "templating": {"list": variables},
        "annotations": {"list": list(annotations)},
        "links": [
            {
                "type": "dashboards",
                "tags": ["roundtable"],
                "title": "Roundtable",
                "asDropdown": False,
                "keepTime": True,
                "includeVars": True,
                "targetBlank": False,
            }
        ],
        "panels": panels,
    }
