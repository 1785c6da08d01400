// The messages of a topic: read from a place in the log, or watched as they arrive, beside the form
// that produces new ones.

import { browse } from "./browse.js";
import { button, h } from "./dom.js";
import { produceForm } from "./produce.js";
import { tail } from "./tail.js";

/** Fills the tab. `partitions()` gives what is known of the partitions now. */
export function messages(root, signal, topic, partitions) {
  const view = h("div", { class: "messages-view" });
  const side = h("aside", { class: "card produce", hidden: true, "aria-label": "Produce a message" });
  const form = produceForm(topic, () => open(false));
  side.append(form.element);
  let leave = new AbortController();
  signal.addEventListener("abort", () => leave.abort());

  const modes = [["Browse", browse], ["Live tail", tail]].map(([label, fill]) => {
    const control = h("button", { type: "button", class: "segment" }, label);
    control.addEventListener("click", () => choose(control, fill));
    return { control, fill };
  });
  function choose(control, fill) {
    for (const mode of modes) mode.control.setAttribute("aria-pressed", String(mode.control === control));
    leave.abort();
    leave = new AbortController();
    view.replaceChildren();
    fill(view, leave.signal, topic, partitions);
  }

  const produce = button("Produce", { icon: "send", kind: "primary", "aria-expanded": "false" });
  function open(wanted) {
    side.hidden = !wanted;
    produce.setAttribute("aria-expanded", String(wanted));
    if (wanted) form.focus();
    else produce.focus();
  }
  produce.addEventListener("click", () => open(side.hidden));

  root.append(
    h("div", { class: "toolbar" },
      h("div", { class: "segments", role: "group", "aria-label": "How to see messages" }, modes.map((mode) => mode.control)),
      produce),
    h("div", { class: "messages" }, view, side));
  choose(modes[0].control, modes[0].fill);
}
