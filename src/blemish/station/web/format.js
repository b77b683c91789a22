/** Numbers, times and decisions as text; numbers as `blemish.report.html` rounds them. */

const DASH = "–";

/** What a decision is called. */
export const DECISIONS = {
  accepted: "Accepted",
  rejected: "Rejected",
  unjudged: "Not decided",
  failed: "Failed",
};

/** A number with four significant digits, or `digits` of them. */
export function number(value, digits = 4) {
  if (value === null || value === undefined) return DASH;
  const size = Math.abs(value);
  const text =
    size !== 0 && (size < 1e-5 || size >= 1e6)
      ? value.toExponential(2)
      : String(Number(value.toPrecision(digits)));
  return text.replace("-", "−");
}

/** A share in percent; a little is never none, and nearly all never all. */
export function percent(share) {
  if (share === null || share === undefined || Number.isNaN(share)) return DASH;
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  if (share < 1 && share > 0.9995) return "> 99.9 %";
  const value = share * 100;
  return `${value === 0 || value === 100 ? value : value.toFixed(value < 10 ? 1 : 0)} %`;
}

/** A duration. */
export function seconds(value) {
  if (value === null || value === undefined) return DASH;
  return value < 1 ? `${Number((value * 1000).toPrecision(3))} ms` : `${Number(value.toPrecision(3))} s`;
}

/** "1 in 20" of a share in (0, 1]. */
export function oneIn(share) {
  const n = Math.round(1 / share);
  const near = n > 1 && Math.abs(1 / share - n) < 0.02 * n;
  return share > 0.4 && !near ? `${Math.round(share * 10)} in 10` : `1 in ${n.toLocaleString("en")}`;
}

/** What a p-value says, in words; n calibration images. */
export function oddness(p, n) {
  if (p === null) return "This model has no calibration: it ranks parts, but sets no limit.";
  if (n && p * (n + 1) < 1.5)
    return `Odder than all ${n} good parts it was calibrated on: at most ${oneIn(p)} good parts looks this odd.`;
  if (p > 0.95) return "Nearly every good part looks at least this odd.";
  if (p > 0.4) return `About ${oneIn(p)} good parts look at least this odd.`;
  return `${oneIn(p)} good parts looks this odd.`;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const calendar = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric" });

/** The time of day here; with the date unless it is today's. */
export function when(time) {
  const date = new Date(time);
  const day = calendar.format(date);
  return day === calendar.format(new Date()) ? clock.format(date) : `${day}, ${clock.format(date)}`;
}

/** "3 parts", "1 part". */
export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

/** What a part is called, the best that is known. */
export function nameOf(inspection) {
  return inspection.part ?? inspection.path?.split(/[\\/]/).pop() ?? inspection.id.slice(-8);
}

/** An inspection in a sentence. */
export function summaryOf(inspection) {
  const found = inspection.regions.length ? `, ${count(inspection.regions.length, "region")}` : "";
  const score = inspection.score === null ? "" : `, score ${number(inspection.score)}`;
  return `${nameOf(inspection)}: ${DECISIONS[inspection.decision].toLowerCase()}${score}${found}`;
}

/** The verdict that counts, or undefined. */
export const lastVerdict = (inspection) => inspection.verdicts.at(-1);

/** A time to come, roughly. */
export function timeLeft(seconds) {
  if (seconds < 60) return "less than a minute left";
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `about ${minutes} min left` : `about ${number(minutes / 60, 2)} h left`;
}

const ALARM = 2; // log10 of the evidence at which drift alarms: 1 in 100

/** How much of the way to an alarm the evidence has gone, of 2. */
export const evidenceMeter = ({ alarm, evidence }) =>
  alarm ? ALARM : Math.min(ALARM, Math.max(0, evidence));

/** What the evidence says. */
export const driftState = ({ alarm, evidence }) =>
  alarm ? "Alarm" : evidence > ALARM / 2 ? "Some evidence of a change" : "No sign of a change";

/** The evidence itself: what betting 1 has become. */
export const capital = ({ evidence }) =>
  evidence > 6 ? "more than 1,000,000" : evidence < -2 ? "less than 0.01" : number(10 ** evidence, 3);

/** What a drift alarm means and what to look at. */
export const DRIFT = "Good parts no longer score as in calibration: check camera, light and material.";

/** The same at length. */
export const DRIFT_MEANS =
  "Something has changed that is not a defect of single parts. Check the camera (focus, position, exposure), the " +
  "light, and the material. Until it is set right, or the model is calibrated anew, the promised false-alarm " +
  "rate does not hold.";
