// Start, stop, go on: with the admin token, which the user types in. It stays in this tab (sessionStorage) and
// travels as a header alone.

import { $, count, h, put, show } from "./format.js";

const KEPT = "roundtable admin token";
let action = null;

/** What can be asked for; each opens the dialog. `state` names the runs that can be started again. */
export function controls(state) {
  const ask = {
    stop: (run) =>
      open(`Stop ${run.name}?`, `${run.id} is ${run.state}, after ${count(run.round, "round")}. It can be gone on with later.`, "Stop", () => post(`/v1/runs/${run.id}/stop`)),
    resume: (run) =>
      open(`Go on with ${run.name}?`, `${run.id} is ${run.state}, after ${count(run.round, "round")} of ${run.rounds}.`, run.state === "waiting" ? "Begin" : "Go on", () => post(`/v1/runs/${run.id}/resume`)),
    again: (run) => {
      sources(state, run.id);
      open(`Run ${run.name} again?`, "The same experiment as a new run, behind those that wait.", "Start", start, true);
    },
    start: () => {
      sources(state, state.shown?.id ?? "");
      open("Start a run", "It begins at once, or waits in the queue for its turn.", "Start", start, true);
    },
  };
  $("start").addEventListener("click", ask.start);
  for (const name of ["stop", "resume", "again"]) $(name).addEventListener("click", () => state.shown && ask[name](state.shown));
  $("ask-form").addEventListener("submit", carryOut);
  $("ask-cancel").addEventListener("click", () => $("ask").close());
  $("ask").addEventListener("close", () => ($("admin").value = ""));
  $("source").addEventListener("change", fromFile);
  $("file").addEventListener("change", async () => {
    const [file] = $("file").files;
    if (file) $("text").value = await file.text();
  });
  $("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEPT);
    kept();
    $("start").focus();
  });
  kept();
  return ask;
}

function open(title, text, word, act, starting = false) {
  action = act;
  put($("ask-title"), title);
  put($("ask-text"), text);
  put($("ask-do"), word);
  put($("ask-fault"), "");
  show($("ask-start"), starting);
  kept();
  $("ask").showModal();
  if (!sessionStorage.getItem(KEPT)) $("admin").focus();
  else if (starting) $("source").focus();
  else $("ask-do").focus();
}

/** One entry for each experiment that has a run, the latest first. */
function sources(state, chosen) {
  const seen = new Map();
  for (const run of [...state.runs.values()].reverse()) if (!seen.has(run.experiment_hash)) seen.set(run.experiment_hash, run);
  const runs = [...seen.values()].slice(0, 30);
  const hash = state.runs.get(chosen)?.experiment_hash;
  const options = runs.map((run) => h("option", { value: run.id, selected: run.experiment_hash === hash }, `${run.name}, as in ${run.id}`));
  $("source").replaceChildren(...options, h("option", { value: "" }, "an experiment file…"));
  fromFile();
}

function fromFile() {
  show($("from-file"), $("source").value === "");
}

async function start() {
  let experiment;
  if ($("source").value) experiment = (await send("GET", `/v1/runs/${$("source").value}`)).experiment;
  else experiment = await send("POST", "/v1/experiments", $("text").value, "application/toml");
  const run = await send("POST", "/v1/runs", JSON.stringify({ experiment, again: true }));
  location.hash = run.state === "queued" ? `run=${run.id}` : "";
}

const post = (path) => send("POST", path);

async function carryOut(event) {
  event.preventDefault();
  const typed = $("admin").value.trim();
  if (typed) sessionStorage.setItem(KEPT, typed);
  if (!sessionStorage.getItem(KEPT)) {
    put($("ask-fault"), "The admin token is missing: type it in.");
    return $("admin").focus();
  }
  put($("ask-fault"), "");
  $("ask-do").disabled = true;
  try {
    await action();
    $("ask").close();
  } catch (fault) {
    if (fault.status === 401) sessionStorage.removeItem(KEPT);
    put($("ask-fault"), fault.message);
  } finally {
    $("ask-do").disabled = false;
    kept();
    if ($("ask").open && !sessionStorage.getItem(KEPT)) $("admin").select();
  }
}

function kept() {
  const known = Boolean(sessionStorage.getItem(KEPT));
  show($("ask-token"), !known);
  show($("forget-line"), known);
}

async function send(method, path, body, type = "application/json") {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEPT)}` };
  if (body !== undefined) headers["Content-Type"] = type;
  let reply;
  try {
    reply = await fetch(path, { method, headers, body });
  } catch {
    throw new Error("The aggregator does not answer: try again in a moment.");
  }
  const said = await reply.json();
  if (!reply.ok) throw Object.assign(new Error(said.detail), { status: reply.status });
  return said;
}
