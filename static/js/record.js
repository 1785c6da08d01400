// One record: decoded from its raw JSON, as a line of a list, and opened.

import { copyText, h, iconButton, saveFile } from "./dom.js";
import { bytes, isoTime, plural, shortTime, time } from "./format.js";
import { isStructured, members, pretty } from "./json.js";

/** More of one value than this is not put on the page; copying and saving give all of it. */
const SHOWN_CHARACTERS = 64 * 1024;
const PREVIEW_CHARACTERS = 240;

const utf8 = new TextDecoder("utf-8", { fatal: true });

function fromBase64(text) {
  const binary = atob(text);
  const out = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) out[i] = binary.charCodeAt(i);
  return out;
}

function textOf(data) {
  try {
    return utf8.decode(data);
  } catch {
    return null;
  }
}

/** Hex pairs, at most `most` bytes. */
function hexPairs(data, most) {
  const shown = Array.from(data.subarray(0, most), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return most < data.length ? `${shown} …` : shown;
}

/**
 * A record from the JSON text that the node sent. `kind` is `json`, `text`, `bytes` or `tombstone`;
 * `text` is the value as text where it is one, `data` its bytes where it came as bytes.
 */
export function decode(raw) {
  const found = members(raw);
  const read = (name) => (found.has(name) ? JSON.parse(found.get(name)) : null);
  const record = {
    raw,
    partition: Number(found.get("partition")),
    // Kept as written: an offset may be larger than a JavaScript number is exact.
    offset: found.get("offset"),
    timestamp: Number(found.get("timestamp")),
    key: read("key"),
    headers: read("headers") ?? [],
    kind: "tombstone",
    text: null,
    data: null,
  };
  if (found.has("key_base64")) record.key = `0x ${hexPairs(fromBase64(read("key_base64")), 32)}`;
  if (found.has("value_base64")) {
    record.kind = "bytes";
    record.data = fromBase64(read("value_base64"));
    record.text = textOf(record.data);
  } else if (found.has("value") && found.get("value") !== "null") {
    const value = found.get("value");
    record.kind = value.startsWith('"') ? "text" : "json";
    record.text = record.kind === "text" ? JSON.parse(value) : value;
  }
  return record;
}

function dataOf(record) {
  return record.data ?? new TextEncoder().encode(record.text ?? "");
}

function preview(record) {
  if (record.kind === "tombstone") return "tombstone: no value";
  if (record.text === null) return `0x ${hexPairs(record.data, 48)}`;
  const cut = record.text.slice(0, PREVIEW_CHARACTERS).replace(/\s+/g, " ");
  return PREVIEW_CHARACTERS < record.text.length ? `${cut}…` : cut === "" ? "empty" : cut;
}

function hexDump(data) {
  const lines = [];
  for (let at = 0; at < data.length; at += 16) {
    const row = data.subarray(at, at + 16);
    const ascii = Array.from(row, (byte) => (31 < byte && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${hexPairs(row.subarray(0, 8), 8).padEnd(23)}  ${hexPairs(row.subarray(8), 8).padEnd(23)}  ${ascii}`);
  }
  return lines.join("\n");
}

function views(record) {
  if (record.kind === "tombstone") return [];
  const found = [];
  if (record.kind === "json" || (record.text !== null && record.text.length < 4 * SHOWN_CHARACTERS && isStructured(record.text))) {
    found.push(["JSON", () => pretty(record.text.slice(0, SHOWN_CHARACTERS)).map(([kind, text]) => (kind === "mark" ? text : h("span", { class: `json-${kind}` }, text)))]);
  }
  if (record.text !== null) found.push(["Text", () => [record.text.slice(0, SHOWN_CHARACTERS)]]);
  found.push(["Hex", () => [hexDump(dataOf(record).subarray(0, SHOWN_CHARACTERS / 8))]]);
  return found;
}

function valuePart(record) {
  const size = dataOf(record).length;
  const choices = views(record);
  if (choices.length === 0) {
    return h("p", { class: "hint" }, "No value: a tombstone, which says that this key is deleted.");
  }
  const pre = h("pre", { class: "code value", tabindex: "0", "aria-label": "Value" });
  const note = h("p", { class: "hint" });
  const buttons = choices.map(([name, render]) => h("button", { type: "button", class: "segment", onclick: () => showAs(name, render) }, name));
  function showAs(name, render) {
    pre.replaceChildren(...render());
    for (const one of buttons) one.setAttribute("aria-pressed", String(one.textContent === name));
    const shown = name === "Hex" ? SHOWN_CHARACTERS / 8 : SHOWN_CHARACTERS;
    const all = name === "Hex" ? size : record.text.length;
    note.textContent = shown < all ? `Only the beginning is shown. Copying and saving give all ${bytes(size)}.` : "";
  }
  showAs(...choices[0]);
  const whole = () => record.text ?? Array.from(record.data, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return h("div", {},
    h("div", { class: "value-head" },
      h("div", { class: "segments", role: "group", "aria-label": "Show the value as" }, buttons),
      h("span", { class: "hint" }, bytes(size)),
      h("div", { class: "row tight" },
        iconButton(record.text === null ? "Copy the value as hex" : "Copy the value", "copy", { onclick: () => copyText(whole()) }),
        iconButton("Save the value as a file", "download", {
          onclick: () => saveFile(`partition-${record.partition}-offset-${record.offset}`, [dataOf(record)], "application/octet-stream"),
        }))),
    pre, note);
}

function opened(record) {
  const facts = [
    ["Partition", String(record.partition)],
    ["Offset", record.offset],
    ["Time", `${time(record.timestamp)} (${isoTime(record.timestamp)})`],
    ["Key", record.key ?? "none"],
  ];
  return h("div", { class: "record-open" },
    h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    record.headers.length > 0 && h("section", {},
      h("h3", {}, plural(record.headers.length, "header")),
      h("dl", { class: "facts mono" }, record.headers.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))))),
    h("section", {}, h("h3", {}, "Value"), valuePart(record)));
}

/** The record as a line that opens. */
export function recordLine(record) {
  const more = h("div", { class: "record-more", hidden: true });
  const line = h("button", { type: "button", class: "record-line", "aria-expanded": "false" },
    h("span", { class: "record-partition" }, h("span", { class: "visually-hidden" }, "partition "), String(record.partition)),
    h("span", { class: "record-offset" }, h("span", { class: "visually-hidden" }, "offset "), record.offset),
    h("span", { class: "record-time" }, shortTime(record.timestamp)),
    h("span", { class: record.key === null ? "record-key none" : "record-key" }, record.key ?? "no key"),
    h("span", { class: `record-value ${record.kind}` }, preview(record)));
  line.addEventListener("click", () => {
    const open = more.hidden;
    more.hidden = !open;
    line.setAttribute("aria-expanded", String(open));
    more.replaceChildren(...(open ? [opened(record)] : []));
  });
  return h("li", { class: "record" }, line, more);
}

/** The names of the columns above a list of lines. */
export function recordHead() {
  return h("div", { class: "record-head", "aria-hidden": "true" },
    h("span", {}, "Part."), h("span", {}, "Offset"), h("span", {}, "Time"), h("span", {}, "Key"), h("span", {}, "Value"));
}
