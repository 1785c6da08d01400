// One topic: its figures, and the tabs with messages, partitions and settings.

import * as api from "./api.js";
import { messages } from "./messages.js";
import { formDialog } from "./dialog.js";
import { button, h, iconButton, notice, poll, setText, table, toast } from "./dom.js";
import { bytes, compact, count, percent, plural, time } from "./format.js";
import { copiesOf, leaderDialog, reassignDialog } from "./placement.js";
import { settingsForm, settingsList } from "./settings.js";
import { createDialog, deleteDialog, topicHref } from "./topics.js";

const TABS = [["messages", "Messages"], ["partitions", "Partitions"], ["settings", "Settings"]];
const ROWS = 100;

const sum = (list, of) => list.reduce((total, one) => total + of(one), 0);

/** The list of partitions; `nodes()` are those of the cluster, where there are several to choose from. */
function partitionsTab(root, topic, nodes, reload) {
  const current = (row) => known.find((p) => p.partition === row.partition) ?? row;
  const action = (label, icon, dialog) => (row) => iconButton(`${label} of ${topic}/${row.partition}`, icon, {
    onclick: () => dialog(topic, current(row), nodes(), reload),
  });
  const leader = action("Leader", "crown", leaderDialog);
  const move = action("Copies", "move", reassignDialog);
  const list = table("Partitions", [
    { label: "Partition", align: "main", text: (p) => String(p.partition) },
    { label: "State", text: (p) => p.state },
    { label: "Leader", text: (p) => p.leader ?? "none" },
    { label: "Epoch", align: "end", text: (p) => count(p.leader_epoch) },
    { label: "Copies", align: "wrap", text: copiesOf },
    { label: "Log start", align: "end", text: (p) => count(p.log_start) },
    { label: "High watermark", align: "end", text: (p) => count(p.high_watermark) },
    { label: "End", align: "end", text: (p) => count(p.log_end) },
    { label: "Segments", align: "end", text: (p) => count(p.segments) },
    { label: "Size", align: "end", text: (p) => bytes(p.bytes) },
    { label: "Saved", align: "end", text: (p) => percent(Math.max(0, p.appended_bytes - p.bytes), p.appended_bytes) },
    ...(1 < nodes().length ? [{ label: "Change", align: "end", node: (row) => h("span", { class: "row tight nowrap" }, leader(row), move(row)) }] : []),
  ], (p) => p.partition);
  const where = h("span", { class: "hint" });
  const pager = h("div", { class: "row center", hidden: true });
  let first = 0;
  let known = [];
  const turn = (by) => () => { first += by; update(known); };
  const back = button("Previous", { onclick: turn(-ROWS) });
  const on = button("Next", { onclick: turn(ROWS) });
  pager.append(back, where, on);
  root.append(h("div", { class: "card flush scroll" }, list.element), pager);

  function update(partitions) {
    known = partitions;
    first = Math.max(0, Math.min(first, partitions.length - 1));
    const shown = partitions.slice(first, first + ROWS);
    list.update(shown);
    pager.hidden = partitions.length <= ROWS;
    back.disabled = first === 0;
    on.disabled = partitions.length <= first + ROWS;
    setText(where, `${first} to ${first + shown.length - 1} of ${count(partitions.length)}`);
  }
  return update;
}

function settingsTab(root, topic, reload) {
  const edit = () => {
    const form = settingsForm(topic);
    formDialog({
      title: `Settings of ${topic.name}`,
      content: form.element,
      action: "Save",
      async submit() {
        const patch = form.read();
        if (Object.keys(patch).length === 0) return;
        await api.changeTopic(topic.name, patch);
        toast("Settings saved.");
        reload();
      },
    });
  };
  root.append(h("div", { class: "card" },
    h("div", { class: "card-head" }, h("h2", {}, "Settings"), button("Change", { icon: "edit", onclick: edit })),
    settingsList(topic)));
}

function figure(label) {
  const value = h("dd", {}, "–");
  return { element: h("div", {}, h("dt", {}, label), value), set: (text) => setText(value, text) };
}

