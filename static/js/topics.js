// The list of topics, and the dialogs that create and delete one.

import * as api from "./api.js";
import { FormError, formDialog } from "./dialog.js";
import { announce, button, curlHint, field, h, notice, poll, setText, table, toast } from "./dom.js";
import { bytes, compact, count, plural } from "./format.js";
import { retention, settingsForm } from "./settings.js";

const PAGE = 100;
/** The most that one list answers. */
const MOST = 1000;

/** Where the page of a topic is. */
export function topicHref(name, tab) {
  const base = `#/topics/${encodeURIComponent(name)}`;
  return tab ? `${base}/${tab}` : base;
}

/** Asks for a name and settings, creates the topic and goes to it. */
export function createDialog() {
  const name = h("input", {
    type: "text", name: "topic", required: true, autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: 249, placeholder: "orders",
  });
  const settings = settingsForm(null);
  const dialog = formDialog({
    title: "Create a topic",
    content: [field("Name", name, "Letters, digits, “.”, “_” and “-”."), settings.element],
    action: "Create topic",
    async submit() {
      const chosen = name.value.trim();
      if (chosen === "") throw new FormError("Give the topic a name.", name);
      const { created } = await api.createTopic(chosen, settings.read());
      toast(created ? `Topic ${chosen} created.` : `Topic ${chosen} stood there already, with these settings.`);
      location.hash = topicHref(chosen);
    },
  });
  name.focus();
  return dialog;
}

/** Deletes a topic once its name has been typed. */
export function deleteDialog(name, records) {
  const typed = h("input", { type: "text", name: "confirm", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
  formDialog({
    title: `Delete ${name}?`,
    intro: `This deletes the topic with all of its ${plural(records, "record")}. It cannot be undone.`,
    content: field("Type the topic's name to confirm", typed),
    action: "Delete topic",
    kind: "danger",
    async submit() {
      if (typed.value.trim() !== name) throw new FormError(`Type “${name}” to delete it.`, typed);
      await api.deleteTopic(name);
      toast(`Topic ${name} deleted.`);
      location.hash = "#/topics";
    },
  });
  typed.focus();
}

/** Fills the page with the list of topics. */
export function topics(root, signal) {
  const search = h("input", { type: "search", placeholder: "Name begins with…", "aria-label": "Show topics whose name begins with", autocomplete: "off", spellcheck: "false" });
  const summary = h("p", { class: "subtitle" }, "Loading");
  const errors = h("div", {});
  const body = h("div", {}, notice("loading", "Loading topics"));
  const more = h("div", { class: "row center" });
  const previous = new Map();
  let limit = PAGE;
  let wanted = "";

  const rateOf = (row) => previous.get(row.id)?.rate ?? null;
  const list = table("Topics", [
    { label: "Topic", align: "main", node: (row) => [h("a", { class: "strong", href: topicHref(row.name) }, row.name), row.name.startsWith("__") && h("span", { class: "badge" }, "internal")] },
    { label: "Partitions", align: "end", text: (row) => count(row.partitions) },
    { label: "Records", align: "end", text: (row) => count(row.records) },
    { label: "Rate", align: "end", text: (row) => (rateOf(row) === null ? "–" : `${compact(rateOf(row))}/s`) },
    { label: "Size", align: "end", text: (row) => bytes(row.bytes) },
    { label: "Kept", text: retention },
  ], (row) => row.id);
  const card = h("div", { class: "card flush" }, list.element);

  function learnRates(rows) {
    const at = performance.now();
    const seen = new Set(rows.map((row) => row.id));
    for (const id of previous.keys()) if (!seen.has(id)) previous.delete(id);
    for (const row of rows) {
      const last = previous.get(row.id);
      // Retention and trimming also change the count; a fall says nothing about writes.
      const rate = last ? Math.max(0, ((row.records - last.records) * 1000) / (at - last.at)) : null;
      previous.set(row.id, { at, records: row.records, rate });
    }
  }

  function paint({ topics: rows, next_page_token: rest }) {
    if (rows.length === 0) {
      const nothing = wanted === ""
        ? notice("empty", "No topics yet", "Create one, or send a message with curl: the topic is made on first use.",
          button("Create a topic", { icon: "plus", kind: "primary", onclick: createDialog }), curlHint("greetings"))
        : notice("empty", `No topic begins with “${wanted}”`, "Names are compared letter by letter, capitals included.");
      body.replaceChildren(nothing);
    } else {
      list.update(rows);
      if (body.firstChild !== card) body.replaceChildren(card);
    }
    setText(summary, rest ? `The first ${plural(rows.length, "topic")}` : plural(rows.length, "topic"));
    more.replaceChildren();
    if (rest && limit < MOST) more.append(button("Show more", { onclick: () => { limit = Math.min(MOST, limit * 5); load(); } }));
    if (rest && limit === MOST) more.append(h("p", { class: "hint" }, "There are more. Type the beginning of a name to find one."));
  }

  async function load() {
    const asked = search.value.trim();
    try {
      const page = await api.topics({ prefix: asked, limit, signal });
      if (asked !== search.value.trim()) return;
      if (asked !== wanted) announce(plural(page.topics.length, "topic"));
      wanted = asked;
      errors.replaceChildren();
      learnRates(page.topics);
      paint(page);
    } catch (error) {
      if (signal.aborted) return;
      errors.replaceChildren(notice("error", "The topics could not be read", error.message));
      if (body.firstChild !== card) {
        body.replaceChildren();
        setText(summary, "");
      }
    }
  }

  search.addEventListener("input", () => { limit = PAGE; load(); });
  root.append(
    h("div", { class: "page-head" },
      h("div", {}, h("h1", { tabindex: "-1" }, "Topics"), summary),
      h("div", { class: "row" }, search, button("Create topic", { icon: "plus", kind: "primary", onclick: createDialog }))),
    errors, body, more);
  poll(signal, 2000, load);
}
