/** Verdicts on their way. They are kept in the browser until the station has them, over a reload as well. */

import { Away, Refused, link, post } from "./api.js";
import { keep, kept } from "./state.js";

/** Tells "change", "saved" with the inspection, and "refused" with the verdict and its error. */
export const outbox = new EventTarget();

const waiting = JSON.parse(kept("verdicts") ?? "[]");
let sending = false;

/** Number of verdicts that the station does not have yet. */
export const unsent = () => waiting.length;

/** Give a verdict; it is sent now, or when the station is back. */
export function judge(inspection, verdict, note) {
  waiting.push({ inspection: inspection.id, verdict, note });
  changed();
  send();
}

function changed() {
  keep("verdicts", JSON.stringify(waiting));
  outbox.dispatchEvent(new Event("change"));
}

/** Send what waits, the oldest first. */
export async function send() {
  if (sending) return;
  sending = true;
  while (waiting.length) {
    const [{ inspection, verdict, note }] = waiting;
    let told;
    try {
      const detail = await post(`/v1/inspections/${inspection}/verdict`, { verdict, note });
      told = new CustomEvent("saved", { detail });
    } catch (error) {
      if (error instanceof Away || error.status === 401) break; // until it is back, or a token is given
      if (error instanceof Refused && error.wait !== null) {
        setTimeout(send, error.wait * 1000);
        break;
      }
      told = new CustomEvent("refused", { detail: { ...waiting[0], error } });
    }
    waiting.shift();
    changed();
    outbox.dispatchEvent(told);
  }
  sending = false;
}

link.addEventListener("back", send);
