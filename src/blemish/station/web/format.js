/** Numbers, times and decisions as text; numbers as `blemish.report.html` rounds them. */

import { locale, t } from "./messages.js";

const DASH = "–";

const POINT = (1.5).toLocaleString(locale).charAt(1);

/** Digits with the decimal point of the language. */
const pointed = (text) => text.replace(".", POINT);

/** What a decision is called. */
export const decisionOf = (inspection) => t(`decision.${inspection.decision}`);

/** A number with four significant digits, or `digits` of them. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return DASH;
  const size = Math.abs(value);
  const text =
    size !== 0 && (size < 1e-5 || size >= 1e6)
      ? value.toExponential(2)
      : String(Number(value.toPrecision(digits)));
  return pointed(text.replace("-", "−"));
}

/** A share in percent; a little is never none, and nearly all never all. */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return DASH;
  if (share > 0 && share < 0.0005) return pointed("< 0.1 %");
  if (share < 1 && share > 0.9995) return pointed("> 99.9 %");
  const value = share * 100;
  return `${value === 0 || value === 100 ? value : pointed(value.toFixed(value < 10 ? 1 : 0))} %`;
}

/** A duration. */
export function seconds(value) {
  if (value === null || value === undefined) return DASH;
  return value < 1 ? `${number(value * 1000, 3)} ms` : `${number(value, 3)} s`;
}

/** "1 in 20" of a share in (0, 1]. */
export function oneIn(share) {
  const n = Math.round(1 / share);
  const near = n > 1 && Math.abs(1 / share - n) < 0.02 * n;
  return share > 0.4 && !near ? t("share.in_ten", { n: Math.round(share * 10) }) : t("share.one_in", { n });
}

/** What a p-value says, in words: n calibration images, and how many of them a threshold leaves above it. */
export function oddness(p, n, allowed) {
  if (p === null) return t("odds.none");
  if (n && p * (n + 1) < 1.5) {
    const highest = t("odds.highest", { n });
    return allowed === 1 ? `${highest} ${t("odds.few", { n, p: number(p, 2) })}` : highest;
  }
  if (p > 0.95) return t("odds.nearly_all");
  return t(p > 0.4 ? "odds.many" : "odds.some", { share: oneIn(p) });
}

const clock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const calendar = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short", year: "numeric" });

/** The time of day here; with the date unless it is today's. */
export function when(time) {
  const date = new Date(time);
  const day = calendar.format(date);
  return day === calendar.format(new Date()) ? clock.format(date) : `${day}, ${clock.format(date)}`;
}

/** What a part is called, the best that is known. */
export function nameOf(inspection) {
  return inspection.part ?? inspection.path?.split(/[\\/]/).pop() ?? inspection.id.slice(-8);
}

/** An inspection in a sentence. */
export function summaryOf(inspection) {
  const { score, regions } = inspection;
  let summary = t("panel.summary", { name: nameOf(inspection), decision: decisionOf(inspection) });
  if (score !== null) summary = t("panel.summary_score", { summary, score: number(score) });
  const n = regions.length;
  return n ? t("panel.summary_regions", { summary, regions: t("panel.regions", { n }) }) : summary;
}

/** The verdict that counts, or undefined. */
export const lastVerdict = (inspection) => inspection.verdicts.at(-1);

/** A time to come, roughly. */
export function timeLeft(seconds) {
  if (seconds < 60) return t("left.moment");
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? t("left.minutes", { n: minutes }) : t("left.hours", { n: number(minutes / 60, 2) });
}

const ALARM = 2; // log10 of the evidence at which drift alarms: 1 in 100

/** How much of the way to an alarm the evidence has gone, of 2. */
export const evidenceMeter = ({ alarm, evidence }) =>
  alarm ? ALARM : Math.min(ALARM, Math.max(0, evidence));

/** What the evidence says, in a word of the code. */
export const driftOf = ({ alarm, evidence }) => (alarm ? "alarm" : evidence > ALARM / 2 ? "some" : "no_sign");

/** The same in words of the page. */
export const driftState = (drift) => t(`drift.${driftOf(drift)}`);

/** The evidence itself: what betting 1 has become. */
export const capital = ({ evidence }) =>
  evidence > 6 ? t("drift.more") : evidence < -2 ? t("drift.less") : number(10 ** evidence, 3);