/** Fills the page of the topic `name`. */
export async function topic(root, signal, name, tab) {
  const head = h("div", { class: "page-head" },
    h("div", {}, h("p", { class: "crumbs" }, h("a", { href: "#/topics" }, "Topics")), h("h1", { tabindex: "-1", class: "name" }, name)));
  const body = h("div", {}, notice("loading", "Loading the topic"));
  root.append(head, body);

  let found;
  let partitions;
  let nodes = [];
  try {
    [found, partitions, { nodes }] = await Promise.all([api.topic(name, signal), api.partitions(name, signal),
      tab === "partitions" ? api.cluster(signal) : { nodes }]);
  } catch (error) {
    if (signal.aborted) return;
    const missing = error.code === "topic_not_found";
    body.replaceChildren(notice(missing ? "empty" : "error", missing ? "There is no such topic" : "The topic could not be read", error.message,
      missing && button("Create a topic", { icon: "plus", kind: "primary", onclick: createDialog }),
      h("a", { class: "button plain", href: "#/topics" }, "Back to topics")));
    return;
  }

  const figures = Object.fromEntries(["Records", "Rate", "Size", "Saved", "Partitions", "Created"].map((label) => [label, figure(label)]));
  figures.Created.set(time(Date.parse(found.created_at)).slice(0, 16));
  const errors = h("div", {});
  const panel = h("div", {});
  const visible = () => sum(partitions, (p) => p.high_watermark - p.log_start);
  head.append(h("div", { class: "row" },
    button("Delete", { icon: "trash", kind: "quiet-danger", title: "Delete this topic", onclick: () => deleteDialog(name, visible()) })));
  body.replaceChildren(
    h("dl", { class: "figures" }, Object.values(figures).map((one) => one.element)),
    errors,
    h("nav", { class: "tabs", "aria-label": `Topic ${name}` }, TABS.map(([id, label]) =>
      h("a", { href: topicHref(name, id), "aria-current": id === tab ? "page" : undefined }, label))),
    panel);

  let updateTab = () => {};
  if (tab === "messages") messages(panel, signal, found, () => partitions);
  else if (tab === "partitions") updateTab = partitionsTab(panel, name, () => nodes, refresh);
  else if (tab === "settings") {
    settingsTab(panel, found, () => {
      if (signal.aborted) return;
      root.replaceChildren();
      topic(root, signal, name, tab);
    });
  } else panel.append(notice("empty", "There is no such tab.", "Choose one of the tabs above."));

  let last = null;
  function paint() {
    const at = performance.now();
    const end = sum(partitions, (p) => p.log_end);
    if (last) figures.Rate.set(`${compact(Math.max(0, ((end - last.end) * 1000) / (at - last.at)))}/s`);
    last = { at, end };
    const stored = sum(partitions, (p) => p.bytes);
    const appended = sum(partitions, (p) => p.appended_bytes);
    figures.Records.set(count(visible()));
    figures.Size.set(bytes(stored));
    figures.Saved.set(percent(Math.max(0, appended - stored), appended));
    figures.Partitions.set(count(partitions.length));
    const offline = partitions.filter((p) => p.state !== "online");
    if (0 < offline.length) {
      errors.replaceChildren(notice("error", `${plural(offline.length, "partition")} not online`, offline.slice(0, 5).map((p) => `${p.partition}: ${p.state}`).join("; ")));
    } else errors.replaceChildren();
    updateTab(partitions);
  }
  async function refresh() {
    try {
      [partitions, { nodes }] = await Promise.all([api.partitions(name, signal), tab === "partitions" ? api.cluster(signal) : { nodes }]);
      paint();
    } catch (error) {
      if (signal.aborted) return;
      errors.replaceChildren(notice("error", error.code === "topic_not_found" ? "The topic has been deleted" : "The partitions could not be read", error.message));
    }
  }
  paint();
  const stop = new AbortController();
  signal.addEventListener("abort", () => stop.abort());
  await poll(stop.signal, 2000, async () => {
    if (!root.contains(panel)) {
      stop.abort();
      return;
    }
    await refresh();
  });
}
