// Who is there, what each does, and which clients sit with it.

import { $, byName, bytes, count, h, keep, put, ranges, show } from "./format.js";

const CHIPS = 16; // clients shown one by one
const GONE = 5; // workers that have left or were lost, shown for a while

export function drawWorkers(state) {
  const run = state.active;
  const asked = new Set(run?.state === "running" ? run.cohort : []);
  const arrived = new Set(run?.arrived);
  const here = state.workers.filter((worker) => worker.state === "present").sort(byName);
  const lost = state.workers.filter((worker) => worker.state === "lost");
  const left = state.workers.filter((worker) => worker.state === "left");
  const rows = [...here, ...lost.slice(-GONE)];
  show($("workers"), rows.length > 0);
  show($("workers-none"), rows.length === 0);
  const clients = here.reduce((sum, worker) => sum + worker.clients.length, 0);
  put($("workers-sum"), here.length ? `${count(here.length, "worker")} with ${count(clients, "client")}` : "");
  keep(
    $("t-workers"),
    rows,
    (worker) => worker.id,
    (worker) => JSON.stringify([busy(worker, asked, arrived), worker.clients, worker.pinned, Math.round(worker.memory_bytes / 1e6), marks(worker, asked, arrived)]),
    () => h("tr"),
    (row, worker) => fill(row, worker, asked, arrived),
  );
  const gone = [];
  if (lost.length > GONE) gone.push(`${lost.length - GONE} more lost`);
  if (left.length) gone.push(`${left.length} ${left.length === 1 ? "has" : "have"} left`);
  put($("workers-gone"), gone.join(", "));
}

/** What it said when it last asked for work may be seconds old; which updates are missing is not. */
function busy(worker, asked, arrived) {
  if (worker.state === "lost") return ["lost", "lost"];
  const missing = worker.clients.filter((client) => asked.has(client) && !arrived.has(client)).length;
  if (missing) return ["busy", `training ${count(missing, "client")}`];
  const { doing } = worker;
  if (!doing || doing === "waiting" || doing.startsWith("training")) return ["idle", "waiting"];
  return ["busy", doing];
}

function marks(worker, asked, arrived) {
  return worker.clients.slice(0, CHIPS).map((client) => (arrived.has(client) ? 2 : asked.has(client) ? 1 : 0)).join("");
}

function fill(row, worker, asked, arrived) {
  const [kind, words] = busy(worker, asked, arrived);
  const machine = [worker.arch, count(worker.cpus, "CPU"), worker.accelerator].filter(Boolean).join(", ");
  row.replaceChildren(
    h("th", { scope: "row" }, worker.node),
    h("td", { class: `left ${kind}` }, words),
    h("td", { class: "left clients" }, seated(worker, asked, arrived)),
    h("td", { class: "wide" }, worker.memory_bytes ? bytes(worker.memory_bytes) : ""),
    h("td", { class: "widest left" }, worker.host === worker.node ? machine : `${worker.host}: ${machine}`),
  );
}

function seated(worker, asked, arrived) {
  const line = h("div", { class: "chips" });
  if (worker.clients.length > CHIPS) line.append(`${ranges(worker.clients)} (${worker.clients.length})`);
  else {
    for (const client of worker.clients) {
      const word = arrived.has(client) ? "in" : asked.has(client) ? "asked" : "";
      const chip = h("span", { class: `chip ${word}`, title: word ? `client ${client}: ${word === "in" ? "its update is in" : "asked, not in yet"}` : `client ${client}` }, String(client));
      if (word) chip.append(h("span", { class: "hidden" }, word === "in" ? " in" : " asked"));
      line.append(chip);
    }
  }
  if (worker.pinned) line.append(h("span", { class: "tag", title: "its data is on this node only" }, "pinned"));
  return line;
}
