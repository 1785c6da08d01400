// The public API of the node that served this page; nothing else is ever asked.

import { elements, members } from "./json.js";

/** A request that failed: the node's problem document, or that no node answered. */
export class ApiError extends Error {
  constructor(detail, { status = 0, code = "unreachable" } = {}) {
    super(detail);
    this.status = status;
    this.code = code;
  }
}

async function problemOf(response) {
  try {
    const { detail, title, code } = await response.json();
    return new ApiError(detail || title, { status: response.status, code });
  } catch {
    return new ApiError(`The node answered ${response.status} ${response.statusText}.`, { status: response.status, code: "unknown" });
  }
}

async function request(method, path, { query, body, signal } = {}) {
  const wanted = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== "") wanted.set(name, value);
  }
  const address = wanted.size === 0 ? path : `${path}?${wanted}`;
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(address, { method, headers, body, signal, cache: "no-store" });
  } catch (cause) {
    if (signal?.aborted) throw cause;
    throw new ApiError(`No answer from ${location.host}. Check that the node is running and reachable from here.`);
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function json(...args) {
  const response = await request(...args);
  return { status: response.status, body: response.status === 204 ? null : await response.json() };
}

const topicPath = (topic) => `/v1/topics/${encodeURIComponent(topic)}`;

/** Where the records of a topic, or of one of its partitions, are read. */
export function recordsPath(topic, partition) {
  return partition === null ? `${topicPath(topic)}/records` : `${topicPath(topic)}/partitions/${partition}/records`;
}

/** The node, its load and its storage. */
export async function node(signal) {
  return (await json("GET", "/v1/node", { signal })).body;
}

/** A page of topics whose names begin with `prefix`. */
export async function topics({ prefix, limit, signal }) {
  return (await json("GET", "/v1/topics", { query: { prefix, limit }, signal })).body;
}

/** One topic and its settings. */
export async function topic(name, signal) {
  return (await json("GET", topicPath(name), { signal })).body;
}

/** Creates a topic; `created` is false when it stood there with the same settings. */
export async function createTopic(name, settings) {
  const { status } = await json("PUT", topicPath(name), { body: JSON.stringify(settings) });
  return { created: status === 201 };
}

/** Changes settings of a topic. */
export async function changeTopic(name, settings) {
  return (await json("PATCH", topicPath(name), { body: JSON.stringify(settings) })).body;
}

/** Deletes a topic and all of its records. */
export async function deleteTopic(name) {
  await json("DELETE", topicPath(name));
}

/** The partitions of a topic. */
export async function partitions(name, signal) {
  return (await json("GET", `${topicPath(name)}/partitions`, { signal })).body.partitions;
}

/** A page of records as raw JSON texts, and where to go on. */
export async function records(name, partition, query, signal) {
  const page = members(await (await request("GET", recordsPath(name, partition), { query, signal })).text());
  return { records: elements(page.get("records") ?? "[]"), next: JSON.parse(page.get("next") ?? '""') };
}

/** Appends one record; `fields` maps its members to raw JSON, so that a value goes out as typed. */
export async function produce(name, fields) {
  const record = Object.entries(fields).map(([member, raw]) => `${JSON.stringify(member)}:${raw}`).join(",");
  return (await json("POST", `${topicPath(name)}/records`, { body: `{"records":[{${record}}]}` })).body;
}

const nodePath = (node) => `/v1/nodes/${encodeURIComponent(node)}`;

/** The cluster: its nodes, what is moved, and what is wrong. */
export async function cluster(signal) {
  return (await json("GET", "/v1/cluster", { signal })).body;
}

/** A page of the partitions of which a node has a copy. */
export async function heldBy(node, { limit, page_token, signal }) {
  return (await json("GET", `${nodePath(node)}/partitions`, { query: { limit, page_token }, signal })).body;
}

/** Makes a node give everything away, or keep what it has. */
export async function drain(node, wanted) {
  await json(wanted ? "POST" : "DELETE", `${nodePath(node)}/drain`);
}

/** Gives what a node has to another one (`null`: to whichever), and has it forgotten. */
export async function replaceNode(node, by) {
  await request("PUT", `${nodePath(node)}/replacement`, { body: JSON.stringify(by === null ? {} : { by }) });
}

/** Forgets a node that holds nothing and is not at work. */
export async function removeNode(node) {
  await json("DELETE", nodePath(node));
}

const partitionPath = (topic, partition) => `${topicPath(topic)}/partitions/${partition}`;

/** Moves a partition's copies to these nodes, the first of them preferred as leader. */
export async function reassign(topic, partition, nodes) {
  await request("PUT", `${partitionPath(topic, partition)}/replicas`, { body: JSON.stringify({ nodes }) });
}

/** Takes back a move. */
export async function cancelReassign(topic, partition) {
  await json("DELETE", `${partitionPath(topic, partition)}/replicas`);
}

/** Makes a node lead a partition; `unclean`: although it may lack acknowledged records. */
export async function elect(topic, partition, node, unclean) {
  await json("PUT", `${partitionPath(topic, partition)}/leader`, { body: JSON.stringify({ node, unclean }) });
}
