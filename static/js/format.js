// Numbers, sizes, spans and times: how they are written, and how they are read from a form.

const whole = new Intl.NumberFormat("en-US");
const short = new Intl.NumberFormat("en-US", { notation: "compact", maximumSignificantDigits: 3 });
const SIZES = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const SPANS = [["d", 86_400_000], ["h", 3_600_000], ["m", 60_000], ["s", 1000], ["ms", 1]];

/** `12,345`. */
export function count(n) {
  return whole.format(n);
}

/** `12.3K`, for places where the exact number does not matter. */
export function compact(n) {
  return n < 1000 ? short.format(n < 10 ? Math.round(n * 10) / 10 : Math.round(n)) : short.format(n);
}

/** `1.5 MiB`. */
export function bytes(n) {
  let unit = 0;
  while (1024 <= n && unit < SIZES.length - 1) {
    n /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || 100 <= n ? 0 : 10 <= n ? 1 : 2;
  return `${n.toFixed(digits)} ${SIZES[unit]}`;
}

/** A size as it can be typed again, exact: `256 MiB`. */
export function exactBytes(n) {
  let unit = 0;
  while (n !== 0 && n % 1024 === 0 && unit < SIZES.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${n} ${SIZES[unit]}`;
}

/** A span as it can be typed again, exact: `7 d`. */
export function exactSpan(ms) {
  const [unit, size] = SPANS.find(([, size]) => ms % size === 0 && size <= ms) ?? ["ms", 1];
  return `${ms / size} ${unit}`;
}

/** `3 d 4 h`, `12 s`: the two greatest units. */
export function span(ms) {
  const parts = [];
  for (const [unit, size] of SPANS.slice(0, 4)) {
    const n = Math.floor(ms / size);
    ms -= n * size;
    if (0 < n || 0 < parts.length) parts.push(`${n} ${unit}`);
  }
  return parts.slice(0, 2).join(" ") || "0 s";
}

/** `2026-05-04 13:02:11.123` in the reader's time zone. */
export function time(ms) {
  const at = new Date(ms);
  if (Number.isNaN(at.getTime())) return `${ms} ms`;
  const two = (n) => String(n).padStart(2, "0");
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}

/** A moment for lists: today by its time, any other day by its date and time to the second. */
export function shortTime(ms) {
  const full = time(ms);
  return full.slice(0, 10) === time(Date.now()).slice(0, 10) ? full.slice(11) : full.slice(0, 19);
}

/** The same moment for machines, in UTC. */
export function isoTime(ms) {
  const at = new Date(ms);
  return Number.isNaN(at.getTime()) ? `${ms} ms since 1970` : at.toISOString();
}

/** `42.0 %`. */
export function percent(part, all) {
  return `${(all === 0 ? 0 : (100 * part) / all).toFixed(1)} %`;
}

/** `one record`, `2 records`. */
export function plural(n, one, many = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : many}`;
}

/** Milliseconds of `7 d`, `12h`, `500 ms`; throws a sentence for people. */
export function parseSpan(text) {
  const found = /^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|w)\s*$/i.exec(text);
  if (!found) throw new Error(`“${text}” is not a span of time. Write a number and ms, s, m, h or d, as in “7 d”.`);
  const unit = found[2].toLowerCase().replace("min", "m");
  const size = unit === "w" ? 7 * 86_400_000 : SPANS.find(([name]) => name === unit)[1];
  return Math.round(Number(found[1]) * size);
}

/** Bytes of `256 MiB`, `1 GB`, `4096`; throws a sentence for people. */
export function parseSize(text) {
  const found = /^\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?)(b?)\s*$/i.exec(text);
  if (!found) throw new Error(`“${text}” is not a size. Write a number and B, KiB, MiB or GiB, as in “256 MiB”.`);
  const power = "kmgtp".indexOf(found[2].toLowerCase()) + (found[2] ? 1 : 0);
  // "MB" is a million; "MiB" and a bare "M" are powers of two.
  const base = found[2] && !found[3] && found[4] ? 1000 : 1024;
  return Math.round(Number(found[1]) * base ** power);
}
