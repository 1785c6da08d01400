// Nodes: how one is in words, and the dialogs that let it come and go.

import * as api from "./api.js";
import { formDialog } from "./dialog.js";
import { field, h, select, setText, toast } from "./dom.js";
import { plural, span } from "./format.js";

/** Where the page of a node is. */
export function nodeHref(node) {
  return `#/cluster/nodes/${encodeURIComponent(node)}`;
}

/** How a node is: a state for colours, and words. */
export function stateOf(node) {
  const going = node.replaced_by !== undefined ? "being replaced" : "draining";
  if (node.status === "fenced") {
    const silent = node.silent_ms === null ? "Does not answer" : `Silent for ${span(node.silent_ms)}`;
    return { state: "down", text: node.draining ? `${silent}, ${going}` : silent };
  }
  if (node.status === "starting") return { state: "degraded", text: "Starting" };
  if (node.report === null) return { state: "degraded", text: "Did not answer in time" };
  if (node.draining) {
    const left = node.replicas === 0 ? "holds nothing" : `${plural(node.replicas, "copy", "copies")} left`;
    return { state: "degraded", text: `${going[0].toUpperCase()}${going.slice(1)}, ${left}` };
  }
  if (node.report.problems.length !== 0) return { state: "degraded", text: "At work, not well" };
  return { state: "ready", text: "At work" };
}

/** What a node does for the metadata. */
export function metadataRole(node) {
  return node.controller ? "Controller" : node.voter ? "Votes" : "Follows";
}

/** A coloured dot with words; `set` changes them. */
export function stateBadge(node) {
  const text = h("span", {});
  const element = h("span", { class: "state" }, h("span", { class: "status-dot" }), text);
  const set = (next) => {
    const { state, text: words } = stateOf(next);
    element.dataset.state = state;
    setText(text, words);
  };
  set(node);
  return { element, set };
}

/** Asks, then makes a node give everything away. */
export function drainDialog(node, done) {
  formDialog({
    title: `Drain ${node.id}?`,
    intro: `It stops leading at once, and its ${plural(node.replicas, "copy", "copies")} are made anew on other nodes, a few at a time. Nothing is lost, and it can be taken back.`,
    content: [],
    action: "Drain node",
    async submit() {
      await api.drain(node.id, true);
      toast(`Node ${node.id} gives everything away.`);
      done();
    },
  });
}

/** Lets a node keep what it has; needs no question. */
export async function undrain(node, done) {
  try {
    await api.drain(node.id, false);
    toast(`Node ${node.id} keeps what it has.`);
  } catch (error) {
    toast(error.message);
  }
  done();
}

/** Asks who gets what a node has, and has it replaced. */
export function replaceDialog(node, nodes, done) {
  const heirs = nodes.filter((other) => other.number !== node.number && other.status === "active" && !other.draining);
  const heir = select([["", "Whichever nodes have room"], ...heirs.map((other) => [other.id, `Node ${other.id}`])], "", { name: "by" });
  const away = node.status === "fenced";
  formDialog({
    title: `Replace ${node.id}?`,
    intro: away
      ? `What it had is made anew from the other copies, and it is forgotten. Do this only if it will not come back: what no other node has stays lost.`
      : `It gives everything away; once it is stopped it is forgotten.`,
    content: field("Its copies go to", heir, "One node for another: start the new one first, with --join, and choose it here."),
    action: "Replace node",
    kind: "danger",
    async submit() {
      await api.replaceNode(node.id, heir.value === "" ? null : heir.value);
      toast(`Node ${node.id} is being replaced.`);
      done();
    },
  });
}

/** Asks, then has a node forgotten. */
export function removeDialog(node) {
  formDialog({
    title: `Forget ${node.id}?`,
    intro: "It holds nothing and is not at work. If it ever starts again it has to join anew.",
    content: [],
    action: "Forget node",
    kind: "danger",
    async submit() {
      await api.removeNode(node.id);
      toast(`Node ${node.id} is forgotten.`);
      location.hash = "#/cluster";
    },
  });
}
