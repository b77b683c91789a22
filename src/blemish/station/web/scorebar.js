/** A scale with the scores of good parts, the threshold and a part's own score. */

import { s } from "./dom.js";
import { number } from "./format.js";
import { t } from "./messages.js";

const [WIDTH, HEIGHT, LINE] = [400, 62, 34];

/** Draw the scale of ascending calibration `scores`. */
export function scoreBar(score, threshold, scores) {
  const low = Math.min(scores[0], score);
  const top = Math.max(scores.at(-1), threshold);
  const most = top + 0.9 * Math.max(top - scores[0], 1e-9);
  const far = score > most; // so far off the scale that it would squeeze everything else
  const high = far || score > top ? Math.max(Math.min(score, most), top) : top;
  const x = (value) =>
    10 + (WIDTH - 20) * Math.min(1, Math.max(0, (value - low) / Math.max(high - low, 1e-12)));
  const text = t("scorebar.label", {
    score: number(score),
    threshold: number(threshold),
    n: scores.length,
    low: number(scores[0]),
    high: number(scores.at(-1)),
  });
  const needleLeft = x(score) < WIDTH / 3; // where the number of good parts would stand
  const side = x(threshold) > WIDTH - 110 ? "end" : "start";
  return s(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "scorebar", role: "img", "aria-label": text },
    s("rect", { x: x(threshold), y: LINE - 12, width: WIDTH - x(threshold), height: 18, class: "beyond" }),
    s("line", { x1: 0, x2: WIDTH, y1: LINE + 6, y2: LINE + 6, class: "axis" }),
    scores.map((value) =>
      s("line", { x1: x(value), x2: x(value), y1: LINE - 6, y2: LINE + 6, class: "good-part" }),
    ),
    s("line", { x1: x(threshold), x2: x(threshold), y1: LINE - 16, y2: LINE + 10, class: "limit" }),
    s(
      "text",
      { x: x(threshold) + (side === "end" ? -5 : 5), y: LINE - 20, "text-anchor": side },
      t("scorebar.threshold"),
    ),
    s("path", { d: `M${x(score)} ${LINE + 2}l8 14h-16z`, class: "needle" }),
    s(
      "text",
      { x: needleLeft ? WIDTH : 0, y: HEIGHT - 2, "text-anchor": needleLeft ? "end" : "start" },
      t("count.good_parts", { n: scores.length }),
    ),
    far
      ? s(
          "text",
          { x: WIDTH - 24, y: HEIGHT - 2, "text-anchor": "end", class: "far" },
          t("scorebar.far"),
        )
      : null,
  );
}
