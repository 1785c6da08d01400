// Watching messages as they arrive. The list is bounded, and a burst is drawn once per frame: what
// does not fit into the list is never even decoded.

import { records, recordsPath } from "./api.js";
import { button, field, h, icon, notice, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { partitionChoice } from "./partition.js";
import { decode, recordHead, recordLine } from "./record.js";

/** Lines that the list holds. */
const MOST = 500;

/** Fills the view. */
export function tail(root, signal, topic) {
  const partition = partitionChoice(topic.partitions);
  const key = h("input", { type: "text", name: "key", autocomplete: "off", autocapitalize: "off", spellcheck: "false", placeholder: "any" });
  const follow = h("input", { type: "checkbox", id: "follow", checked: true });
  const status = h("span", { class: "tail-status", role: "status", data: { state: "connecting" } }, "Connecting");
  const seen = h("span", { class: "hint" });
  const pause = h("button", { type: "button", class: "button plain" });
  const clear = button("Clear", { icon: "clear", kind: "quiet" });
  const errors = h("div", {});
  const list = h("ol", { class: "records", "aria-label": "Messages as they arrive" });
  const empty = h("p", { class: "records-empty" }, "Waiting for the next message. Produce one to see it here.");
  const scroller = h("div", { class: "tail-scroll", tabindex: "0", role: "region", "aria-label": "Live messages" }, empty, list);

  let source = null;
  let waiting = [];
  let arrived = 0;
  let skipped = 0;
  let paused = false;
  let frame = 0;

  function setStatus(state, text) {
    status.dataset.state = state;
    setText(status, text);
  }

  function paintCounts() {
    setText(seen, `${count(arrived)} received${0 < skipped ? `, the last ${MOST} kept` : ""}`);
  }

  function paintPause() {
    pause.replaceChildren(icon(paused ? "play" : "pause"), h("span", {}, paused ? "Resume" : "Pause"));
    if (paused) setStatus("paused", waiting.length === 0 ? "Paused" : `Paused, ${plural(waiting.length, "new message")}`);
    else if (source?.readyState === EventSource.OPEN) setStatus("live", "Live");
  }

  function draw() {
    frame = 0;
    paintCounts();
    if (paused) {
      paintPause();
      return;
    }
    const fresh = waiting;
    waiting = [];
    if (fresh.length === 0) return;
    empty.hidden = true;
    list.append(...fresh.map((raw) => recordLine(decode(raw))));
    while (MOST < list.childElementCount) {
      list.firstElementChild.remove();
      skipped += 1;
    }
    if (follow.checked) scroller.scrollTop = scroller.scrollHeight;
  }

  function later() {
    if (frame === 0) frame = requestAnimationFrame(draw);
  }

  /** An event source does not say why it failed; the same read as JSON does. */
  async function explain() {
    try {
      await records(topic.name, partition.value(), { from: "latest", limit: 1 }, signal);
      errors.replaceChildren(notice("error", "The live tail was refused", "The node answers other reads of this topic. Choose the live tail again to try once more."));
    } catch (error) {
      if (!signal.aborted) errors.replaceChildren(notice("error", "The live tail has stopped", error.message));
    }
  }

  function connect() {
    source?.close();
    errors.replaceChildren();
    setStatus("connecting", "Connecting");
    const query = new URLSearchParams({ from: "latest" });
    if (key.value !== "") query.set("key", key.value);
    source = new EventSource(`${recordsPath(topic.name, partition.value())}?${query}`);
    source.addEventListener("open", () => {
      errors.replaceChildren();
      if (!paused) setStatus("live", "Live");
    });
    source.addEventListener("error", () => {
      if (source.readyState === EventSource.CLOSED) {
        setStatus("stopped", "Stopped");
        explain();
      } else {
        setStatus("connecting", "Connecting again");
      }
    });
    source.addEventListener("message", (event) => {
      arrived += 1;
      waiting.push(event.data);
      if (MOST < waiting.length) {
        waiting.shift();
        skipped += 1;
      }
      later();
    });
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    paintPause();
    later();
  });
  clear.addEventListener("click", () => {
    list.replaceChildren();
    waiting = [];
    arrived = 0;
    skipped = 0;
    empty.hidden = false;
    paintCounts();
    if (paused) paintPause();
  });
  scroller.addEventListener("scroll", () => {
    // Scrolling up is a wish to read: stop following until the end is reached again.
    follow.checked = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
  });
  follow.addEventListener("change", () => {
    if (follow.checked) scroller.scrollTop = scroller.scrollHeight;
  });
  partition.control.addEventListener("change", connect);
  key.addEventListener("change", connect);
  signal.addEventListener("abort", () => {
    source?.close();
    cancelAnimationFrame(frame);
  });

  root.append(
    h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
      1 < topic.partitions && field("Partition", partition.control),
      field("Key is", key),
      h("div", { class: "row" }, pause, clear)),
    errors,
    h("div", { class: "list-head" },
      h("div", { class: "row" }, status, seen),
      h("label", { class: "check", for: "follow" }, follow, "Follow the newest")),
    h("div", { class: "card flush" }, recordHead(), scroller));
  paintPause();
  paintCounts();
  connect();
}
