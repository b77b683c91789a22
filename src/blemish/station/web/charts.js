/** Charts over time in SVG: bands, lines and bars on one scale. */

import { s } from "./dom.js";
import { t } from "./messages.js";

const HEIGHT = 220;
const [LEFT, RIGHT, TOP, BOTTOM] = [74, 10, 12, 26];

/** Round a step of a scale up to 1, 2, 2.5 or 5 times a power of ten. */
function niceStep(span, parts) {
  const rough = span / parts;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 2.5, 5, 10].find((n) => n * power >= rough * 0.999);
}

/** Marks of a scale that holds `low` to `high`. */
export function ticks(low, high, parts = 4) {
  const step = niceStep(high - low || Math.abs(high) || 1, parts);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil(high / step - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/**
 * Draw a chart, `width` pixels wide: it is not scaled, so that its letters keep their size.
 *
 * times: when each span starts, and the end of the last; layers: {kind: "band" | "line" | "bar" | "level",
 * values (two arrays for a band, a number for a level; null: nothing there), name}; form: a value's text; label: what is shown;
 * floor: whether the scale starts at zero.
 */
export function chart({ width, times, layers, form, label, floor = false, timeForm }) {
  const known = (some) => some.flatMap((layer) => [layer.values].flat(2)).filter((value) => value !== null);
  const all = known(layers);
  if (!known(layers.filter((layer) => layer.kind !== "level")).length)
    return s(
      "svg",
      {
        width, height: HEIGHT,
        class: "chart",
        role: "img",
        "aria-label": t("chart.empty", { label }),
      },
      s("text", { x: width / 2, y: HEIGHT / 2, "text-anchor": "middle" }, t("chart.nothing")),
    );
  const marks = ticks(floor ? 0 : Math.min(...all), Math.max(...all));
  const [low, high] = [marks[0], marks.at(-1)];
  const y = (value) => HEIGHT - BOTTOM - ((HEIGHT - TOP - BOTTOM) * (value - low)) / (high - low);
  const [begin, end] = [times[0], times.at(-1)];
  const x = (time) => LEFT + ((width - LEFT - RIGHT) * (time - begin)) / (end - begin);
  const middle = (i) => (x(times[i]) + x(times[i + 1])) / 2;
  const span = x(times[1]) - x(times[0]);
  const parts = width < 480 ? 2 : 4; // times below the axis, less one, which have to keep apart
  return s(
    "svg",
    { width, height: HEIGHT, class: "chart", role: "img", "aria-label": label },
    marks
      .map((value) => [
        s("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
        s("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, form(value)),
      ])
      .flat(),
    Array.from({ length: parts + 1 }, (_, i) => begin + ((end - begin) * i) / parts)
      .map((time, i) =>
        s(
          "text",
          { x: x(time), y: HEIGHT - 6, "text-anchor": i === 0 ? "start" : i === parts ? "end" : "middle" },
          timeForm(time),
        ),
      ),
    layers.map((layer) => DRAW[layer.kind](layer, { y, middle, span, low, end: width - RIGHT })).flat(),
  );
}

const DRAW = {
  bar: ({ values, name, titles }, { y, middle, span, low }) =>
    values.map((value, i) =>
      value === null
        ? null
        : s(
            "rect",
            {
              x: middle(i) - span * 0.38,
              width: span * 0.76,
              y: Math.min(y(value), y(low) - 2),
              height: Math.max(2, y(low) - y(value)),
              class: name,
            },
            s("title", {}, titles[i]),
          ),
    ),
  line: ({ values, name }, { y, middle, span }) => [
    s("path", {
      d: runs(values)
        .map((run) => `M${run.map((i) => `${middle(i)} ${y(values[i])}`).join("L")}`)
        .join(""),
      class: `line ${name}`,
    }),
    ...runs(values)
      .filter((run) => run.length === 1)
      .map(([i]) =>
        s("circle", { cx: middle(i), cy: y(values[i]), r: Math.min(3, span / 2), class: `dot ${name}` }),
      ),
  ],
  band: ({ values: [lower, upper], name }, { y, middle, span }) =>
    runs(lower).map((run) => {
      const reach = run.length === 1 ? span * 0.3 : 0; // a span alone has a width, too
      const ends = (i) => (reach ? [middle(i) - reach, middle(i) + reach] : [middle(i)]);
      const there = run.flatMap((i) => ends(i).map((x) => `${x} ${y(upper[i])}`));
      const back = [...run].reverse().flatMap((i) =>
        ends(i)
          .reverse()
          .map((x) => `${x} ${y(lower[i])}`),
      );
      return s("path", { d: `M${[...there, ...back].join("L")}Z`, class: name });
    }),
  level: ({ values, name }, { y, end }) =>
    s("line", { x1: LEFT, x2: end, y1: y(values), y2: y(values), class: name }),
};

/** Places of consecutive values that are there. */
function runs(values) {
  const found = [];
  values.forEach((value, i) => {
    if (value === null) return;
    if (i > 0 && values[i - 1] !== null) found.at(-1).push(i);
    else found.push([i]);
  });
  return found;
}
