// The endpoints as /openapi.json tells them: what each does, which token it takes, what goes in and comes out.

import { $, h } from "./format.js";

const METHODS = ["get", "put", "post"];

function endpoints(schema) {
  const found = [];
  for (const [path, operations] of Object.entries(schema.paths)) {
    for (const method of METHODS) {
      if (operations[method]) found.push({ path, method: method.toUpperCase(), ...operations[method] });
    }
  }
  return found.sort((a, b) => a.path.localeCompare(b.path));
}

/** The first of those that will do. */
const token = ({ security }) => (security ? Object.keys(security[0])[0] : "none");

function named(content) {
  const schema = Object.values(content ?? {})[0]?.schema;
  const name = (schema?.$ref ?? schema?.items?.$ref)?.split("/").at(-1);
  return name && schema.type === "array" ? `${name}, several` : (name ?? "");
}

function row(endpoint) {
  const done = Object.entries(endpoint.responses).find(([status]) => status.startsWith("2"))?.[1];
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, endpoint.method, " ", h("code", {}, endpoint.path)),
    h("td", { class: "left" }, token(endpoint)),
    h("td", { class: "left told" }, (endpoint.description ?? "").replaceAll("`", "")),
    h("td", { class: "left wide" }, named(endpoint.requestBody?.content)),
    h("td", { class: "left wide" }, named(done?.content)),
  );
}

const reply = await fetch("/openapi.json");
const schema = await reply.json();
const groups = new Map();
for (const endpoint of endpoints(schema)) {
  const [group] = endpoint.tags ?? ["other"];
  groups.set(group, [...(groups.get(group) ?? []), endpoint]);
}
for (const [group, members] of groups) {
  const heads = [["", "endpoint"], ["", "token"], ["", "what it does"], [" wide", "takes"], [" wide", "gives"]];
  const head = h("tr", {}, ...heads.map(([kind, words]) => h("th", { scope: "col", class: `left${kind}` }, words)));
  const table = h("table", {}, h("thead", {}, head), h("tbody", {}, ...members.map(row)));
  $("list").append(h("h2", {}, group), h("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `Endpoints: ${group}` }, table));
}
$("waiting").remove();
