// Reading messages from a place in the log. The newest are shown last come, first; from any other
// place they are shown in the order of the log.

import * as api from "./api.js";
import { announce, button, curlHint, field, h, notice, saveFile, select } from "./dom.js";
import { compact, plural, time } from "./format.js";
import { partitionChoice } from "./partition.js";
import { decode, recordHead, recordLine } from "./record.js";

/** The newest of all are read from each partition by itself; with more partitions than this, from one. */
const PARTITIONS_AT_ONCE = 32;
const READ_BYTES = 8 * 1024 * 1024;
const FILTERS = {
  key: { label: "Key is", placeholder: "customer-7" },
  header: { label: "Header is", placeholder: "name:value" },
  json: { label: "JSON value is", placeholder: '/order/status:"paid"' },
};

/** Fills the view. */
export function browse(root, signal, topic, partitions) {
  const from = select([["newest", "The newest"], ["earliest", "The beginning"], ["offset", "An offset"], ["time", "A time"]], "newest", { name: "from" });
  const offset = h("input", { type: "text", name: "offset", inputmode: "numeric", value: "0", autocomplete: "off" });
  const moment = h("input", { type: "datetime-local", name: "time", step: "1", value: time(Date.now() - 3_600_000).slice(0, 19).replace(" ", "T") });
  const partition = partitionChoice(topic.partitions);
  const limit = select(["25", "50", "100", "500"].map((n) => [n, n]), "50", { name: "limit" });
  const by = select([["", "Nothing"], ...Object.entries(FILTERS).map(([id, { label }]) => [id, label])], "", { name: "filter" });
  const value = h("input", { type: "text", name: "filter-value", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
  const offsetField = field("Offset", offset);
  const momentField = field("Time", moment);
  const valueField = field("Filter value", value);

  const summary = h("p", { class: "hint" });
  const save = button("Save", { icon: "download", kind: "quiet", disabled: true, onclick: saveAll });
  const list = h("ol", { class: "records", "aria-label": "Messages" });
  const card = h("div", { class: "card flush", hidden: true }, recordHead(), list);
  const state = h("div", {});
  const foot = h("div", { class: "row center" });
  let shown = [];
  let reading = new AbortController();
  signal.addEventListener("abort", () => reading.abort());

  function arrange() {
    offsetField.hidden = from.value !== "offset";
    momentField.hidden = from.value !== "time";
    valueField.hidden = by.value === "";
    value.placeholder = FILTERS[by.value]?.placeholder ?? "";
    if (from.value === "offset" && partition.value() === null && 1 < topic.partitions) partition.control.value = "0";
  }

  function saveAll() {
    saveFile(`${topic.name}.ndjson`, [shown.map((record) => `${record.raw}\n`).join("")], "application/x-ndjson");
  }

  function append(records, wanted) {
    shown = shown.concat(records);
    list.append(...records.map(recordLine));
    card.hidden = shown.length === 0;
    save.disabled = shown.length === 0;
    const text = shown.length === 0 ? "" : `${plural(shown.length, "message")} shown`;
    summary.textContent = text;
    announce(text || "No messages");
    if (shown.length === 0) state.replaceChildren(emptyNotice(wanted));
  }

  function emptyNotice(wanted) {
    if (wanted.filter) return notice("empty", "Nothing matches the filter", "Read from another place, choose a greater limit, or write the value exactly as it was produced.");
    const any = partitions().some((p) => p.log_start < p.high_watermark && (wanted.partition === null || p.partition === wanted.partition));
    if (any) return notice("empty", "No messages from there on", "Read from the newest or from the beginning instead.");
    return notice("empty", "No messages yet", "Produce one with the form, or from a terminal:",
      curlHint(topic.name));
  }

  function offerMore(label, step) {
    foot.replaceChildren(button(label, { onclick: () => guarded(step) }));
  }

  /** Reads pages until `most` records are there or nothing more comes. */
  async function pages(wanted, start, most) {
    const found = [];
    let at = start;
    for (let page = 0; page < 20 && found.length < most; page += 1) {
      const query = { ...wanted.filter, from: at, limit: most - found.length, max_bytes: READ_BYTES };
      const got = await api.records(topic.name, wanted.partition, query, wanted.signal);
      found.push(...got.records.map(decode));
      const stuck = got.next === at;
      at = got.next;
      if (stuck || (got.records.length === 0 && !wanted.filter)) break;
    }
    return { found, next: at };
  }

  async function forward(wanted, start) {
    const { found, next } = await pages(wanted, start, wanted.limit);
    append(found, wanted);
    const done = found.length < wanted.limit;
    offerMore(done ? "Look for more" : "Show more", (current) => forward({ ...wanted, signal: current }, next));
  }

  /** The newest `limit` records below `ends`: each partition is read from that far before its end. */
  async function backward(wanted, ends) {
    const starts = new Map();
    for (const [p, { start, end }] of ends) if (start < end) starts.set(p, Math.max(start, end - wanted.limit));
    // One read per partition: what is appended meanwhile to one cannot push out another's.
    const windows = await Promise.all([...starts].map(async ([p, at]) => {
      const { end } = ends.get(p);
      const { found } = await pages({ ...wanted, partition: p }, String(at), end - at);
      return found.filter((record) => Number(record.offset) < end);
    }));
    const found = windows.flat();
    found.sort((a, b) => b.timestamp - a.timestamp || a.partition - b.partition || Number(b.offset) - Number(a.offset));
    const kept = wanted.filter ? found : takeNewest(found, wanted.limit);
    const rest = new Map();
    for (const [p, { start, end }] of ends) {
      const own = kept.filter((record) => record.partition === p).map((record) => Number(record.offset));
      const untaken = found.some((record) => record.partition === p && !kept.includes(record));
      const low = own.length === 0 ? end : Math.min(...own);
      // Without anything left over, all from the start of the window on has been seen.
      rest.set(p, { start, end: untaken ? low : starts.get(p) ?? start });
    }
    append(kept, wanted);
    if ([...rest.values()].some(({ start, end }) => start < end)) offerMore("Show older", (current) => backward({ ...wanted, signal: current }, rest));
    else foot.replaceChildren();
  }

  function takeNewest(found, most) {
    // Times may run backwards within a partition. A record is only taken once those after it are,
    // so that the next page can begin where this one ends.
    const heads = new Map();
    for (const record of found) {
      const own = heads.get(record.partition) ?? [];
      own.push(record);
      heads.set(record.partition, own);
    }
    for (const own of heads.values()) own.sort((a, b) => Number(b.offset) - Number(a.offset));
    const kept = [];
    while (kept.length < most) {
      let best = null;
      for (const own of heads.values()) if (own.length && (best === null || best[0].timestamp < own[0].timestamp)) best = own;
      if (best === null) break;
      kept.push(best.shift());
    }
    return kept;
  }

  /** Runs a read in place of the one before, which is stopped: its answer must not end up in this list. */
  async function guarded(step) {
    reading.abort();
    reading = new AbortController();
    const { signal: current } = reading;
    foot.replaceChildren();
    state.replaceChildren(notice("loading", "Reading"));
    try {
      const before = state.firstChild;
      await step(current);
      before.remove();
    } catch (error) {
      if (current.aborted) return;
      state.replaceChildren(notice("error", error.title ?? "The messages could not be read", error.message));
    }
  }

  async function read(current) {
    shown = [];
    list.replaceChildren();
    card.hidden = true;
    summary.textContent = "";
    const wanted = {
      signal: current,
      partition: partition.value() ?? (topic.partitions === 1 ? 0 : null),
      limit: Number(limit.value),
      filter: by.value === "" || value.value === "" ? null : { [by.value]: value.value },
    };
    if (from.value === "earliest") return forward(wanted, "earliest");
    if (from.value === "time") {
      const at = new Date(moment.value).getTime();
      if (Number.isNaN(at)) throw new Error("Choose a date and a time to read from.");
      return forward(wanted, `timestamp:${at}`);
    }
    if (from.value === "offset") {
      if (!/^\d+$/.test(offset.value.trim())) throw new Error("Write the offset as a whole number, as in 42.");
      return forward(wanted, offset.value.trim());
    }
    const all = await api.partitions(topic.name, wanted.signal);
    const chosen = all.filter((p) => wanted.partition === null || p.partition === wanted.partition);
    if (PARTITIONS_AT_ONCE < chosen.length) {
      throw new Error(`The newest of ${compact(chosen.length)} partitions cannot be read at once. Choose a partition, or read from the beginning or from a time.`);
    }
    return backward(wanted, new Map(chosen.map((p) => [p.partition, { start: p.log_start, end: p.high_watermark }])));
  }

  const form = h("form", { class: "filters" },
    field("Read from", from), offsetField, momentField,
    1 < topic.partitions && field("Partition", partition.control),
    field("At most", limit), field("Only where", by), valueField,
    h("button", { type: "submit", class: "button plain" }, h("span", {}, "Read")));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    guarded(read);
  });
  form.addEventListener("change", (event) => {
    arrange();
    if (event.target !== offset && event.target !== moment && event.target !== value) guarded(read);
  });
  arrange();
  root.append(form, h("div", { class: "list-head" }, summary, save), card, state, foot);
  guarded(read);
}
