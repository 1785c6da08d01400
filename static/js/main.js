// Which page is shown, the theme, and how the node is.

import { cluster } from "./cluster.js";
import { h, iconButton, icon, notice, setText } from "./dom.js";
import * as monitor from "./monitor.js";
import { node } from "./node.js";
import { overview } from "./overview.js";
import { topics } from "./topics.js";
import { topic } from "./topic.js";

const main = document.getElementById("main");
let leave = new AbortController();
let visited = false;

function notFound(root) {
  root.append(h("h1", { tabindex: "-1" }, "Not found"),
    notice("empty", "There is no such page.", "The address may be mistyped, or from another version of the console.",
      h("a", { class: "button primary", href: "#/" }, "Go to the overview")));
}

function route() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").filter((part) => part !== "");
  let names;
  try {
    names = parts.map(decodeURIComponent);
  } catch {
    names = ["?"];
  }
  const [page, name, tab] = names;
  if (page === undefined) return { title: "Overview", page: "overview", show: overview };
  if (page === "topics" && name === undefined) return { title: "Topics", page: "topics", show: topics };
  if (page === "topics" && names.length <= 3) {
    return { title: name, page: "topics", show: (root, signal) => topic(root, signal, name, tab ?? "messages") };
  }
  if (page === "cluster" && name === undefined) return { title: "Cluster", page: "cluster", show: cluster };
  if (page === "cluster" && name === "nodes" && names.length === 3) {
    return { title: `Node ${tab}`, page: "cluster", show: (root, signal) => node(root, signal, tab) };
  }
  return { title: "Not found", page: null, show: notFound };
}

function show() {
  // The skip link's target is on this page, not another page.
  if (location.hash === "#main") {
    main.focus();
    return;
  }
  leave.abort();
  leave = new AbortController();
  const { title, page, show: fill } = route();
  document.title = `${title} · Pilgrimage`;
  for (const link of document.querySelectorAll(".nav a[data-page]")) {
    if (link.dataset.page === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren();
  fill(main, leave.signal);
  if (visited) {
    scrollTo(0, 0);
    main.querySelector("h1")?.focus({ preventScroll: true });
  }
  visited = true;
}

function themeButton() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const control = iconButton("Theme", "moon", { id: "theme" });
  const paint = () => {
    const next = isDark() ? "light" : "dark";
    control.replaceChildren(icon(isDark() ? "sun" : "moon"));
    control.setAttribute("aria-label", `Use the ${next} theme`);
    control.title = `Use the ${next} theme`;
  };
  control.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("pilgrimage.theme", root.dataset.theme);
    } catch {
      // Without storage the choice holds until the page is closed.
    }
    paint();
  });
  system.addEventListener("change", paint);
  paint();
  document.getElementById("theme").replaceWith(control);
}

function showHealth({ node, error }) {
  const status = document.getElementById("status");
  const banner = document.getElementById("banner");
  const ready = node?.state === "ready";
  const state = error ? "down" : !node ? "unknown" : ready ? "ready" : "degraded";
  status.dataset.state = state;
  setText(document.getElementById("status-text"), { down: "Offline", unknown: "Connecting", ready: "Ready", degraded: "Degraded" }[state]);
  const text = error ? `${error.message} Trying again every second.` : node && !ready ? `The node is not well: ${node.state}` : "";
  setText(banner, text);
  banner.dataset.state = state;
  banner.hidden = text === "";
}

themeButton();
monitor.start();
monitor.watch(new AbortController().signal, showHealth);
addEventListener("hashchange", show);
show();
