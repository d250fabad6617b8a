"""Panels as plain functions: each returns Grafana's classic panel JSON. dashboards.py puts them together.

One query language (InfluxQL, what runs on InfluxDB 1.6.7 to 2.x), one data source, one palette: Okabe and Ito's, which
the colour-blind can tell apart, for every series whose name is known here (workers are w1, w2, …); runs and hosts take
Grafana's own palette. Options are those of Grafana 12.4's panel schemas. Sizes are in Grafana's grid of 24 columns;
`place` lays rows out.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

SOURCE: Json = {"type": "influxdb", "uid": "lab-influxdb"}
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#7F7F7F",
)  # fmt: skip
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, GREY)  # yellow is too pale on white
WORKERS = 42  # w1 … w42 have colours of their own; the seven come round again


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
    scattered: bool = False,
    calcs: tuple[str, ...] = ("lastNotNull", "mean", "max"),
) -> Json:
    """A time series with last, mean and max in its legend. `scattered`: marks without lines between them."""
    made = panel("timeseries", title, queries, why=why, empty=empty, unit=unit)
    made["fieldConfig"]["defaults"]["custom"] = {
        "drawStyle": "points" if scattered else "bars" if bars else "line",
        "lineWidth": 0 if bars else 2,
        "fillOpacity": 70 if bars else 25 if stacked else 0,
        "showPoints": "always" if points or scattered else "never",
        "pointSize": 6,
        "spanNulls": 60_000,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    if low is not None:
        made["fieldConfig"]["defaults"]["min"] = low
    if high is not None:
        made["fieldConfig"]["defaults"]["max"] = high
    made["options"] = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": list(calcs), "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return made


def stat(
    title: str,
    queries: list[Json],
    *,
    why: str,
    empty: str,
    unit: str = "short",
    decimals: int | None = None,
    alarm: float | None = None,
) -> Json:
    """One large number, the last; with several queries each by its name. Red from `alarm` on."""
    made = panel("stat", title, queries, why=why, empty=empty, unit=unit)
    defaults = made["fieldConfig"]["defaults"]
    defaults["color"] = {"mode": "fixed", "fixedColor": BLUE}
    if decimals is not None:
        defaults["decimals"] = decimals
    if alarm is not None:
        defaults["color"] = {"mode": "thresholds"}
        steps = [{"value": None, "color": BLUE}, {"value": alarm, "color": RED}]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    made["options"] = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "value_and_name" if len(queries) > 1 else "value",
    }
    return made


def table(
    title: str,
    queries: list[Json],
    columns: dict[str, tuple[str, str]],
    *,
    why: str,
    empty: str,
    sort: str = "",
) -> Json:
    """Rows with the `columns` {name in the answer: (heading, unit)}, in that order; what is not there shows a dash."""
    made = panel("table", title, queries, why=why, empty=empty)
    made["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byRegexp", "options": "/.*/"}, "properties": [{"id": "noValue", "value": "–"}]}
    ] + [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for name, (_, unit) in columns.items()
        if unit
    ]
    made["transformations"] = [
        {
            "id": "organize",
            "options": {
                "excludeByName": {} if "Time" in columns else {"Time": True},
                "indexByName": {name: place for place, name in enumerate(columns)},
                "renameByName": {name: heading for name, (heading, _) in columns.items()},
            },
        }
    ]
    # Grafana's own least width, 150, pushes columns out of sight.
    made["fieldConfig"]["defaults"]["custom"] = {"minWidth": 60}
    made["options"] = {"showHeader": True, "cellHeight": "sm", "frameIndex": 0}
    if sort:
        made["options"]["sortBy"] = [{"displayName": sort, "desc": False}]
    return made


def bars(title: str, queries: list[Json], *, why: str, empty: str, unit: str = "short") -> Json:
    """One horizontal bar a series: who is slow, at a glance."""
    made = panel("bargauge", title, queries, why=why, empty=empty, unit=unit)
    made["fieldConfig"]["defaults"]["color"] = {"mode": "fixed", "fixedColor": BLUE}
    made["fieldConfig"]["defaults"]["min"] = 0
    made["options"] = {
        "orientation": "horizontal",
        "displayMode": "basic",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "valueMode": "text",
        "showUnfilled": True,
        "namePlacement": "auto",
        "sizing": "auto",
        "minVizHeight": 12,
        "maxVizHeight": 40,
        "minVizWidth": 8,
        "legend": {"displayMode": "list", "placement": "bottom", "calcs": [], "showLegend": False},
    }
    return made


def shares(
    title: str, queries: list[Json], x: str, parts: dict[str, str], *, why: str, empty: str, unit: str = "s"
) -> Json:
    """One horizontal bar for each value of the column `x`, made of `parts` {column: colour} end to end."""
    made = panel("barchart", title, queries, why=why, empty=empty, unit=unit)
    made["fieldConfig"]["defaults"]["custom"] = {"fillOpacity": 85, "lineWidth": 0}
    made["options"] = {
        "xField": x,
        "orientation": "horizontal",
        "stacking": "normal",
        "showValue": "never",
        "barWidth": 0.8,
        "groupWidth": 0.7,
        "fullHighlight": False,
        "xTickLabelMaxLength": 0,
        "xTickLabelRotation": 0,
        "legend": {"displayMode": "list", "placement": "bottom", "calcs": [], "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "none"},
    }
    return coloured(made, parts)


def scatter(
    title: str, queries: list[Json], x: str, y: str, by: str, *, why: str, empty: str, y_unit: str
) -> Json:
    """An XY chart with lines, one frame for each value of the column `by`. `x` is the axis' label too: a plain number,
    since Grafana's units grow too long to stand side by side ("1.17 mins")."""
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
            "properties": [{"id": "unit", "value": "none"}, {"id": "custom.axisLabel", "value": x}],
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


def by_worker(made: Json) -> Json:
    """The panel with a colour for each worker, the same everywhere, for series whose names begin with the worker's."""
    made["fieldConfig"]["overrides"] += [
        {
            "matcher": {
                "id": "byRegexp",
                "options": f"/^w({'|'.join(str(n) for n in range(first, WORKERS + 1, len(PALETTE)))})\\b/",
            },
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for first, colour in enumerate(PALETTE, 1)
    ]
    return made


def mirrored(made: Json, pattern: str) -> Json:
    """The panel with the series that match drawn downwards."""
    made["fieldConfig"]["overrides"].append(
        {
            "matcher": {"id": "byRegexp", "options": pattern},
            "properties": [{"id": "custom.transform", "value": "negative-Y"}],
        }
    )
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
        "refresh": 2,
        "sort": 2 if newest else 1,
        "regex": regex,
        "multi": many,
        "includeAll": many,
        "hide": 2 if hidden else 0,
        "current": {"text": ["All"], "value": ["$__all"]} if many and not newest else {},
        "options": [],
    }


def notes(name: str, sql: str, colour: str) -> Json:
    """Marks on the time axis: one for each row of the query, with its columns `text` and `kind`. Grafana reads `target`
    (without it an InfluxDB annotation is skipped, silently)."""
    return {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": colour,
        "target": {
            "refId": name,
            "fromAnnotations": True,
            "rawQuery": True,
            "textEditor": True,
            "name": name,
            "query": " ".join(sql.split()),
            "textColumn": "text",
            "tagsColumn": "kind",
            "timeEndColumn": "",
            "titleColumn": "",
        },
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
        "refresh": "10s",  # as often as Telegraf reads; 5s can be chosen
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
