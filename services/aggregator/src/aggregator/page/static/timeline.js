// Where the rounds' seconds go: a lane for each worker, drawn on a canvas, and one round as a table.

import { $, bytes, h, keep, percent, put, ranges, seconds } from "./format.js";

const LANES = 80; // workers drawn
let hits = null; // what the pointer reads
let signs = "";

/** A worker's part of a round in seconds: training and sending as it told them, waiting is the rest. */
export function parts(record, account) {
  const all = record.seconds;
  const training = Math.min(account.training_seconds, all);
  const sending = Math.min(account.sending_seconds, all - training);
  return { training, sending, waiting: all - training - sending };
}

/** Draw once more, whatever was drawn. */
export function again() {
  signs = "";
}

export function drawTimeline(state) {
  const run = state.shown;
  const names = new Map(state.workers.map((worker) => [worker.id, worker.node]));
  const records = state.records(run).slice(-Number($("window").value));
  const live = run && run.id === state.active?.id && run.state === "running" && run.cohort.length && run.round < run.rounds;
  const canvas = $("timeline");
  const sign = [run?.id, state.versions.get(run?.id), records.length, names.size, canvas.clientWidth, live && state.now].join(" ");
  if (sign === signs) return;
  signs = sign;
  const here = live ? state.workers.filter((worker) => worker.state === "present").map((worker) => worker.id) : [];
  const name = (id) => names.get(id) ?? id;
  const workers = [...new Set([...records.flatMap((record) => Object.keys(record.workers)), ...here])]
    .sort((a, b) => name(a).localeCompare(name(b), undefined, { numeric: true }))
    .slice(0, LANES);
  paint(canvas, state, run, records, workers, names, live);
  canvas.setAttribute("aria-label", told(records, workers, names));
  drawAccounts(run, records, names);
}

function paint(canvas, state, run, records, workers, names, live) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const base = parseFloat(style.fontSize);
  const width = canvas.clientWidth;
  const lane = workers.length <= 10 ? base * 1.7 : workers.length <= 25 ? base * 1.2 : base * 0.85;
  const top = base * 1.3;
  const height = Math.max(top + lane * Math.max(workers.length, 3) + base * 0.4, 60);
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const draw = canvas.getContext("2d");
  draw.setTransform(ratio, 0, 0, ratio, 0, 0);
  draw.clearRect(0, 0, width, height);
  draw.font = `${Math.round(Math.min(base * 0.8, lane))}px system-ui, sans-serif`;
  draw.textBaseline = "middle";
  if (!records.length && !live) {
    draw.fillStyle = colour("quiet");
    draw.fillText(run ? "no round has been committed yet" : "no run yet", 0, height / 2);
    hits = null;
    return;
  }
  const left = Math.min(width * 0.28, Math.max(...workers.map((id) => draw.measureText(names.get(id) ?? id).width), 30) + base * 0.8);
  const first = records[0]?.started ?? state.begun.at;
  const last = records.at(-1)?.committed;
  const most = last ? last + Math.max((last - first) * 0.5, 1) : Infinity; // a round that lasts must not squeeze the others
  const end = live ? Math.min(Math.max(state.now, last ?? 0), most) : last;
  const scale = (width - left) / Math.max(end - first, 0.001);
  const x = (time) => left + (time - first) * scale;
  const bar = lane * 0.72;
  const y = (row) => top + row * lane + (lane - bar) / 2;

  workers.forEach((id, row) => {
    draw.fillStyle = colour("ink");
    draw.fillText(clipped(draw, names.get(id) ?? id, left - base * 0.6), 0, top + (row + 0.5) * lane);
  });
  const paints = Object.fromEntries(["training", "sending", "waiting", "folding", "line", "quiet"].map((name) => [name, colour(name)]));
  let free = -Infinity;
  for (const record of records) {
    const folding = record.phases.aggregate ?? 0;
    draw.fillStyle = paints.line;
    draw.fillRect(x(record.started), top - 3, 1, height - top);
    const label = String(record.round);
    if (x(record.started) > free) {
      draw.fillStyle = paints.quiet;
      draw.fillText(label, x(record.started) + 3, top / 2);
      free = x(record.started) + draw.measureText(label).width + base * 1.2;
    }
    workers.forEach((id, row) => {
      const account = record.workers[id];
      if (!account) return;
      let at = record.started;
      for (const [name, length] of Object.entries(parts(record, account))) {
        draw.fillStyle = paints[name];
        draw.fillRect(x(at), y(row), Math.max(length * scale - (name === "waiting" ? 1 : 0), length > 0 ? 0.5 : 0), bar);
        at += length;
      }
    });
    if (folding * scale > 0.5) {
      draw.fillStyle = paints.folding;
      draw.fillRect(x(record.committed - folding), top - 4, folding * scale, 3);
    }
  }
  if (live) paintLive(draw, state, run, workers, { x, y, bar, end, paints, top, free });
  hits = { records, workers, names, x, first, scale, left, top, lane };
}

