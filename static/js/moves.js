// Copies on their way: how far each is, and a way to take its move back.

import * as api from "./api.js";
import { button, h, setText, table, toast } from "./dom.js";
import { bytes, count } from "./format.js";
import { topicHref } from "./topics.js";

/** One row for each copy that comes; a move that only takes copies away has one row as well. */
function rowsOf(moves) {
  return moves.flatMap((move) => {
    const name = `${move.topic}/${move.partition}`;
    const row = { name, topic: move.topic, partition: move.partition, from: move.removing.join(", ") };
    if (move.adding.length === 0) return [{ ...row, copy: null, key: name }];
    return move.adding.map((copy) => ({ ...row, copy, key: `${name} ${copy.node}` }));
  });
}

function shareOf(copy) {
  if (copy === null || copy.total === null) return null;
  return copy.total === 0 ? 1 : copy.copied / copy.total;
}

function words(copy) {
  if (copy === null) return "Ending";
  if (copy.in_sync) return "In sync, ending";
  if (copy.total === null) return "Its leader does not say";
  return `${count(copy.copied)} of ${count(copy.total)} records, ${bytes(copy.bytes)} in all`;
}

function progress() {
  const bar = h("progress", { max: 1, "aria-label": "Copied" });
  const text = h("span", { class: "progress-text" });
  return { bar, text, element: h("div", { class: "progress" }, bar, text) };
}

/** A card of moves; hidden while there are none. */
export function movesCard() {
  const shown = new WeakMap();
  async function cancel(row) {
    try {
      await api.cancelReassign(row.topic, row.partition);
      toast(`The copies of ${row.name} stay where they were.`);
    } catch (error) {
      toast(error.message);
    }
  }
  const list = table("Copies on their way", [
    { label: "Partition", align: "main", node: (row) => h("a", { href: topicHref(row.topic, "partitions") }, row.name) },
    { label: "To", text: (row) => row.copy?.node ?? "–" },
    { label: "From", text: (row) => (row.from === "" ? "–" : row.from) },
    {
      label: "Copied",
      paint(cell, row) {
        if (!shown.has(cell)) {
          shown.set(cell, progress());
          cell.append(shown.get(cell).element);
        }
        const { bar, text } = shown.get(cell);
        const share = shareOf(row.copy);
        if (share === null) bar.removeAttribute("value");
        else bar.value = share;
        setText(text, words(row.copy));
      },
    },
    { label: "", align: "end", node: (row) => button("Take back", { kind: "quiet", "aria-label": `Take back the move of ${row.name}`, onclick: () => cancel(row) }) },
  ], (row) => row.key);
  const heading = h("h2", {}, "Moving");
  const element = h("section", { class: "section", hidden: true }, heading, h("div", { class: "card flush scroll" }, list.element));
  return {
    element,
    update(moves) {
      element.hidden = moves.length === 0;
      setText(heading, `Moving (${count(moves.length)})`);
      list.update(rowsOf(moves));
    },
  };
}
