// Choosing a partition of a topic.

import { h } from "./dom.js";

/** More partitions than this are typed, not chosen from a list. */
const LISTED = 200;

/** A choice of partition; `value()` is `null` for what `all` says. */
export function partitionChoice(count, all = `All ${count}`) {
  if (LISTED < count) {
    const control = h("input", { type: "number", name: "partition", min: 0, max: count - 1, step: 1, placeholder: all });
    return { control, value: () => (control.value === "" ? null : Number(control.value)) };
  }
  const options = [h("option", { value: "" }, all)];
  for (let n = 0; n < count; n += 1) options.push(h("option", { value: String(n) }, String(n)));
  const control = h("select", { name: "partition" }, options);
  return { control, value: () => (control.value === "" ? null : Number(control.value)) };
}
