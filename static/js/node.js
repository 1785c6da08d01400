// One node: how it is, what it does, what it holds, and how it leaves.

import * as api from "./api.js";
import { chart } from "./chart.js";
import { button, h, notice, poll, setText, table, tile } from "./dom.js";
import { findingsList } from "./findings.js";
import { bytes, compact, count, plural, span, time } from "./format.js";
import { meter } from "./meter.js";
import { WINDOW_MS } from "./monitor.js";
import { movesCard } from "./moves.js";
import { drainDialog, metadataRole, removeDialog, replaceDialog, stateBadge, undrain } from "./nodes.js";
import { topicHref } from "./topics.js";

const PAGE = 50;
const ROLES = { leader: "Leads", in_sync: "In sync", behind: "Behind", coming: "Coming", going: "Going" };
const perSecond = (n) => `${bytes(Math.round(n))}/s`;

/** What may be asked of the node as it is. */
function actions(node, nodes, reload) {
  const wanted = [];
  const others = nodes.length > 1;
  if (node.draining) wanted.push(button("Keep what it has", { onclick: () => undrain(node, reload) }));
  else if (others && node.status !== "fenced") wanted.push(button("Drain", { icon: "leave", onclick: () => drainDialog(node, reload) }));
  if (others && node.replaced_by === undefined && (node.replicas !== 0 || node.status !== "fenced")) {
    wanted.push(button("Replace", { icon: "move", onclick: () => replaceDialog(node, nodes, reload) }));
  }
  if (node.status === "fenced" && node.replicas === 0) {
    wanted.push(button("Forget", { icon: "trash", kind: "quiet-danger", onclick: () => removeDialog(node) }));
  }
  return wanted;
}

function held(root, signal, name, isThere) {
  const list = table("Partitions of this node", [
    { label: "Partition", align: "main", node: (row) => h("a", { href: topicHref(row.topic, "partitions") }, `${row.topic}/${row.partition}`) },
    { label: "This copy", text: (row) => (ROLES[row.copy.role] ?? row.copy.role) + (row.copy.eligible ? ", complete" : "") },
    { label: "Leader", text: (row) => row.leader ?? "none" },
    { label: "In sync", align: "end", text: (row) => `${row.in_sync} of ${row.replicas}` },
    { label: "Lag", align: "end", text: (row) => (row.copy.lag === null ? "–" : row.copy.lag === 0 ? "none" : plural(row.copy.lag, "record")) },
    { label: "Size", align: "end", text: (row) => (row.bytes === null ? "–" : bytes(row.bytes)) },
  ], (row) => `${row.topic}/${row.partition}`);
  const nothing = h("p", { class: "records-empty", hidden: true }, "It holds no copy of any partition.");
  const card = h("div", { class: "card flush scroll" }, list.element, nothing);
  const pager = h("div", { class: "row center", hidden: true });
  /** Tokens of the pages before this one, the present one's last. */
  const tokens = [undefined];
  let next;
  const turn = (step) => () => { step(); load(); };
  const back = button("Previous", { onclick: turn(() => tokens.pop()) });
  const on = button("Next", { onclick: turn(() => tokens.push(next)) });
  pager.append(back, on);
  root.append(h("section", { class: "section" }, h("h2", {}, "Partitions"), card, pager));

  async function load() {
    if (!isThere()) return;
    const asked = tokens.at(-1);
    let page;
    try {
      page = await api.heldBy(name, { limit: PAGE, page_token: asked, signal });
    } catch {
      // Why is shown above: the node's own description has failed as well.
      return;
    }
    if (asked !== tokens.at(-1)) return;
    next = page.next_page_token;
    list.update(page.partitions);
    const empty = page.partitions.length === 0;
    nothing.hidden = !empty;
    list.element.hidden = empty;
    pager.hidden = next === undefined && tokens.length === 1;
    back.disabled = tokens.length === 1;
    on.disabled = next === undefined;
  }
  poll(signal, 3000, load);
}

