// The cluster: its health in words, its nodes and what each carries, what is moved, and how they
// agree with one another.

import * as api from "./api.js";
import { bars } from "./bars.js";
import { h, notice, poll, setText, table, tile } from "./dom.js";
import { findingsList } from "./findings.js";
import { bytes, compact, count, percent, plural, span } from "./format.js";
import { movesCard } from "./moves.js";
import { metadataRole, nodeHref, stateBadge } from "./nodes.js";

const sum = (list, of) => list.reduce((total, one) => total + of(one), 0);
const perSecond = (n) => `${bytes(Math.round(n))}/s`;
const loadOf = (name) => (node) => node.report?.load[name] ?? null;
const used = (node) => (node.report ? node.report.disk_total - node.report.disk_free : null);

const MEASURES = [
  { label: "Leads", of: (node) => node.leads, format: (n) => plural(n, "partition") },
  { label: "Copies", of: (node) => node.replicas, format: (n, node) => `${count(n)}, ${count(node.in_sync)} in sync` },
  { label: "Written", of: loadOf("bytes_in"), format: perSecond },
  { label: "Read", of: loadOf("bytes_out"), format: perSecond },
  { label: "Copied", of: loadOf("copied_bytes"), format: perSecond },
  { label: "CPU", of: loadOf("cpu"), format: (n) => `${(100 * n).toFixed(0)} % of a core`, most: (nodes) => Math.max(1, ...nodes.map((node) => node.report?.load.cpu ?? 0)) },
  {
    label: "Disk", of: (node) => (node.report ? used(node) / node.report.disk_total : null), most: () => 1,
    format: (n, node) => `${(100 * n).toFixed(0)} % used, ${bytes(node.report.disk_free)} free`,
  },
];

function nodesTable() {
  const badges = new WeakMap();
  return table("Nodes", [
    { label: "Node", align: "main", node: (node) => h("a", { class: "strong", href: nodeHref(node.id) }, node.id) },
    {
      label: "State",
      paint(cell, node) {
        if (!badges.has(cell)) {
          badges.set(cell, stateBadge(node));
          cell.append(badges.get(cell).element);
        }
        badges.get(cell).set(node);
      },
    },
    { label: "Metadata", text: metadataRole },
    { label: "Leads", align: "end", text: (node) => count(node.leads) },
    { label: "In sync", align: "end", text: (node) => `${count(node.in_sync)} of ${count(node.replicas)}` },
    { label: "Written", align: "end", text: (node) => (node.report ? perSecond(node.report.load.bytes_in) : "–") },
    { label: "Read", align: "end", text: (node) => (node.report ? perSecond(node.report.load.bytes_out) : "–") },
    { label: "Disk free", align: "end", text: (node) => (node.report ? bytes(node.report.disk_free) : "–") },
    { label: "Rack", text: (node) => node.rack ?? "–" },
    { label: "Up for", align: "end", text: (node) => (node.report ? span(node.report.uptime_ms) : "–") },
  ], (node) => node.number);
}

/** Whom a node's gossip has not heard of lately, of those that are at work. */
function unheard(node, nodes) {
  const live = nodes.filter((other) => other.status === "active" || other.status === "draining");
  return live.filter((other) => !node.report.hears.includes(other.id)).map((other) => other.id);
}

function agreementTable(nodes) {
  const entries = (node, of) => (node.report ? count(of(node.report.metadata) ?? 0) : "–");
  return table("Metadata and gossip", [
    { label: "Node", align: "main", text: (node) => node.id },
    { label: "Role", text: metadataRole },
    { label: "Follows", text: (node) => node.report?.metadata.leader ?? "–" },
    { label: "Term", align: "end", text: (node) => entries(node, (m) => m.term) },
    { label: "Last entry", align: "end", text: (node) => entries(node, (m) => m.last_log) },
    { label: "Applied", align: "end", text: (node) => entries(node, (m) => m.applied) },
    { label: "Snapshot", align: "end", text: (node) => entries(node, (m) => m.snapshot) },
    { label: "Last sign of life", align: "end", text: (node) => (node.silent_ms === null ? "–" : node.silent_ms < 1000 ? `${node.silent_ms} ms` : span(node.silent_ms)) },
    {
      label: "Gossip hears",
      text(node) {
        if (!node.report) return "–";
        const missing = unheard(node, nodes());
        return missing.length === 0 ? "All" : `Not ${missing.join(", ")}`;
      },
    },
  ], (node) => node.number);
}

/** Fills the page of the cluster. */
export function cluster(root, signal) {
  const subtitle = h("p", { class: "subtitle" }, "Loading");
  const errors = h("div", {});
  const health = findingsList();
  const tiles = Object.fromEntries(["Nodes", "Partitions", "Copies in sync", "Written", "Read", "Least free disk"].map((label) => [label, tile(label)]));
  const load = bars("Load by node", MEASURES);
  const nodes = nodesTable();
  const moves = movesCard();
  let known = [];
  const agreement = agreementTable(() => known);
  const body = h("div", { hidden: true },
    health.element,
    h("dl", { class: "tiles" }, Object.values(tiles).map((one) => one.element)),
    load.element,
    h("section", { class: "section" }, h("h2", {}, "Nodes"), h("div", { class: "card flush scroll" }, nodes.element)),
    moves.element,
    h("section", { class: "section" }, h("h2", {}, "Metadata and gossip"), h("div", { class: "card flush scroll" }, agreement.element)));
  root.append(
    h("div", { class: "page-head" }, h("div", {}, h("h1", { tabindex: "-1" }, "Cluster"), subtitle)),
    errors, body);

  function paint(found) {
    known = found.nodes;
    const live = known.filter((node) => node.status === "active" || node.status === "draining");
    const reports = known.flatMap((node) => node.report ?? []);
    const led = found.controller === null ? "led by nobody" : `led by ${found.controller}`;
    setText(subtitle, `${plural(known.length, "node")}, ${led} in term ${count(found.term)}, seen from ${found.node}`);
    health.update(found.findings);
    tiles.Nodes.set(count(known.length), live.length === known.length ? "all at work" : `${count(live.length)} at work`);
    const { total, without_leader, under_replicated } = found.partitions;
    tiles.Partitions.set(count(total), without_leader === 0 ? "all have a leader" : `${count(without_leader)} without a leader`);
    const copies = sum(known, (node) => node.replicas);
    const inSync = sum(known, (node) => node.in_sync);
    tiles["Copies in sync"].set(copies === 0 ? "–" : percent(inSync, copies), under_replicated === 0 ? `${count(copies)} in all` : `${plural(under_replicated, "partition")} short`);
    tiles.Written.set(perSecond(sum(reports, (report) => report.load.bytes_in)), `${compact(sum(reports, (report) => report.load.records_in))} records/s`);
    tiles.Read.set(perSecond(sum(reports, (report) => report.load.bytes_out)), `${compact(sum(reports, (report) => report.load.records_out))} records/s`);
    const fullest = known.filter((node) => node.report).sort((a, b) => a.report.disk_free - b.report.disk_free)[0];
    if (fullest) tiles["Least free disk"].set(bytes(fullest.report.disk_free), `on ${fullest.id}`);
    load.update(known);
    nodes.update(known);
    moves.update(found.moves);
    agreement.update(known);
    body.hidden = false;
  }

  poll(signal, 2000, async () => {
    try {
      paint(await api.cluster(signal));
      errors.replaceChildren();
    } catch (error) {
      if (signal.aborted) return;
      errors.replaceChildren(notice("error", "The cluster could not be read", error.message));
      if (body.hidden) setText(subtitle, "");
    }
  });
}
