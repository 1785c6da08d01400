// A bar of parts of a whole, with a line of text for each part.

import { h, setText } from "./dom.js";
import { bytes } from "./format.js";

/** A card with such a bar; `parts` are the names. */
export function meter(title, parts) {
  const bar = h("div", { class: "meter-bar", "aria-hidden": "true" });
  const headline = h("p", { class: "meter-headline" });
  const list = h("dl", { class: "meter-list" });
  const rows = parts.map((name, n) => {
    const piece = h("span", { class: `meter-piece part-${n}` });
    const value = h("dd", {});
    bar.append(piece);
    list.append(h("div", {}, h("dt", {}, h("span", { class: `swatch part-${n}` }), name), value));
    return { piece, value };
  });
  return {
    element: h("section", { class: "card" }, h("h2", {}, title), headline, bar, list),
    set(head, values, all) {
      setText(headline, head);
      rows.forEach(({ piece, value }, n) => {
        piece.style.setProperty("flex-basis", `${all === 0 ? 0 : (100 * values[n]) / all}%`);
        setText(value, bytes(values[n]));
      });
    },
  };
}
