// A topic's settings: as a list to read, and as a form to create or change a topic.

import { FormError } from "./dialog.js";
import { field, h, select } from "./dom.js";
import { bytes, count, exactBytes, exactSpan, parseSize, parseSpan } from "./format.js";

const COMPRESSION = { producer: "As the producer sends it", zstd: "zstd, again and harder once sealed" };
const DURABILITY = { fsync: "On disk (fdatasync) before the answer", replicated: "In memory of every in-sync replica" };
const TIMESTAMP = { create: "The producer's", append: "When it was appended" };

/** The setting in words, for tables. */
export function retention(topic) {
  const age = topic.retention_ms === null ? "For ever" : exactSpan(topic.retention_ms);
  return topic.retention_bytes === null ? age : `${age}, ${bytes(topic.retention_bytes)}`;
}

/** The settings as a list. */
export function settingsList(topic) {
  const rows = [
    ["Partitions", count(topic.partitions), "partitions"],
    ["Replication factor", count(topic.replication_factor), "replication_factor"],
    ["Least in-sync replicas", count(topic.min_insync_replicas), "min_insync_replicas"],
    ["Keep records for", topic.retention_ms === null ? "For ever" : exactSpan(topic.retention_ms), "retention_ms"],
    ["Keep per partition", topic.retention_bytes === null ? "Unlimited" : exactBytes(topic.retention_bytes), "retention_bytes"],
    ["Compression", COMPRESSION[topic.compression] ?? topic.compression, "compression"],
    ["Durability", DURABILITY[topic.durability] ?? topic.durability, "durability"],
    ["Record time", TIMESTAMP[topic.timestamp_type] ?? topic.timestamp_type, "timestamp_type"],
    ["Largest record", exactBytes(topic.max_record_bytes), "max_record_bytes"],
    ["Segment size", exactBytes(topic.segment_bytes), "segment_bytes"],
    ["Segment age", exactSpan(topic.segment_ms), "segment_ms"],
    ["Identity", topic.id, "id"],
  ];
  return h("dl", { class: "facts settings" }, rows.map(([label, value, name]) =>
    h("div", {}, h("dt", {}, label, h("code", { class: "facts-name" }, name)), h("dd", {}, value))));
}

const readCount = (text) => {
  if (!/^\d{1,9}$/.test(text)) throw new Error(`“${text}” is not a whole number.`);
  return Number(text);
};
const orLifted = (read, word) => (text) => (text.toLowerCase() === word ? null : read(text));

const FIELDS = [
  { name: "partitions", label: "Partitions", hint: "More partitions, more readers side by side. Can grow, never shrink.", read: readCount, write: String, mode: "numeric" },
  { name: "retention_ms", label: "Keep records for", hint: "Such as 12 h or 7 d; “for ever” keeps them.", read: orLifted(parseSpan, "for ever"), write: (v) => (v === null ? "for ever" : exactSpan(v)) },
  { name: "retention_bytes", label: "Keep per partition", hint: "Such as 10 GiB; “unlimited” sets no bound.", read: orLifted(parseSize, "unlimited"), write: (v) => (v === null ? "unlimited" : exactBytes(v)) },
  { name: "compression", label: "Compression", options: COMPRESSION },
  { name: "durability", label: "An acknowledged record is", options: DURABILITY },
  { name: "timestamp_type", label: "Record time", options: TIMESTAMP, advanced: true },
  { name: "replication_factor", label: "Replication factor", hint: "Copies of each partition, as far as there are nodes.", read: readCount, write: String, mode: "numeric", advanced: true },
  { name: "min_insync_replicas", label: "Least in-sync replicas", hint: "With fewer, writes with acks=all are refused.", read: readCount, write: String, mode: "numeric", advanced: true },
  { name: "max_record_bytes", label: "Largest record", hint: "Key, value and headers together; at most 16 MiB.", read: parseSize, write: exactBytes, advanced: true },
  { name: "segment_bytes", label: "Segment size", hint: "A segment file of this size is sealed.", read: parseSize, write: exactBytes, advanced: true },
  { name: "segment_ms", label: "Segment age", hint: "A segment whose first record is this old is sealed.", read: parseSpan, write: exactSpan, advanced: true },
];

/**
 * The form. With a `topic` it shows its settings and `read` gives what was changed; without one,
 * empty fields mean the node's defaults and `read` gives what was filled in.
 */
export function settingsForm(topic) {
  const controls = FIELDS.map((setting) => {
    const was = topic ? (setting.options ? topic[setting.name] : setting.write(topic[setting.name])) : "";
    const control = setting.options
      ? select([...(topic ? [] : [["", "The node's default"]]), ...Object.entries(setting.options)], was, { name: setting.name })
      : h("input", { type: "text", name: setting.name, value: was, autocomplete: "off", spellcheck: "false", inputmode: setting.mode, placeholder: topic ? undefined : "default" });
    return { setting, control, was };
  });
  const place = (advanced) => controls.filter(({ setting }) => Boolean(setting.advanced) === advanced)
    .map(({ setting, control }) => field(setting.label, control, setting.hint));
  const more = h("details", { class: "more" }, h("summary", {}, "More settings"), h("div", { class: "fields" }, place(true)));

  return {
    element: h("div", {}, h("div", { class: "fields" }, place(false)), more),
    read() {
      const patch = {};
      for (const { setting, control, was } of controls) {
        const text = control.value.trim();
        if (text === was || text === "") continue;
        try {
          patch[setting.name] = setting.options ? text : setting.read(text);
        } catch (error) {
          if (setting.advanced) more.open = true;
          throw new FormError(`${setting.label}: ${error.message}`, control);
        }
      }
      return patch;
    },
  };
}
