// What the page knows: events are folded into it, views read it.

import { ENDED } from "./format.js";

const ACCOUNTS = 250; // rounds whose workers' accounts are kept

export class State {
  runs = new Map(); // id → view, oldest first
  workers = [];
  workersAt = 0; // ms of this machine's clock
  rounds = new Map(); // run → Map(round → record), of the run shown and those not ended
  versions = new Map(); // run → how often its rounds have changed
  details = new Map(); // run → detail, of the run shown and the one beside it
  arrivals = new Map(); // client → seconds (aggregator's clock), of the round under way
  begun = { run: null, round: -1, at: 0, held: false }; // the round under way; held: its run does not go on just now
  ahead = 0; // seconds that the aggregator's clock is ahead of ours
  chosen = null; // by the address: a run to be shown whatever is active
  note = "";

  get now() {
    return Date.now() / 1000 + this.ahead;
  }

  get active() {
    const open = [...this.runs.values()].filter((run) => !ENDED.has(run.state));
    return open.find((run) => run.state !== "queued") ?? open[0] ?? null;
  }

  get queue() {
    const active = this.active;
    return [...this.runs.values()].filter((run) => !ENDED.has(run.state) && run !== active);
  }

  /** Latest first. */
  get past() {
    return [...this.runs.values()].filter((run) => ENDED.has(run.state)).sort((a, b) => b.ended - a.ended);
  }

  get shown() {
    return this.runs.get(this.chosen) ?? this.active ?? this.past[0] ?? null;
  }

  /** Of a run: its records in order, without round 0. */
  records(run) {
    return run ? [...(this.rounds.get(run.id)?.values() ?? [])].sort((a, b) => a.round - b.round).filter((r) => r.round > 0) : [];
  }

  told(event) {
    this.ahead = event.at - Date.now() / 1000;
    if (event.kind === "runs") {
      this.runs = new Map(event.runs.map((run) => [run.id, run]));
    } else if (event.kind === "run") {
      this.runs.set(event.run.id, event.run);
      if (event.run.id === this.active?.id) this.#underWay(event.run);
    } else if (event.kind === "round") {
      this.put(event.of, [event.round]);
    } else if (event.kind === "workers") {
      this.workers = event.workers;
      this.workersAt = Date.now();
    } else if (event.kind === "note") {
      this.note = event.note;
    }
  }

  put(run, records) {
    let known = this.rounds.get(run);
    if (!known) this.rounds.set(run, (known = new Map()));
    for (const record of records) {
      known.set(record.round, record);
      const old = known.get(record.round - ACCOUNTS);
      if (old) old.workers = {};
    }
    this.versions.set(run, (this.versions.get(run) ?? 0) + 1);
  }

  detail(detail) {
    this.put(detail.id, detail.history);
    this.details.set(detail.id, { ...detail, history: [] });
  }

  /** Of the records of runs that nobody looks at. */
  forget(...kept) {
    const names = new Set([...kept, this.active?.id, this.shown?.id]);
    for (const map of [this.rounds, this.versions, this.details]) {
      for (const id of map.keys()) if (!names.has(id)) map.delete(id);
    }
  }

  #underWay(run) {
    const { begun } = this;
    if (begun.run !== run.id || begun.round !== run.round) {
      const last = this.rounds.get(run.id)?.get(run.round)?.committed; // however long before this page was opened
      this.begun = { run: run.id, round: run.round, at: last ?? this.now };
      this.arrivals.clear();
    } else if (begun.held) begun.at = this.now;
    this.begun.held = run.state !== "running";
    for (const client of run.arrived) if (!this.arrivals.has(client)) this.arrivals.set(client, this.now);
  }
}
