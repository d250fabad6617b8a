// The run that is shown: its name, what happens now, its figures, and the table its clients sit at.

import { $, bestOf, bytes, clock, count, ENDED, fixed, percent, put, seconds, show } from "./format.js";

const SEATS = 48; // more clients than this are a ring that fills
const RECENT = 5; // rounds that the time left is estimated from

export function drawRun(state) {
  const run = state.shown;
  drawTable(run);
  show($("follow"), Boolean(state.chosen && state.active && run?.id !== state.active.id));
  show($("stop"), Boolean(run) && !ENDED.has(run.state));
  const unbegun = run?.state === "waiting" && !run.first_order;
  show($("resume"), unbegun || ["stopped", "failed", "paused"].includes(run?.state));
  put($("resume"), run?.state === "waiting" ? "Begin now…" : "Go on…");
  show($("again"), Boolean(run) && ENDED.has(run.state));
  if (!run) return;
  const records = state.records(run);
  document.title = `${run.name}: ${run.round}/${run.rounds}${run.accuracy == null ? "" : ` · ${percent(run.accuracy, 1)}`} · Roundtable`;
  put($("run-name"), run.name);
  put($("run-id"), run.id);
  put($("run-state"), run.state);
  $("run-state").dataset.state = run.state;
  put($("run-what"), about(state.details.get(run.id)?.experiment, run.cohort.length));
  show($("run-reason"), Boolean(run.reason) && run.state !== "finished");
  put($("run-reason"), run.reason ?? "");
  const bar = $("run-progress");
  bar.max = run.rounds;
  bar.value = run.round;
  put($("run-now"), doing(run));
  figures(state, run, records);
}

function about(experiment, cohort) {
  if (!experiment) return " ";
  const { clients, partition, training } = experiment;
  const parts = [experiment.task, `${count(clients.count, "client")} (${partition.kind})`];
  if (cohort && cohort < clients.count) parts.push(`${cohort} a round`);
  parts.push(count(training.epochs, "local epoch"), `seed ${experiment.seed}`);
  return parts.join(" · ");
}

/** In words, so that nothing looks frozen. */
export function doing(run) {
  if (run.state === "finished") return `finished: ${run.reason ?? count(run.round, "round")}`;
  if (ENDED.has(run.state)) return `${run.state} after ${count(run.round, "round")}`;
  if (run.state === "queued") return "in the queue: another run is active";
  if (run.state === "waiting") return run.round ? `waiting, after ${count(run.round, "round")}` : "waiting to begin";
  if (run.state === "initializing") return "making the first weights";
  if (run.state === "paused") return `paused after round ${run.round}`;
  if (run.round >= run.rounds) return "evaluating the last round";
  if (!run.cohort.length) return `round ${run.round + 1} of ${run.rounds}`;
  return `round ${run.round + 1} of ${run.rounds}: ${run.arrived.length} of ${count(run.cohort.length, "client")} in`;
}

function figures(state, run, records) {
  const last = records.at(-1);
  const scored = records.filter((record) => record.accuracy != null);
  const best = bestOf(records);
  const recent = records.slice(-RECENT).map((record) => record.seconds).sort((a, b) => a - b);
  const each = recent.length ? recent[Math.floor(recent.length / 2)] : null;
  put($("f-accuracy"), percent(scored.at(-1)?.accuracy ?? run.accuracy));
  put($("f-loss"), fixed(records.findLast((record) => record.loss != null)?.loss));
  put($("f-best"), percent(best?.accuracy, 1));
  put($("f-best-name"), best ? `best, in round ${best.round}` : "best");
  put($("f-round"), seconds(each));
  const over = ENDED.has(run.state);
  put($("f-left-name"), over ? "training took" : "time left");
  if (over) put($("f-left"), last && run.first_order ? seconds(last.committed - run.first_order) : "–");
  else if (each == null || run.state !== "running") put($("f-left"), "–");
  else {
    const underWay = Math.min(Math.max(state.now - last.committed, 0), each);
    put($("f-left"), clock(Math.max(each * (run.rounds - run.round) - underWay, 0)));
  }
  const sum = (name) => records.reduce((total, record) => total + record[name], 0);
  put($("f-up"), records.length ? `${bytes(sum("bytes_up"))} up` : "–");
  put($("f-down"), records.length ? `${bytes(sum("bytes_down"))} down` : "");
}

// --- the table: each client of the round has a seat, filled once its update is in

const SVG = "http://www.w3.org/2000/svg";
let drawn = "";
let seats = new Map();

function svg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text != null) element.textContent = text;
  return element;
}

function drawTable(run) {
  const clients = run && !ENDED.has(run.state) ? [...run.cohort].sort((a, b) => a - b) : [];
  const sign = `${run?.id} ${clients.length <= SEATS ? clients : clients.length}`;
  if (sign !== drawn) lay(sign, clients);
  const picture = $("table").firstChild;
  const share = run ? run.round / Math.max(run.rounds, 1) : 0;
  const length = 2 * Math.PI * 58;
  const [done, big, small] = ["done", "big", "small"].map((name) => picture.querySelector(`.${name}`));
  done.setAttribute("stroke-dashoffset", String(length * (1 - share)));
  done.setAttribute("visibility", share ? "visible" : "hidden");
  put(big, run ? `${run.round}` : "–");
  put(small, run ? `of ${run.rounds} rounds` : "no run");
  const arrived = new Set(run?.arrived);
  for (const [client, seat] of seats) seat.classList.toggle("in", arrived.has(client));
}

function lay(sign, clients) {
  drawn = sign;
  seats = new Map();
  const length = String(2 * Math.PI * 58);
  const seated = clients.length > 0 && clients.length <= SEATS;
  const picture = svg("svg", { viewBox: seated ? "-100 -100 200 200" : "-78 -78 156 156" });
  picture.append(
    svg("circle", { class: "ring", r: 58 }),
    svg("circle", { class: "done", r: 58, transform: "rotate(-90)", "stroke-dasharray": length, "stroke-dashoffset": length }),
    svg("text", { class: "big", y: 6 }),
    svg("text", { class: "small", y: 26 }),
  );
  if (seated) {
    const size = Math.min(9, 240 / clients.length);
    clients.forEach((client, place) => {
      const angle = (2 * Math.PI * place) / clients.length - Math.PI / 2;
      const seat = svg("circle", { class: "seat", cx: 84 * Math.cos(angle), cy: 84 * Math.sin(angle), r: size });
      seats.set(client, seat);
      picture.append(seat);
    });
  }
  $("table").replaceChildren(picture);
}
