// Watches the node's counters once a second for as long as the page is open, so that the charts
// have a past whichever page is shown.

import { node } from "./api.js";
import { poll } from "./dom.js";

/** How far back the charts reach, in milliseconds. */
export const WINDOW_MS = 120_000;

const COUNTERS = ["records_in", "records_out", "bytes_in", "bytes_out", "fsyncs", "fsync_seconds", "requests", "cpu_seconds"];
const listeners = new Set();
/** `now` is the moment of the last attempt, on the clock of the samples' `at`. */
const state = { node: null, error: null, samples: [], now: 0 };
let previous = null;

/** Calls `listener` with the state now and after each answer, until the signal is aborted. */
export function watch(signal, listener) {
  listeners.add(listener);
  signal.addEventListener("abort", () => listeners.delete(listener));
  listener(state);
}

/** Per second rates since the last answer; none if the node was started anew in between. */
function rates(now, at) {
  if (!previous || now.started_at !== previous.node.started_at) return null;
  const seconds = (at - previous.at) / 1000;
  const sample = { at, memory: now.memory };
  for (const name of COUNTERS) {
    const grown = now[name] - previous.node[name];
    if (grown < 0 || seconds <= 0) return null;
    sample[name] = grown / seconds;
  }
  // Seconds spent in fdatasync over the number of calls.
  sample.fsync_ms = sample.fsyncs === 0 ? 0 : (1000 * sample.fsync_seconds) / sample.fsyncs;
  return sample;
}

async function step() {
  try {
    const now = await node(AbortSignal.timeout(5000));
    const at = performance.now();
    const sample = rates(now, at);
    if (sample) state.samples.push(sample);
    previous = { node: now, at };
    state.node = now;
    state.error = null;
  } catch (error) {
    state.error = error;
  }
  state.now = performance.now();
  // One more than the charts show, so that their line begins at the edge.
  while (1 < state.samples.length && state.samples[1].at < state.now - WINDOW_MS) state.samples.shift();
  for (const listener of listeners) listener(state);
}

/** Begins to watch; called once. */
export function start() {
  poll(new AbortController().signal, 1000, step);
}
