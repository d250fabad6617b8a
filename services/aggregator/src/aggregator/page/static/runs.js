// The queue, and the runs that have ended.

import { $, clock, count, h, keep, percent, put, show, when } from "./format.js";

const PAGE = 12;
let shown = PAGE;

export function drawRuns(state, ask) {
  const { queue, past } = state;
  show($("queue-none"), queue.length === 0);
  keep(
    $("queue"),
    queue,
    (run) => run.id,
    (run) => `${run.state} ${run.reason}`,
    () => h("li"),
    (item, run) => {
      const stop = h("button", { type: "button", "aria-label": `Take ${run.id} out of the queue` }, "Take out…");
      stop.addEventListener("click", () => ask.stop(run));
      item.replaceChildren(h("a", { href: `#run=${run.id}` }, run.name), h("span", { class: "quiet" }, `${count(run.rounds, "round")}, since ${when(run.created)}`), stop);
      if (run.reason) item.append(h("p", { class: "reason" }, run.reason));
    },
  );
  show($("past-none"), past.length === 0);
  show($("past"), past.length > 0);
  show($("past-more"), past.length > shown);
  put($("past-more"), `Show more (${past.length - shown})`);
  const current = state.shown?.id;
  keep(
    $("t-past"),
    past.slice(0, shown),
    (run) => run.id,
    (run) => `${run.state} ${run.ended} ${run.accuracy} ${run.id === current}`,
    () => h("tr"),
    (row, run) => {
      row.toggleAttribute("aria-current", false);
      if (run.id === current) row.setAttribute("aria-current", "true");
      const state = h("span", { class: "state", "data-state": run.state }, run.state);
      row.replaceChildren(
        h("th", { scope: "row" }, h("a", { href: `#run=${run.id}`, title: run.id }, run.name), " ", run.state === "finished" ? "" : state),
        h("td", { class: "left" }, when(run.ended)),
        h("td", {}, percent(run.accuracy)),
        h("td", { class: "wide" }, run.round === run.rounds ? String(run.round) : `${run.round} of ${run.rounds}`),
        h("td", { class: "wide" }, run.first_order ? clock(run.ended - run.first_order) : "–"),
      );
    },
  );
}

export function listenToMore(again) {
  $("past-more").addEventListener("click", () => {
    shown += PAGE;
    again();
  });
}
