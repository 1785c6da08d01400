// JSON as it was written. The node gives values back byte for byte, and a parsed copy would not be
// the same: large numbers lose digits, members change order. So raw slices are cut out instead.

const SPACE = /[\t\n\r ]*/y;
const SCALAR = /[^\t\n\r ,:\]}]+/y;

function skipSpace(text, at) {
  SPACE.lastIndex = at;
  SPACE.test(text);
  return SPACE.lastIndex;
}

function endOfString(text, at) {
  for (let i = at + 1; i < text.length; i += 1) {
    const c = text[i];
    if (c === "\\") i += 1;
    else if (c === '"') return i + 1;
  }
  return text.length;
}

function endOfValue(text, at) {
  const first = text[at];
  if (first === '"') return endOfString(text, at);
  if (first !== "{" && first !== "[") {
    SCALAR.lastIndex = at;
    if (!SCALAR.test(text)) throw new SyntaxError(`no JSON value at ${at}`);
    return SCALAR.lastIndex;
  }
  let depth = 0;
  for (let i = at; i < text.length; i += 1) {
    const c = text[i];
    if (c === '"') i = endOfString(text, i) - 1;
    else if (c === "{" || c === "[") depth += 1;
    else if (c === "}" || c === "]") {
      depth -= 1;
      if (depth === 0) return i + 1;
    }
  }
  throw new SyntaxError("JSON ends within a value");
}

/** The members of an object: name to the raw text of the value. */
export function members(text) {
  const found = new Map();
  let at = skipSpace(text, 0);
  if (text[at] !== "{") throw new SyntaxError("not a JSON object");
  at = skipSpace(text, at + 1);
  while (text[at] === '"') {
    const nameEnd = endOfString(text, at);
    const name = JSON.parse(text.slice(at, nameEnd));
    const start = skipSpace(text, skipSpace(text, nameEnd) + 1);
    const end = endOfValue(text, start);
    found.set(name, text.slice(start, end));
    at = skipSpace(text, end);
    if (text[at] === ",") at = skipSpace(text, at + 1);
  }
  return found;
}

/** The raw texts of an array's elements. */
export function elements(text) {
  const found = [];
  let at = skipSpace(text, 0);
  if (text[at] !== "[") throw new SyntaxError("not a JSON array");
  at = skipSpace(text, at + 1);
  while (at < text.length && text[at] !== "]") {
    const end = endOfValue(text, at);
    found.push(text.slice(at, end));
    at = skipSpace(text, end);
    if (text[at] === ",") at = skipSpace(text, at + 1);
  }
  return found;
}

/**
 * The text laid out for reading, as `[kind, text]` pieces; joined they are the same JSON with other
 * white space. A text that was cut off is laid out as far as it goes.
 */
export function pretty(text) {
  const pieces = [];
  let depth = 0;
  let at = 0;
  const line = () => `\n${"  ".repeat(depth)}`;
  while ((at = skipSpace(text, at)) < text.length) {
    const c = text[at];
    if (c === "{" || c === "[") {
      const next = skipSpace(text, at + 1);
      if (text[next] === (c === "{" ? "}" : "]")) {
        pieces.push(["mark", c + text[next]]);
        at = next + 1;
        continue;
      }
      depth += 1;
      pieces.push(["mark", c + line()]);
      at += 1;
    } else if (c === "}" || c === "]") {
      depth = Math.max(0, depth - 1);
      pieces.push(["mark", line() + c]);
      at += 1;
    } else if (c === ",") {
      pieces.push(["mark", c + line()]);
      at += 1;
    } else if (c === ":") {
      pieces.push(["mark", ": "]);
      at += 1;
    } else if (c === '"') {
      const end = endOfString(text, at);
      const isName = text[skipSpace(text, end)] === ":";
      pieces.push([isName ? "name" : "text", text.slice(at, end)]);
      at = end;
    } else {
      const end = endOfValue(text, at);
      const scalar = text.slice(at, end);
      pieces.push([/^[-\d]/.test(scalar) ? "number" : "word", scalar]);
      at = end;
    }
  }
  return pieces;
}

/** Whether the text is a JSON object or array. */
export function isStructured(text) {
  if (!/^\s*[[{]/.test(text)) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
