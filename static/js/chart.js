// A line chart of the last moments, two minutes at most, drawn as SVG. What it shows is also in its legend as text.

import { h, setText, svg } from "./dom.js";
import { WINDOW_MS } from "./monitor.js";

const HEIGHT = 128;
const TOP = 16;
const BOTTOM = 4;
/** A chart with less of a past than this leaves room for it. */
const SHORTEST_MS = 30_000;
/** Two samples further apart than this are not joined: nobody was looking in between. */
const GAP_MS = 4000;

function ceiling(max, base) {
  const unit = base === 1024 ? 1024 ** Math.max(0, Math.floor(Math.log2(max) / 10)) : 1;
  const scaled = max / unit;
  const power = 10 ** Math.floor(Math.log10(scaled));
  // Between 1000 and 1024 of a unit only the next unit is left.
  const step = [1, 2, 4, 5, 8, 10].find((n) => scaled <= n * power * 1.0001) ?? 10.24;
  return step * power * unit;
}

/**
 * A chart of `series` (`name`, and `of(sample)`, its value). `format` writes a value, `floor` is
 * the least height of the axis, `base` is 1024 for bytes.
 */
export function chart({ title, series, format, floor = 1, base = 10 }) {
  const grid = [0.5, 1].map((share) => ({
    share,
    line: svg("line", { class: "chart-grid" }),
    label: svg("text", { class: "chart-label", x: 0 }),
  }));
  const lines = series.map((_, n) => ({
    area: svg("path", { class: `chart-area series-${n}` }),
    line: svg("path", { class: `chart-line series-${n}` }),
    dot: svg("circle", { class: `chart-dot series-${n}`, r: 3.5, visibility: "hidden" }),
    value: h("span", { class: "chart-value" }, "–"),
  }));
  const cursor = svg("line", { class: "chart-cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  const plot = svg("svg", { class: "chart-plot", height: HEIGHT, overflow: "hidden", "aria-hidden": "true" },
    grid.map((g) => [g.line, g.label]),
    svg("line", { class: "chart-base", x1: 0, x2: "100%", y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
    lines.map((l) => l.area), lines.map((l) => l.line), cursor, lines.map((l) => l.dot));
  const since = h("span", {});
  const element = h("figure", { class: "card chart" },
    h("figcaption", { class: "chart-head" },
      h("h2", {}, title),
      h("div", { class: "legend" }, series.map((one, n) =>
        h("span", { class: "legend-item" }, h("span", { class: `swatch series-${n}` }), h("span", {}, one.name), lines[n].value)))),
    plot,
    h("div", { class: "chart-foot", "aria-hidden": "true" }, since, h("span", {}, "now")));

  let samples = [];
  let now = 0;
  let pointed = null;
  let width = 0;

  function draw() {
    if (width === 0) return;
    const end = now;
    const top = ceiling(Math.max(floor, ...samples.flatMap((s) => series.map((one) => one.of(s)))), base);
    const reach = Math.min(WINDOW_MS, Math.max(SHORTEST_MS, end - (samples[0]?.at ?? end)));
    const x = (at) => width - ((end - at) / reach) * width;
    const y = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
    for (const { share, line, label } of grid) {
      const at = y(top * share);
      line.setAttribute("x2", width);
      line.setAttribute("y1", at);
      line.setAttribute("y2", at);
      label.setAttribute("y", at - 4);
      setText(label, format(top * share));
    }
    const fresh = samples.length !== 0 && end - samples.at(-1).at < GAP_MS ? samples.at(-1) : null;
    const shown = pointed === null ? fresh
      : samples.reduce((best, s) => (best === null || Math.abs(x(s.at) - pointed) <= Math.abs(x(best.at) - pointed) ? s : best), null);
    series.forEach((one, n) => {
      let line = "";
      let area = "";
      let last = null;
      for (const sample of samples) {
        const point = `${x(sample.at).toFixed(1)} ${y(one.of(sample)).toFixed(1)}`;
        if (last === null || GAP_MS < sample.at - last.at) {
          if (last !== null) area += `L${x(last.at).toFixed(1)} ${y(0)}Z`;
          line += `M${point}`;
          area += `M${x(sample.at).toFixed(1)} ${y(0)}L${point}`;
        } else {
          line += `L${point}`;
          area += `L${point}`;
        }
        last = sample;
      }
      if (last !== null) area += `L${x(last.at).toFixed(1)} ${y(0)}Z`;
      lines[n].line.setAttribute("d", line);
      lines[n].area.setAttribute("d", area);
      setText(lines[n].value, shown ? format(one.of(shown)) : "–");
      const { dot } = lines[n];
      dot.setAttribute("visibility", shown && pointed !== null ? "visible" : "hidden");
      if (shown) {
        dot.setAttribute("cx", x(shown.at));
        dot.setAttribute("cy", y(one.of(shown)));
      }
    });
    cursor.setAttribute("visibility", shown && pointed !== null ? "visible" : "hidden");
    if (shown && pointed !== null) {
      cursor.setAttribute("x1", x(shown.at));
      cursor.setAttribute("x2", x(shown.at));
      setText(since, `${Math.round((end - shown.at) / 1000)} s ago`);
    } else {
      setText(since, reach === WINDOW_MS ? "2 min ago" : `${Math.round(reach / 1000)} s ago`);
    }
  }

  plot.addEventListener("pointermove", (event) => {
    pointed = event.clientX - plot.getBoundingClientRect().left;
    draw();
  });
  plot.addEventListener("pointerleave", () => {
    pointed = null;
    draw();
  });
  new ResizeObserver(([entry]) => {
    width = entry.contentRect.width;
    draw();
  }).observe(plot);

  return {
    element,
    /** Shows these samples, the present being `at` on their clock. */
    update(next, at) {
      samples = next;
      now = at;
      draw();
    },
  };
}
