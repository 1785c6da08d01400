// Where a partition's copies are and who leads it: in words, and the dialogs that change it.

import * as api from "./api.js";
import { FormError, formDialog } from "./dialog.js";
import { field, h, notice, select, toast } from "./dom.js";
import { count } from "./format.js";
import { stateOf } from "./nodes.js";

/** The copies of a partition in words. */
export function copiesOf(partition) {
  return partition.copies.map((copy) => {
    const lag = copy.lag ? ` ${count(copy.lag)} behind` : "";
    switch (copy.role) {
      case "leader": return `${copy.node} leads`;
      case "in_sync": return `${copy.node} in sync${lag}`;
      case "coming": return `${copy.node} coming${lag}`;
      case "going": return `${copy.node} going`;
      default: return `${copy.node}${lag === "" ? " behind" : lag}${copy.eligible ? ", complete" : ""}`;
    }
  }).join("; ");
}

/** Chooses the nodes of a partition's copies. */
export function reassignDialog(topic, partition, nodes, done) {
  const name = `${topic}/${partition.partition}`;
  const staying = partition.copies.filter((copy) => copy.role !== "going").map((copy) => copy.node);
  const boxes = nodes.map((node) => {
    const box = h("input", { type: "checkbox", name: "node", value: node.id, checked: staying.includes(node.id), disabled: node.status !== "active" && !staying.includes(node.id) });
    box.addEventListener("change", fill);
    return { node, box };
  });
  const first = h("select", { name: "preferred" });
  const chosen = () => boxes.filter(({ box }) => box.checked).map(({ node }) => node.id);
  function fill() {
    const before = first.value || staying[0];
    first.replaceChildren(...chosen().map((id) => h("option", { value: id, selected: id === before }, id)));
  }
  fill();
  formDialog({
    title: `Move ${name}`,
    intro: "Copies are made on the nodes that are new to it first; those that are not chosen give theirs up once the new ones are in sync.",
    content: [
      h("fieldset", { class: "choices" }, h("legend", {}, "Copies on"), boxes.map(({ node, box }) =>
        h("label", { class: "choice" }, box, h("span", { class: "strong" }, node.id), h("span", { class: "hint" }, stateOf(node).text, node.rack === undefined ? "" : `, rack ${node.rack}`)))),
      field("Leads when it can", first, "Leaderships are also evened out over the nodes by themselves."),
    ],
    action: "Move",
    async submit() {
      const wanted = chosen();
      if (wanted.length === 0) throw new FormError("Choose at least one node.", boxes[0].box);
      const order = [first.value, ...wanted.filter((id) => id !== first.value)];
      await api.reassign(topic, partition.partition, order);
      toast(`The copies of ${name} are on their way.`);
      done();
    },
  });
}

/** Chooses who leads a partition; one that nobody leads can be given up to an incomplete copy. */
export function leaderDialog(topic, partition, nodes, done) {
  const name = `${topic}/${partition.partition}`;
  if (partition.leader === null) {
    uncleanDialog(topic, partition, nodes, done);
    return;
  }
  const able = partition.copies.filter((copy) => copy.role === "in_sync").map((copy) => copy.node);
  const choice = select(able.map((id) => [id, id]), able[0], { name: "leader" });
  formDialog({
    title: `Leader of ${name}`,
    intro: `Node ${partition.leader} leads it. Another in-sync copy can take over without losing a record; writers wait for a moment.`,
    content: able.length === 0 ? notice("plain", "No other copy is in sync.") : field("Shall lead", choice),
    action: "Make it lead",
    async submit() {
      if (able.length === 0) throw new FormError("There is no in-sync copy to choose.", choice);
      await api.elect(topic, partition.partition, choice.value, false);
      toast(`Node ${choice.value} leads ${name}.`);
      done();
    },
  });
}

function uncleanDialog(topic, partition, nodes, done) {
  const name = `${topic}/${partition.partition}`;
  const live = nodes.filter((node) => node.status === "active" || node.status === "draining").map((node) => node.id);
  const able = partition.copies.map((copy) => copy.node).filter((id) => live.includes(id));
  const choice = select(able.map((id) => [id, id]), able[0], { name: "leader" });
  const typed = h("input", { type: "text", name: "confirm", autocomplete: "off", autocapitalize: "off", spellcheck: "false" });
  formDialog({
    title: `Give up records of ${name}?`,
    intro: "No node that surely has every record is there. A copy that lacks some can lead, and what only the others have is lost for good. Start the missing nodes instead if you can.",
    content: able.length === 0 ? notice("plain", "None of its copies is on a node at work.")
      : [field("Goes on with the copy on", choice), field("Type the topic's name to confirm", typed)],
    action: "Give up what it lacks",
    kind: "danger",
    async submit() {
      if (able.length === 0) throw new FormError("Start a node that has a copy.", choice);
      if (typed.value.trim() !== topic) throw new FormError(`Type “${topic}” to give up records.`, typed);
      await api.elect(topic, partition.partition, choice.value, true);
      toast(`Node ${choice.value} leads ${name}.`);
      done();
    },
  });
}
