// Numbers for people, and elements for the page.

export const ENDED = new Set(["finished", "failed", "stopped"]);
const NONE = "–";

export const percent = (value, digits = 2) => (value == null ? NONE : `${(100 * value).toFixed(digits)} %`);
export const fixed = (value, digits = 4) => (value == null ? NONE : value.toFixed(digits));
export const count = (number, thing) => `${number} ${thing}${number === 1 ? "" : "s"}`;

export function seconds(value) {
  if (value == null) return NONE;
  if (value < 10) return `${value.toFixed(2)} s`;
  return value < 120 ? `${value.toFixed(1)} s` : clock(value);
}

export function clock(value) {
  const all = Math.round(value);
  const [hours, minutes, rest] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, String(all % 60).padStart(2, "0")];
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export function bytes(value) {
  if (!value) return "0 MB";
  if (value < 1e5) return `${(value / 1e3).toFixed(value < 1e4 ? 1 : 0)} kB`;
  return value >= 1e10 ? `${(value / 1e9).toFixed(1)} GB` : `${(value / 1e6).toFixed(value < 1e6 ? 2 : value < 1e8 ? 1 : 0)} MB`;
}

export function when(unix) {
  const date = new Date(unix * 1000);
  const today = date.toDateString() === new Date().toDateString();
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? time : `${date.toLocaleDateString([], { year: "numeric", month: "short", day: "numeric" })}, ${time}`;
}

/** Of worker views: worker-2 before worker-10. */
export const byName = (a, b) => a.node.localeCompare(b.node, undefined, { numeric: true });

/** [0, 1, 2, 5] → "0–2, 5" */
export function ranges(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  const parts = [];
  for (let first = 0; first < sorted.length; ) {
    let last = first;
    while (sorted[last + 1] === sorted[last] + 1) last += 1;
    parts.push(last > first + 1 ? `${sorted[first]}–${sorted[last]}` : sorted.slice(first, last + 1).join(", "));
    first = last + 1;
  }
  return parts.join(", ");
}

/** The record with the highest accuracy, the earliest of equals; none where nothing was measured. */
export function bestOf(records) {
  let best = null;
  for (const record of records) if (record.accuracy != null && !(best?.accuracy >= record.accuracy)) best = record;
  return best;
}

export const $ = (id) => document.getElementById(id);

/** Only what differs is written: the page is told many times what it shows already. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, yes) {
  if (element.hidden === yes) element.hidden = !yes;
}

/** h("td", {class: "left"}, "text", other) */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Keep `parent`'s children in step with `items`: made once for each key, filled where `sign(item)` changed. */
export function keep(parent, items, key, sign, make, fill) {
  const known = (parent._known ??= new Map());
  const wanted = new Set();
  let before = null;
  for (const item of items) {
    const name = key(item);
    wanted.add(name);
    let child = known.get(name);
    if (!child) known.set(name, (child = { element: make(item), sign: null }));
    const now = sign(item);
    if (child.sign !== now) fill(child.element, item);
    child.sign = now;
    const place = before ? before.nextSibling : parent.firstChild;
    if (place !== child.element) parent.insertBefore(child.element, place);
    before = child.element;
  }
  for (const [name, child] of known) {
    if (wanted.has(name)) continue;
    child.element.remove();
    known.delete(name);
  }
}
