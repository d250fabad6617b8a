// What the store has of a run that has ended: its figures, its workers, where it was made, and files to keep.

import { $, bestOf, bytes, ENDED, h, percent, fixed, seconds, show, when } from "./format.js";

let signs = "";

export function drawReport(state) {
  const run = state.shown;
  const detail = run && ENDED.has(run.state) ? state.details.get(run.id) : null;
  show($("report"), Boolean(detail));
  const sign = detail ? `${run.id} ${detail.report} ${state.versions.get(run.id)} ${state.workers.length}` : "";
  if (!detail || sign === signs) return;
  signs = sign;
  const records = state.records(run);
  const body = $("report-body");
  body.replaceChildren();
  if (detail.experiment.description) body.append(h("p", {}, detail.experiment.description));
  body.append(facts(detail, records));
  if (records.length) body.append(h("h3", {}, "The workers' own accounts, summed over all rounds"), accounts(records, state.workers));
  body.append(h("h3", {}, "To keep"), downloads(run, records, detail.report));
  if (detail.report) return;
  body.append(
    h("p", { class: "quiet" }, "As one page with its charts and the whole experiment: in runs/ where lab run was given, or made by"),
    h("pre", {}, `lab report ${run.id} --url ${location.origin}`),
  );
}

function facts(detail, records) {
  const { environment } = detail;
  const best = bestOf(records);
  const last = records.at(-1);
  const rows = [
    ["result", last ? `${percent(last.accuracy)} accuracy, loss ${fixed(last.loss)} after ${last.round} rounds${best && best !== last ? `; best ${percent(best.accuracy)} in round ${best.round}` : ""}` : "no round was committed"],
    ["created", when(detail.created)],
    ["machine", `${environment.system ?? ""}, ${environment.machine ?? ""}, ${environment.cpus ?? "?"} CPUs`],
    ["versions", `aggregator ${environment.aggregator ?? "?"}, Python ${environment.python ?? "?"}, numpy ${environment.numpy ?? "?"}`],
    ["final weights", last?.weights_hash],
    ["ledger's head", last?.entry_hash],
    ["experiment", detail.experiment_hash],
  ];
  const list = h("dl", { class: "facts" });
  for (const [name, value] of rows) {
    if (value) list.append(h("dt", {}, name), h("dd", {}, value.length === 64 ? h("code", {}, value) : value));
  }
  return list;
}

function accounts(records, workers) {
  const names = new Map(workers.map((worker) => [worker.id, worker.node]));
  const sums = new Map();
  for (const record of records) {
    for (const [id, account] of Object.entries(record.workers)) {
      const sum = sums.get(id) ?? { rounds: 0, clients: 0, cpu: 0, training: 0, sending: 0, up: 0, down: 0, peak: 0 };
      sum.rounds += 1;
      sum.clients += account.clients.length;
      sum.cpu += account.cpu_seconds;
      sum.training += account.training_seconds;
      sum.sending += account.sending_seconds;
      sum.up += account.bytes_out;
      sum.down += account.bytes_in;
      sum.peak = Math.max(sum.peak, account.peak_memory_bytes);
      sums.set(id, sum);
    }
  }
  const heads = ["rounds", "orders", "CPU", "training", "sending", "in", "out", "peak memory"];
  const table = h("table", {}, h("thead", {}, h("tr", {}, h("th", { class: "left", scope: "col" }, "worker"), ...heads.map((head) => h("th", { scope: "col" }, head)))));
  const rows = h("tbody");
  const name = ([id]) => names.get(id) ?? id;
  for (const [id, sum] of [...sums].sort((a, b) => name(a).localeCompare(name(b), undefined, { numeric: true }))) {
    const cells = [sum.rounds, sum.clients, seconds(sum.cpu), seconds(sum.training), seconds(sum.sending), bytes(sum.down), bytes(sum.up), bytes(sum.peak)];
    rows.append(h("tr", {}, h("th", { scope: "row" }, names.get(id) ?? id), ...cells.map((cell) => h("td", {}, String(cell)))));
  }
  table.append(rows);
  return h("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "The workers' accounts" }, table);
}

function downloads(run, records, report) {
  const line = h("p", { class: "downloads" });
  const link = (words, href, name) => line.append(h("a", { class: "button", href, download: name }, words));
  const at = `/v1/runs/${run.id}`;
  if (report) line.append(h("a", { class: "button primary", href: `${at}/report` }, "The report, with its charts"));
  if (records.length) {
    const table = h("button", { type: "button" }, "Rounds (CSV)");
    table.addEventListener("click", () => save(`${run.id}-rounds.csv`, csv(records)));
    line.append(table);
    link("Model (safetensors)", `${at}/model?which=latest`, `${run.id}.safetensors`);
    link("Ledger (JSON)", `${at}/ledger`, `${run.id}-ledger.json`);
  }
  link("All of it (JSON)", at, `${run.id}.json`);
  return line;
}

function csv(records) {
  const columns = ["round", "attempt", "accuracy", "loss", "train_loss", "seconds", "bytes_up", "bytes_down", "num_examples", "late", "lost", "committed", "weights_hash"];
  const lines = records.map((record) => [...columns.map((name) => record[name] ?? ""), record.participants.length].join(","));
  return `${[...columns, "clients"].join(",")}\n${lines.join("\n")}\n`;
}

function save(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