/** The round under way: training until the last of a worker's clients is in, as far as this page has heard. */
function paintLive(draw, state, run, workers, { x, y, bar, end, paints, top, free }) {
  const begun = Math.min(state.begun.at, end);
  const asked = new Set(run.cohort);
  const since = Math.floor(state.now - begun);
  const label = since < 5 ? `${run.round + 1}` : `${run.round + 1}: ${since} s by now`;
  const beside = Math.max(x(begun) + 3, free);
  if (beside + draw.measureText(label).width <= x(end)) {
    draw.fillStyle = paints.quiet;
    draw.fillText(label, beside, top / 2);
  }
  const rows = new Map(workers.map((id, row) => [id, row]));
  for (const worker of state.workers) {
    const row = rows.get(worker.id);
    if (row == null || worker.state !== "present") continue;
    const own = worker.clients.filter((client) => asked.has(client));
    const times = own.map((client) => state.arrivals.get(client));
    const until = own.length === 0 ? begun : times.some((time) => time == null) ? end : Math.min(Math.max(...times), end);
    draw.globalAlpha = 0.55;
    draw.fillStyle = paints.training;
    draw.fillRect(x(begun), y(row), Math.max(x(until) - x(begun), 0), bar);
    draw.fillStyle = paints.waiting;
    draw.fillRect(x(until), y(row), Math.max(x(end) - x(until), 0), bar);
    draw.globalAlpha = 1;
  }
}

function clipped(draw, text, room) {
  if (draw.measureText(text).width <= room) return text;
  let short = text;
  while (short.length > 1 && draw.measureText(`${short}…`).width > room) short = short.slice(0, -1);
  return `${short}…`;
}

function told(records, workers, names) {
  if (!records.length) return "No round has been committed yet";
  const sums = { training: 0, sending: 0, waiting: 0 };
  const busy = new Map();
  for (const record of records) {
    for (const [id, account] of Object.entries(record.workers)) {
      const part = parts(record, account);
      for (const name of Object.keys(sums)) sums[name] += part[name];
      busy.set(id, (busy.get(id) ?? 0) + part.training);
    }
  }
  const all = sums.training + sums.sending + sums.waiting || 1;
  const [most] = [...busy].sort((a, b) => b[1] - a[1]);
  const shares = Object.entries(sums).map(([name, value]) => `${percent(value / all, 0)} ${name}`);
  return `Rounds ${records[0].round} to ${records.at(-1).round} of ${workers.length} workers: ${shares.join(", ")}${most ? `; ${names.get(most[0]) ?? most[0]} trained longest` : ""}. One round at a time is in the table below`;
}

export function listenToPointer() {
  const canvas = $("timeline");
  canvas.addEventListener("pointermove", (event) => {
    if (!hits) return;
    const box = canvas.getBoundingClientRect();
    const time = hits.first + (event.clientX - box.left - hits.left) / hits.scale;
    const id = hits.workers[Math.floor((event.clientY - box.top - hits.top) / hits.lane)];
    const record = hits.records.find((record) => record.started <= time && time <= record.committed);
    const account = record?.workers[id];
    if (!account) return put($("r-timeline"), "");
    const words = Object.entries(parts(record, account)).map(([name, value]) => `${name} ${seconds(value)}`);
    put($("r-timeline"), `round ${record.round} · ${hits.names.get(id) ?? id} · ${words.join(" · ")}`);
  });
  canvas.addEventListener("pointerleave", () => put($("r-timeline"), ""));
}

export function drawAccounts(run, records, names) {
  if (!$("d-workers").open) return;
  const select = $("which-round");
  const latest = records.at(-1);
  const numbers = records.map((record) => record.round).reverse();
  keep(select, ["latest", ...numbers], (name) => `${run?.id} ${name}`, () => "", (name) => h("option", { value: name }, String(name)), () => {});
  if (select.selectedIndex < 0) select.selectedIndex = 0;
  const record = records.find((record) => String(record.round) === select.value) ?? latest;
  const rows = record ? Object.entries(record.workers) : [];
  keep(
    $("t-accounts"),
    rows,
    ([id]) => id,
    () => `${run.id} ${record.round} ${record.committed}`,
    () => h("tr"),
    (row, [id, account]) => {
      const part = parts(record, account);
      const cells = [part.training, part.sending, part.waiting, account.cpu_seconds].map((value) => seconds(value));
      cells.push(bytes(account.bytes_in), bytes(account.bytes_out));
      row.replaceChildren(
        h("th", { scope: "row" }, names.get(id) ?? id),
        ...cells.map((cell) => h("td", {}, cell)),
        h("td", { class: "left" }, ranges(account.clients)),
      );
    },
  );
}
