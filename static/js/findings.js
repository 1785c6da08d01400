// What is wrong with the cluster, in the node's own words.

import { announce, h, icon } from "./dom.js";
import { nodeHref } from "./nodes.js";
import { topicHref } from "./topics.js";

const LABELS = { critical: "Critical", warning: "Warning", notice: "Notice" };
const ICONS = { critical: "alert", warning: "alert", notice: "info" };

/** A sentence begins with a capital and ends with a full stop. */
const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

/** A hint, in which a command of the command line is set as such. */
function hint(text) {
  const at = text.indexOf("pilgrimage ");
  if (at === -1) return h("p", { class: "finding-hint" }, sentence(text));
  const before = text.slice(0, at);
  return h("p", { class: "finding-hint" }, `${before.slice(0, 1).toUpperCase()}${before.slice(1)}`, h("code", {}, text.slice(at)));
}

function line(finding, links) {
  const link = finding.node !== undefined ? [`Node ${finding.node}`, nodeHref(finding.node)]
    : finding.topic !== undefined ? [`Topic ${finding.topic}`, topicHref(finding.topic, "partitions")] : null;
  return h("li", { class: "finding", data: { severity: finding.severity } },
    icon(ICONS[finding.severity] ?? "info"),
    h("div", { class: "finding-text" },
      h("p", {}, h("span", { class: "visually-hidden" }, `${LABELS[finding.severity] ?? finding.severity}: `), sentence(finding.text)),
      finding.hint !== undefined && hint(finding.hint)),
    links && link && h("a", { href: link[1] }, link[0]));
}

/**
 * The list of findings. `quiet` shows nothing at all when all is well; `only` picks those to show;
 * `links` lead to what they are about.
 */
export function findingsList({ quiet = false, only = () => true, links = true } = {}) {
  const list = h("ul", { class: "findings" });
  const well = h("p", { class: "well" }, icon("check"), "All is well: every partition has a leader and all of its copies.");
  const element = h("section", { class: "card health", "aria-label": "Health", hidden: true }, list, well);
  let shown = null;
  return {
    element,
    update(findings) {
      const kept = findings.filter(only);
      const key = JSON.stringify(kept);
      if (key === shown) return;
      // Screen readers hear of it once, and not again for each second that a silence grows.
      const worst = kept.find((finding) => finding.severity === "critical");
      if (shown !== null && worst && !shown.includes("critical")) announce(sentence(worst.text));
      shown = key;
      list.replaceChildren(...kept.map((finding) => line(finding, links)));
      list.hidden = kept.length === 0;
      well.hidden = kept.length !== 0;
      element.hidden = quiet && kept.length === 0;
    },
  };
}