/** Fills the page of the node `name`. */
export function node(root, signal, name) {
  const badge = h("div", { class: "row" });
  const buttons = h("div", { class: "row" });
  const errors = h("div", {});
  const health = findingsList({ quiet: true, links: false, only: (finding) => finding.node === name });
  const tiles = Object.fromEntries(["Leads", "Copies", "Written", "Read", "Processor", "Memory"].map((label) => [label, tile(label)]));
  const charts = [
    chart({
      title: "Throughput", format: perSecond, floor: 1024, base: 1024,
      series: [{ name: "Written", of: (s) => s.bytes_in }, { name: "Read", of: (s) => s.bytes_out }, { name: "Copied", of: (s) => s.copied_bytes }],
    }),
    chart({ title: "Processor", format: (n) => `${n.toFixed(0)} %`, floor: 10, series: [{ name: "Of one core", of: (s) => 100 * s.cpu }] }),
  ];
  const drawn = h("div", { class: "grid-2" }, charts.map((one) => one.element));
  const disk = meter("Disk", ["Message logs", "Other files", "Free"]);
  const facts = h("dl", { class: "facts" });
  const moves = movesCard();
  const body = h("div", { hidden: true },
    health.element,
    h("dl", { class: "tiles" }, Object.values(tiles).map((one) => one.element)),
    drawn,
    h("div", { class: "grid-2 top-aligned" }, h("section", { class: "card" }, h("h2", {}, "About"), facts), disk.element),
    moves.element);
  root.append(
    h("div", { class: "page-head" },
      h("div", {}, h("p", { class: "crumbs" }, h("a", { href: "#/cluster" }, "Cluster")), h("h1", { tabindex: "-1", class: "name" }, name), badge),
      buttons),
    errors, body);

  const samples = [];
  let state = null;
  let offered = null;
  let listed = false;

  function setFacts(found, cluster) {
    const report = found.report;
    const rows = [
      ["Address", found.url === "" ? "none of its own" : found.url],
      ["For other nodes", found.peer === "" ? "none" : found.peer],
      ["Rack", found.rack ?? "none"],
      ["Metadata", report ? `${metadataRole(found)}; entry ${count(report.metadata.applied ?? 0)} of ${count(report.metadata.last_log ?? 0)} applied in term ${count(report.metadata.term)}` : metadataRole(found)],
      ["Gossip hears", report ? report.hears.join(", ") : "unknown"],
      ["Last sign of life", found.silent_ms === null ? "unknown" : found.silent_ms < 1000 ? "just now" : `${span(found.silent_ms)} ago`],
      ["Up for", report ? span(report.uptime_ms) : "–"],
      ["Registered", time(Date.parse(found.registered_at)).slice(0, 19)],
      ["Version", report?.version ?? "unknown"],
      ["Number", `${found.number}, incarnation ${count(found.incarnation)}`],
      ["Cluster", cluster.cluster_id],
    ];
    facts.replaceChildren(...rows.map(([label, value]) => h("div", {}, h("dt", {}, label), h("dd", {}, value))));
  }

  function paint(found, cluster) {
    if (state === null) {
      state = stateBadge(found);
      badge.append(state.element);
    }
    state.set(found);
    // Buttons that stay the same keep the focus.
    const offer = JSON.stringify([found.draining, found.status, found.replicas === 0, found.replaced_by, cluster.nodes.length]);
    if (offered !== offer) {
      offered = offer;
      buttons.replaceChildren(...actions(found, cluster.nodes, load));
    }
    health.update(cluster.findings);
    tiles.Leads.set(count(found.leads), found.under_replicated === 0 ? plural(found.leads, "partition").replace(/^\S+ /, "") : `${count(found.under_replicated)} short of a copy`);
    tiles.Copies.set(count(found.replicas), `${count(found.in_sync)} in sync`);
    const report = found.report;
    if (report) {
      const { load: rates } = report;
      tiles.Written.set(perSecond(rates.bytes_in), `${compact(rates.records_in)} records/s`);
      tiles.Read.set(perSecond(rates.bytes_out), `${compact(rates.records_out)} records/s`);
      tiles.Processor.set(`${(100 * rates.cpu).toFixed(0)} %`, "of one core");
      tiles.Memory.set(bytes(report.memory), "resident");
      samples.push({ at: performance.now(), ...rates });
      const other = Math.max(0, report.disk_total - report.disk_free - report.bytes);
      disk.set(`${bytes(report.disk_free)} free of ${bytes(report.disk_total)}`, [report.bytes, other, report.disk_free], report.disk_total);
    } else {
      for (const label of ["Written", "Read", "Processor", "Memory"]) tiles[label].set("–");
    }
    while (1 < samples.length && samples[1].at < performance.now() - WINDOW_MS) samples.shift();
    drawn.hidden = samples.length === 0;
    for (const one of charts) one.update(samples, performance.now());
    disk.element.hidden = !report;
    setFacts(found, cluster);
    moves.update(cluster.moves.filter((move) => move.removing.includes(name) || move.adding.some((copy) => copy.node === name)));
    body.hidden = false;
    if (!listed) {
      listed = true;
      held(body, signal, name, () => !body.hidden);
    }
  }

  async function load() {
    try {
      const cluster = await api.cluster(signal);
      const found = cluster.nodes.find((one) => one.id === name);
      if (found) {
        errors.replaceChildren();
        paint(found, cluster);
        return;
      }
      errors.replaceChildren(notice("empty", "There is no such node", "It may have been forgotten, or the address is mistyped.",
        h("a", { class: "button plain", href: "#/cluster" }, "Back to the cluster")));
      body.hidden = true;
      buttons.replaceChildren();
      badge.hidden = true;
    } catch (error) {
      if (signal.aborted) return;
      errors.replaceChildren(notice("error", "The node could not be read", error.message));
    }
  }
  poll(signal, 2000, load);
}
