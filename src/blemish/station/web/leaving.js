/** Logging out: it lasts until the station has ended the session, over a reload and in each tab of this browser. */

import { ask } from "./api.js";
import { keep, kept, station } from "./state.js";

const NAME = "leaving";
const PATIENCE = 10000; // ms after which a station that says nothing counts as away
let leaves = false; // where the browser keeps nothing

/** Whether somebody has logged out whose session the station may not have ended. */
export const isLeaving = () => leaves || kept(NAME) === "yes";

/** Forget who is here. */
export function forgetLogin() {
  leaves = true;
  keep(NAME, "yes");
  Object.assign(station, { name: null, role: null });
}

/** Let the station end the session; throws what `ask` does. */
export async function endSession() {
  await ask("/v1/session", { method: "DELETE", signal: AbortSignal.timeout(PATIENCE) });
  leaves = false;
  keep(NAME, "no");
}
