// The node at a glance: health, live throughput, and what the disk and the memory are used for.

import * as api from "./api.js";
import { chart } from "./chart.js";
import { curlHint, h, notice, poll, setText, tile } from "./dom.js";
import { findingsList } from "./findings.js";
import { bytes, compact, count, percent, plural, span, time } from "./format.js";
import { meter } from "./meter.js";
import { watch } from "./monitor.js";

const exactOrCompact = (n) => (n < 1e6 ? count(n) : compact(n));
const rate = (value) => `${compact(value)}/s`;

/** Fills the overview page. */
export function overview(root, signal) {
  const subtitle = h("p", { class: "subtitle" }, "Waiting for the node");
  const health = findingsList({ quiet: true });
  const state = tile("State");
  const topics = tile("Topics");
  const written = tile("Records written");
  const read = tile("Records read");
  const memory = tile("Memory");
  const connections = tile("Connections");
  const charts = [
    chart({
      title: "Records", format: rate, floor: 10,
      series: [{ name: "In", of: (s) => s.records_in }, { name: "Out", of: (s) => s.records_out }],
    }),
    chart({
      title: "Throughput", format: (n) => `${bytes(n)}/s`, floor: 1024, base: 1024,
      series: [{ name: "In", of: (s) => s.bytes_in }, { name: "Out", of: (s) => s.bytes_out }],
    }),
    chart({
      title: "Disk syncs", format: rate, floor: 5,
      series: [{ name: "fdatasync", of: (s) => s.fsyncs }],
    }),
    chart({
      title: "Sync time", format: (n) => `${n.toFixed(n < 10 ? 2 : 0)} ms`, floor: 1,
      series: [{ name: "Mean", of: (s) => s.fsync_ms }],
    }),
    chart({
      title: "Requests", format: rate, floor: 5,
      series: [{ name: "Answered", of: (s) => s.requests }],
    }),
    chart({
      title: "Processor", format: (n) => `${n.toFixed(0)} %`, floor: 10,
      series: [{ name: "Of one core", of: (s) => 100 * s.cpu_seconds }],
    }),
  ];
  const disk = meter("Disk", ["Message logs", "Other files", "Free"]);
  const saving = meter("Log compression", ["Stored", "Saved"]);
  const facts = h("dl", { class: "facts" });
  const about = h("section", { class: "card" }, h("h2", {}, "Node"), facts);
  const welcome = h("div", { class: "welcome", hidden: true }, notice("empty", "No topics yet",
    "Create the first one here, or send a message with curl: the topic is made on first use.",
    h("a", { class: "button primary", href: "#/topics" }, "Go to topics"), curlHint("greetings")));

  root.append(
    h("div", { class: "page-head" }, h("div", {}, h("h1", { tabindex: "-1" }, "Overview"), subtitle)),
    health.element, welcome,
    h("dl", { class: "tiles" }, [state, topics, written, read, memory, connections].map((t) => t.element)),
    h("div", { class: "grid-2" }, charts.map((c) => c.element)),
    h("div", { class: "grid-3" }, disk.element, saving.element, about));

  function setFacts(node) {
    const rows = [
      ["Broker", node.id],
      ["Version", node.version],
      ["Started", time(Date.parse(node.started_at)).slice(0, 19)],
      ["Data", node.storage],
      ["Brokers in this process", node.brokers.join(", ")],
    ];
    facts.replaceChildren(...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  let shownStart = null;
  watch(signal, ({ node, samples, now, error }) => {
    for (const one of charts) one.update(samples, now);
    if (!node) {
      if (error) setText(subtitle, "The node does not answer");
      return;
    }
    setText(subtitle, `${node.id} on ${location.host}, up for ${span(Date.now() - Date.parse(node.started_at))}`);
    welcome.hidden = node.topics !== 0;
    state.element.dataset.state = error ? "down" : node.state === "ready" ? "ready" : "degraded";
    state.set(error ? "Offline" : node.state === "ready" ? "Ready" : "Degraded", error || node.state === "ready" ? "" : node.state);
    topics.set(count(node.topics), plural(node.partitions, "partition"));
    written.set(exactOrCompact(node.records_in), `${bytes(node.bytes_in)} since start`);
    read.set(exactOrCompact(node.records_out), `${bytes(node.bytes_out)} since start`);
    memory.set(bytes(node.memory), "resident");
    connections.set(count(node.connections), `${exactOrCompact(node.requests)} requests`);
    const other = Math.max(0, node.disk_total - node.disk_free - node.bytes);
    disk.set(`${bytes(node.disk_free)} free of ${bytes(node.disk_total)}`, [node.bytes, other, node.disk_free], node.disk_total);
    const saved = Math.max(0, node.appended_bytes - node.bytes);
    saving.set(`${percent(saved, node.appended_bytes)} saved of ${bytes(node.appended_bytes)} written`, [Math.min(node.bytes, node.appended_bytes), saved], node.appended_bytes);
    const key = `${node.started_at} ${node.brokers.join(" ")}`;
    if (shownStart !== key) {
      shownStart = key;
      setFacts(node);
    }
  });

  poll(signal, 5000, async () => {
    try {
      health.update((await api.cluster(signal)).findings);
    } catch {
      // That the node does not answer is shown above.
    }
  });
}
