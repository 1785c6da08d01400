// What each node carries, side by side: a bar and a number for each, one measure at a time.

import { h, setText } from "./dom.js";
import { nodeHref } from "./nodes.js";

/**
 * A card of bars. `measures` maps a label to `of(node)`, the value (`null` where it is not known),
 * `format`, and `most(nodes)`, the length of a full bar; without it the greatest value.
 */
export function bars(title, measures) {
  const rows = h("dl", { class: "bars" });
  const buttons = measures.map((measure) => {
    const control = h("button", { type: "button", class: "segment" }, measure.label);
    control.addEventListener("click", () => choose(measure));
    return control;
  });
  const known = new Map();
  let chosen = measures[0];
  let nodes = [];

  function choose(measure) {
    chosen = measure;
    buttons.forEach((control, n) => control.setAttribute("aria-pressed", String(measures[n] === measure)));
    paint();
  }
  function row(node) {
    const bar = h("span", { class: "bar-piece" });
    const value = h("dd", { class: "bar-value" });
    const element = h("div", { class: "bar-row" },
      h("dt", {}, h("a", { href: nodeHref(node.id) }, node.id)),
      h("dd", { class: "bar-track", "aria-hidden": "true" }, bar), value);
    return { element, bar, value };
  }
  function paint() {
    const values = nodes.map((node) => chosen.of(node));
    const most = chosen.most?.(nodes) ?? Math.max(...values.map((value) => value ?? 0));
    const seen = new Set();
    nodes.forEach((node, n) => {
      seen.add(node.number);
      if (!known.has(node.number)) known.set(node.number, row(node));
      const { element, bar, value } = known.get(node.number);
      if (rows.children[n] !== element) rows.insertBefore(element, rows.children[n] ?? null);
      bar.style.setProperty("width", `${most === 0 || values[n] === null ? 0 : Math.min(100, (100 * values[n]) / most)}%`);
      setText(value, values[n] === null ? "unknown" : chosen.format(values[n], node));
    });
    for (const [number, { element }] of known) {
      if (seen.has(number)) continue;
      element.remove();
      known.delete(number);
    }
  }
  choose(chosen);
  return {
    element: h("section", { class: "card" },
      h("div", { class: "card-head wrap" }, h("h2", {}, title),
        h("div", { class: "segments", role: "group", "aria-label": `${title}: what is shown` }, buttons)),
      rows),
    update(next) {
      nodes = next;
      paint();
    },
  };
}
