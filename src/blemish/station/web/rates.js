/** False-alarm rates: what a step of their slider means, and the rate of an inspection. */

import { modelOf } from "./state.js";

export const STEPS = 1000; // of the slider, which is logarithmic from the lowest rate to the highest
export const HIGHEST = 0.5;

/** The lowest rate that calibration scores can promise. */
export function lowestOf(scores) {
  return 1 / (scores.length + 1);
}

/** The rate at a step of the slider. */
export function rateAt(step, scores) {
  const lowest = lowestOf(scores);
  return Math.min(HIGHEST, Math.max(lowest, lowest * (HIGHEST / lowest) ** (step / STEPS)));
}

/** The step of the slider at a rate. */
export function stepAt(rate, scores) {
  const lowest = lowestOf(scores);
  return Math.round((STEPS * Math.log(rate / lowest)) / Math.log(HIGHEST / lowest));
}

/** The rate whose threshold an inspection was judged by, which need not be today's. */
export function rateOf(inspection, scores) {
  const model = modelOf(inspection.model);
  if (model?.threshold === inspection.threshold) return model.false_alarm_rate;
  const above = scores.filter((score) => score >= inspection.threshold).length;
  return Math.max(1, above) / (scores.length + 1);
}
