// The form that produces one message and says where it went.

import * as api from "./api.js";
import { announce, field, h, iconButton, notice, select, button } from "./dom.js";
import { time } from "./format.js";
import { partitionChoice } from "./partition.js";

const KEPT = 5;
const DURABILITY = {
  fsync: "on stable storage of every in-sync replica",
  replicated: "in memory of every in-sync replica",
  leader: "on the leader",
  none: "accepted",
};
const HINTS = {
  text: "Kept as text, exactly as typed.",
  json: "Kept as JSON, exactly as typed.",
  base64: "Decoded and kept as bytes.",
  tombstone: "No value: says that the key is deleted.",
};

function mistake(message) {
  const error = new Error(message);
  error.title = "Please check the form";
  return error;
}

function valueFields(kind, text) {
  if (kind === "tombstone") return { value: "null" };
  if (kind === "text") return { value: JSON.stringify(text) };
  if (kind === "base64") {
    const packed = text.replace(/\s+/g, "");
    try {
      atob(packed);
    } catch {
      throw mistake("The value is not base64: use A to Z, a to z, 0 to 9, + and /, padded with =.");
    }
    return { value_base64: JSON.stringify(packed) };
  }
  try {
    JSON.parse(text);
  } catch (error) {
    throw mistake(`The value is not JSON: ${error.message}. Choose “Text” to send it as it is.`);
  }
  return { value: text.trim() };
}

/** The form; `close` is called when it is no longer wanted. */
export function produceForm(topic, close) {
  const key = h("input", { type: "text", name: "key", autocomplete: "off", autocapitalize: "off", spellcheck: "false", placeholder: "none" });
  const kind = select([["text", "Text"], ["json", "JSON"], ["base64", "Bytes (base64)"], ["tombstone", "Nothing (tombstone)"]], "text", { name: "kind" });
  const value = h("textarea", { name: "value", rows: 6, spellcheck: "false", autocapitalize: "off" });
  const partition = partitionChoice(topic.partitions, "By key");
  const hint = h("p", { class: "hint" }, HINTS.text);
  const valueField = field("Value", value);
  const headers = h("div", { class: "header-rows" });
  const errors = h("div", { "aria-live": "assertive" });
  const sent = h("ol", { class: "sent", "aria-label": "Produced" });
  const submit = h("button", { type: "submit", class: "button primary" }, h("span", {}, "Send"));

  function addHeader() {
    const name = h("input", { type: "text", "aria-label": "Header name", placeholder: "name", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
    const content = h("input", { type: "text", "aria-label": "Header value", placeholder: "value", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
    const row = h("div", { class: "header-row" }, name, content, iconButton("Remove this header", "close", { onclick: () => row.remove() }));
    headers.append(row);
    name.focus();
  }

  function headerPairs() {
    return [...headers.children]
      .map((row) => [...row.querySelectorAll("input")].map((input) => input.value))
      .filter(([name, content]) => name !== "" || content !== "");
  }

  kind.addEventListener("change", () => {
    hint.textContent = HINTS[kind.value];
    valueField.hidden = kind.value === "tombstone";
  });

  async function send() {
    const fields = valueFields(kind.value, value.value);
    if (key.value !== "") fields.key = JSON.stringify(key.value);
    else if (kind.value === "tombstone") throw mistake("A tombstone needs the key that it deletes.");
    const pairs = headerPairs();
    if (pairs.some(([name]) => name === "")) throw mistake("Give each header a name, or remove it.");
    if (0 < pairs.length) fields.headers = JSON.stringify(pairs);
    if (partition.value() !== null) fields.partition = String(partition.value());
    const { records: [place], durability } = await api.produce(topic.name, fields);
    const text = place ? `Partition ${place.partition}, offset ${place.offset}` : "Accepted";
    sent.prepend(h("li", {}, h("strong", {}, text), h("span", { class: "hint" }, `${place ? time(place.timestamp).slice(11) : ""} ${DURABILITY[durability] ?? durability}`)));
    while (KEPT < sent.childElementCount) sent.lastElementChild.remove();
    announce(`Produced. ${text}.`);
  }

  const form = h("form", { class: "produce-form", novalidate: true },
    h("div", { class: "card-head" }, h("h2", {}, "Produce a message"), iconButton("Close the form", "close", { onclick: close })),
    h("div", { class: "fields two" },
      field("Key", key),
      1 < topic.partitions && field("Partition", partition.control)),
    field("Value is", kind),
    hint,
    valueField,
    headers,
    h("div", { class: "row between" }, button("Header", { icon: "plus", kind: "quiet", onclick: addHeader }), submit),
    errors, sent);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    errors.replaceChildren();
    try {
      await send();
    } catch (error) {
      errors.replaceChildren(notice("error", error.title ?? "The message was not produced", error.message));
    } finally {
      submit.disabled = false;
    }
  });
  value.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  return { element: form, focus: () => key.focus() };
}
