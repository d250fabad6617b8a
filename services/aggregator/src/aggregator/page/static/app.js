// The page, put together: the lab's stream goes into `state`, and what changed is drawn, a few times a second.

import { controls } from "./control.js";
import * as curves from "./curves.js";
import { $, ENDED, h, keep, percent, put } from "./format.js";
import { drawReport } from "./report.js";
import { doing, drawRun } from "./run.js";
import { drawRuns, listenToMore } from "./runs.js";
import { State } from "./state.js";
import { watch } from "./stream.js";
import * as timeline from "./timeline.js";
import { drawWorkers } from "./workers.js";

const BREATH = 200; // ms between two drawings
const NEWS = 20_000; // ms between two announcements to those who listen
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const state = new State();
const ask = controls(state);
let due = null;
let said = { at: -Infinity, state: "" };

function changed() {
  due ??= setTimeout(() => requestAnimationFrame(draw), BREATH);
}

function draw() {
  due = null;
  const begun = performance.now();
  drawRun(state);
  curves.drawCurves(state);
  timeline.drawTimeline(state);
  drawWorkers(state);
  drawRuns(state, ask);
  drawReport(state);
  drawBeside();
  announce();
  catchUp();
  performance.measure("draw", { start: begun, detail: state.shown?.round });
  performance.clearMeasures("draw");
}

/** What the stream does not tell: the experiment, and what a run came to after we last heard of it. */
const asked = new Map(); // run → its state and rounds when it was last asked for
async function catchUp() {
  for (const run of [state.shown, state.runs.get($("beside").value)]) {
    if (!run) continue;
    const known = state.details.get(run.id);
    const sign = `${ENDED.has(run.state)} ${run.ended}`;
    if ((known && !ENDED.has(run.state)) || asked.get(run.id) === sign) continue;
    asked.set(run.id, sign);
    try {
      const reply = await fetch(`/v1/runs/${run.id}`);
      if (!reply.ok) throw new Error();
      state.detail(await reply.json());
    } catch {
      asked.delete(run.id); // when the link is up again
      continue;
    }
    state.forget($("beside").value);
    for (const id of asked.keys()) if (!state.details.has(id)) asked.delete(id);
    changed();
  }
}

function drawBeside() {
  const others = state.past.filter((run) => run.id !== state.shown?.id && run.round > 0).slice(0, 20);
  keep($("beside"), [null, ...others], (run) => run?.id ?? "", () => "", (run) => h("option", { value: run?.id ?? "" }, run ? `${run.name}, ${run.id.slice(0, 15)}` : "no other run"), () => {});
  if ($("beside").selectedIndex < 0) $("beside").selectedIndex = 0;
}

/** For those who listen: a change of state at once, rounds no more than a few times a minute. */
function announce() {
  const run = state.active ?? state.shown;
  if (!run) return;
  const now = performance.now();
  const key = `${run.id} ${run.state}`;
  if (key === said.state && (run.state !== "running" || now - said.at < NEWS)) return;
  said = { at: now, state: key };
  const accuracy = run.accuracy == null ? "" : `, accuracy ${percent(run.accuracy, 1)}`;
  put($("news"), `${run.name} is ${run.state}: ${run.reason ?? doing(run)}${accuracy}`);
}

function linked(up) {
  $("link").dataset.link = up ? "live" : "lost";
  put($("link-text"), up ? "live" : "not reached, trying again");
  if (up) changed();
}

function choose() {
  const [, id] = location.hash.match(/^#run=(.+)$/) ?? [];
  state.chosen = id ? decodeURIComponent(id) : null;
  asked.delete(state.chosen); // its report may have been written since
  changed();
  if (id) $("run").focus();
}

function again(colours) {
  curves.again(colours);
  timeline.again();
  changed();
}

if (window.uPlot) $("waiting").remove(); // every part of the page has arrived
addEventListener("hashchange", choose);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => again(true));
addEventListener("resize", () => again());
for (const id of ["against", "beside", "window", "which-round"]) $(id).addEventListener("change", () => again());
for (const id of ["d-rounds", "d-workers"]) $(id).addEventListener("toggle", () => again());
listenToMore(changed);
timeline.listenToPointer();
setInterval(() => {
  if (state.active?.state === "running" && !document.hidden && !calm.matches) changed(); // the round under way grows
}, 500);
choose();
watch("/v1/events", {
  told: (event) => {
    state.told(event);
    changed();
  },
  linked,
  refused: () => location.reload(), // the form that asks for the token
});
