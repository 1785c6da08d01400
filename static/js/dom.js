// Building the page. Nothing here parses markup: strings only ever become text nodes, so what a
// message holds can be shown but never run.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") {
      element.addEventListener(name.replace(/^on/, ""), value);
    } else if (name === "value" || name === "checked" || name === "disabled" || name === "selected") {
      element[name] = value;
    } else if (name === "data") {
      Object.assign(element.dataset, value);
    } else {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An HTML element; functions among the properties become listeners (`onclick`). */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** An SVG element. */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

const ICONS = {
  plus: "M12 5v14M5 12h14",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  download: "M12 4v11M7 10l5 5 5-5M5 20h14",
  pause: "M8 5v14M16 5v14",
  play: "M7 5l12 7-12 7z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M5 19l1.4-1.4M17.6 6.4 19 5",
  moon: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z",
  chevron: "M9 6l6 6-6 6",
  close: "M6 6l12 12M18 6 6 18",
  send: "M4 12l16-8-6 16-3-7z",
  edit: "M4 20l1-4L16 5l3 3L8 19z",
  refresh: "M20 11a8 8 0 1 0-2.3 6M20 5v6h-6",
  clear: "M4 7h16M7 12h10M10 17h4",
  down: "M12 5v14M6 13l6 6 6-6",
  move: "M4 8h14M14 4l4 4-4 4M20 16H6M10 12l-4 4 4 4",
  crown: "M4 18h16M4 18 3 8l5 4 4-7 4 7 5-4-1 10",
  leave: "M10 4H5v16h5M14 8l4 4-4 4M18 12H9",
  alert: "M12 4 2.5 20h19zM12 10v4M12 17v.5",
  info: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M12 11v5M12 7.5v.5",
  check: "M5 12.5l4.5 4.5L19 7.5",
};

/** A small line drawing that says nothing to screen readers: label its button. */
export function icon(name) {
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" },
    svg("path", { d: ICONS[name] }));
}

/** A button with an icon and a label. */
export function button(label, { icon: drawing, kind = "plain", ...props } = {}) {
  return h("button", { type: "button", class: `button ${kind}`, ...props }, drawing && icon(drawing), h("span", {}, label));
}

/** A button that shows only its icon; `label` is what it is called. */
export function iconButton(label, drawing, props = {}) {
  return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, ...props }, icon(drawing));
}

/** Sets text without touching the node when nothing changed, so that selections survive. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A figure for the top of a page: a label, its value, and a word about it. */
export function tile(label) {
  const value = h("dd", { class: "tile-value" }, "–");
  const note = h("dd", { class: "tile-note" });
  return {
    element: h("div", { class: "tile" }, h("dt", {}, label), value, note),
    set(text, more = "") {
      setText(value, text);
      setText(note, more);
    },
  };
}

let labels = 0;
/** A labelled form field: label, control, hint. */
export function field(label, control, hint) {
  const id = control.id || `field-${++labels}`;
  control.id = id;
  const described = hint ? `${id}-hint` : undefined;
  if (described) control.setAttribute("aria-describedby", described);
  return h("div", { class: "field" },
    h("label", { for: id }, label),
    control,
    hint && h("p", { class: "hint", id: described }, hint));
}

/** A `<select>` of `[value, label]` pairs. */
export function select(options, value, props = {}) {
  return h("select", props, options.map(([key, label]) => h("option", { value: key, selected: key === value }, label)));
}

/** Tells screen readers what has just happened. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** Shows what has just happened, for a while. */
export function toast(text) {
  announce(text);
  const note = h("div", { class: "toast" }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), 5000);
}

/** What to show in place of content: loading, nothing there, or a failure. */
export function notice(kind, title, detail, ...actions) {
  return h("div", { class: `notice ${kind}`, role: kind === "error" ? "alert" : undefined },
    h("p", { class: "notice-title" }, title),
    detail && h("p", {}, detail),
    actions.length > 0 && h("div", { class: "row" }, actions));
}

/** The command that sends a first message to `topic`. */
export function curlHint(topic) {
  return h("pre", { class: "code", tabindex: "0", "aria-label": "Command for a terminal" }, `curl -d 'hello' ${location.origin}/v1/topics/${topic}/publish`);
}

/**
 * A table that is updated in place. Columns: `label`, `align`, and `text(row)`, read on each update,
 * or `node(row)`, built once per row so that focus inside it survives; `paint(cell, row)` is called
 * on each update.
 */
export function table(caption, columns, key) {
  const body = h("tbody", { role: "rowgroup" });
  const known = new Map();
  const element = h("table", { role: "table", class: "table" },
    h("caption", { class: "visually-hidden" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((column) =>
      h("th", { role: "columnheader", scope: "col", class: column.align }, column.label)))),
    body);

  function update(rows) {
    const seen = new Set();
    rows.forEach((row, index) => {
      const id = key(row);
      seen.add(id);
      let entry = known.get(id);
      if (!entry) {
        const cells = columns.map((column) => h("td", { role: "cell", class: column.align, data: { label: column.label } },
          column.node?.(row)));
        entry = { line: h("tr", { role: "row" }, cells), cells };
        known.set(id, entry);
      }
      columns.forEach((column, at) => {
        if (column.text) setText(entry.cells[at], column.text(row));
        column.paint?.(entry.cells[at], row);
      });
      if (body.children[index] !== entry.line) body.insertBefore(entry.line, body.children[index] ?? null);
    });
    for (const [id, entry] of known) {
      if (seen.has(id)) continue;
      entry.line.remove();
      known.delete(id);
    }
  }
  return { element, update };
}

/** Puts text on the clipboard, also where the page has no secure context. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "visually-hidden", value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied.");
}

/** Saves text or bytes as a file. */
export function saveFile(name, parts, type) {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * Runs `step` now and again `ms` after it ended, until the signal is aborted. A hidden page does
 * not ask: it asks at once when it is seen again.
 */
export async function poll(signal, ms, step) {
  while (!signal.aborted) {
    if (document.hidden) {
      await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
      continue;
    }
    await step();
    await new Promise((later) => setTimeout(later, ms));
  }
}
