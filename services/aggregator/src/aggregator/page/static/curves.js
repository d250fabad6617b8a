// Accuracy and loss, drawn by uPlot, and the same as a table.

import { $, bytes, count, fixed, h, keep, percent, put, seconds, show } from "./format.js";

const ROWS = 500; // of the table

const CHARTS = [
  {
    id: "accuracy",
    name: "accuracy",
    words: (value) => percent(value),
    axis: (value) => `${+(100 * value).toFixed(2)} %`,
    series: [
      ["test", "test set", (record) => record.accuracy],
      ["held", "clients' held-out examples", (record) => record.federated.accuracy],
    ],
  },
  {
    id: "loss",
    name: "loss",
    words: (value) => fixed(value),
    axis: (value) => `${+value.toPrecision(4)}`,
    series: [
      ["test", "test set", (record) => record.loss],
      ["train", "training", (record) => record.train_loss],
    ],
  },
];

let plots = [];
let signs = "";

/** Draw once more, whatever was drawn; `colours`: they have changed, too. */
export function again(colours = false) {
  signs = "";
  if (!colours) return;
  for (const { plot, sizes } of plots) {
    sizes.disconnect();
    plot.destroy();
  }
  plots = [];
}

export function drawCurves(state) {
  const run = state.shown;
  const records = state.records(run);
  const other = state.runs.get($("beside").value);
  const beside = other && other.id !== run?.id ? state.records(other) : [];
  const against = $("against").value;
  const sign = [run?.id, state.versions.get(run?.id), other?.id, state.versions.get(other?.id), against].join(" ");
  if (sign === signs && plots.length) return;
  signs = sign;
  if (!plots.length) plots = CHARTS.map(made);
  const [own, theirs] = [places(run, records, against), places(other, beside, against)];
  const x = [...new Set([...own, ...theirs])].sort((a, b) => a - b);
  const rank = new Map(x.map((value, at) => [value, at]));
  for (const { chart, plot } of plots) {
    const lines = chart.series.map(([, , pick]) => spread(x, rank, own, records, pick));
    lines.push(spread(x, rank, theirs, beside, chart.series[0][2]));
    plot.against = against;
    plot.setData([x, ...lines]);
    $(`c-${chart.id}`).setAttribute("aria-label", told(chart, records));
  }
  show($("key-held"), records.some((record) => record.federated.accuracy != null));
  show($("key-train"), records.some((record) => record.train_loss != null));
  show($("key-other"), beside.length > 0);
  put($("key-other"), other?.id ?? "");
  drawRounds(run, records);
}

function places(run, records, against) {
  if (against === "round") return records.map((record) => record.round);
  const first = run?.first_order ?? records[0]?.started ?? 0;
  return records.map((record) => (record.committed - first) / 60);
}

function spread(x, rank, places, records, pick) {
  const line = new Array(x.length).fill(undefined);
  records.forEach((record, at) => {
    line[rank.get(places[at])] = pick(record) ?? undefined;
  });
  return line;
}

function told(chart, records) {
  const values = records.map(chart.series[0][2]).filter((value) => value != null);
  if (!values.length) return `${chart.name}: nothing measured yet`;
  return `${chart.name} on the test set over ${count(records.length, "round")}: from ${chart.words(values[0])} to ${chart.words(values.at(-1))}; the rounds are in the table below`;
}

function made(chart) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const holder = $(`c-${chart.id}`);
  const base = parseFloat(style.fontSize);
  const font = `${Math.round(base * 0.8)}px system-ui, sans-serif`;
  const axis = { stroke: colour("quiet"), font, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false } };
  const line = ([name]) => ({
    stroke: colour(name),
    width: name === "test" ? 2.5 : 1.75,
    spanGaps: true,
    points: { show: (plot, series) => plot.data[series].filter((value) => value != null).length < 40, size: 6, fill: colour("panel") },
  });
  const readout = $(`r-${chart.id}`);
  const plot = new uPlot(
    {
      width: holder.clientWidth || 300,
      height: holder.clientHeight || 200,
      legend: { show: false },
      cursor: { y: false, points: { size: 8 }, drag: { x: false, y: false } },
      scales: { x: { time: false, range: (u, low, high) => (low == null ? [0, 10] : low === high ? [low - 1, high + 1] : [low, high]) } },
      axes: [
        { ...axis, size: base * 1.9, values: (u, ticks) => ticks.map((tick) => (Number.isInteger(tick) || u.against === "time" ? `${+tick.toFixed(2)}` : "")) },
        { ...axis, size: base * 4.1, values: (u, ticks) => ticks.map(chart.axis) },
      ],
      series: [{}, ...chart.series.map(line), { stroke: colour("other"), width: 1.75, dash: [5, 4], spanGaps: true, points: { show: false } }],
      hooks: {
        setCursor: [
          (u) => {
            const at = u.cursor.idx;
            if (at == null) return put(readout, "");
            const place = u.against === "time" ? `minute ${u.data[0][at].toFixed(1)}` : `round ${u.data[0][at]}`;
            const values = chart.series.map(([, name], k) => [name, u.data[k + 1][at]]).filter(([, value]) => value != null);
            put(readout, [place, ...values.map(([name, value]) => `${name} ${chart.words(value)}`)].join(" · "));
          },
        ],
      },
    },
    [[], ...chart.series.map(() => []), []],
    holder,
  );
  const sizes = new ResizeObserver(() => {
    if (holder.clientWidth) plot.setSize({ width: holder.clientWidth, height: holder.clientHeight });
  });
  sizes.observe(holder);
  return { chart, plot, sizes };
}

export function drawRounds(run, records) {
  if (!$("d-rounds").open) return;
  const rows = records.slice(-ROWS).reverse();
  keep(
    $("t-rounds"),
    rows,
    (record) => `${run.id} ${record.round}`,
    (record) => `${record.accuracy} ${record.loss} ${record.committed}`,
    () => h("tr"),
    (row, record) => {
      const cells = [percent(record.accuracy), fixed(record.loss), seconds(record.seconds), bytes(record.bytes_up), bytes(record.bytes_down)];
      const clients = [`${record.participants.length} in`];
      if (record.late) clients.push(`${record.late} late`);
      if (record.lost) clients.push(`${record.lost} lost`);
      if (record.attempt > 1) clients.push(`try ${record.attempt}`);
      row.replaceChildren(
        h("th", { scope: "row" }, String(record.round)),
        ...cells.map((cell) => h("td", {}, cell)),
        h("td", { class: clients.length > 1 ? "left trouble" : "left" }, clients.join(", ")),
      );
    },
  );
  put($("t-rounds-more"), records.length > ROWS ? `The last ${ROWS} of ${records.length}; all are in the CSV of the report.` : "");
}
