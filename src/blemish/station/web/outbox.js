/**
 * Verdicts on their way. They are kept in the browser until the station has them, over a reload as well.
 *
 * Each belongs to the login that gave it and has the time at which it was given: it is sent when that login is
 * here, and no other. A key of its own lets it be sent twice and be recorded once.
 */

import { Away, Refused, link, post } from "./api.js";
import { newKey } from "./keys.js";
import { keep, kept, loadSession, station } from "./state.js";

/** Tells "change", "saved" with the inspection, and "refused" with what was sent and its error. */
export const outbox = new EventTarget();

const NAME = "verdicts";
let memory = []; // where the browser keeps nothing
let flying = null; // the key of what is being sent

/** Who is logged in; no name where the station asks for no token. */
const login = () => station.name ?? "";

/** What waits, of all logins; read anew each time, as another tab may have changed it. */
function waiting() {
  const text = kept(NAME);
  return text === null ? memory : JSON.parse(text);
}

function change(entries) {
  memory = entries;
  keep(NAME, JSON.stringify(entries));
  outbox.dispatchEvent(new Event("change"));
}

const mine = () => waiting().filter((entry) => entry.login === login());

/** Number of verdicts of this login that the station does not have yet. */
export const unsent = () => mine().length;

/** Numbers of verdicts that wait for other logins: [[name, number], …]. */
export function ofOthers() {
  const numbers = new Map();
  for (const entry of waiting())
    if (entry.login !== login()) numbers.set(entry.login, (numbers.get(entry.login) ?? 0) + 1);
  return [...numbers];
}

/** Give a verdict; it is sent now, or when the station is back. Returns its key. */
export function judge(inspection, verdict, note, reason = null) {
  const key = newKey();
  add({ key, inspection: inspection.id, verdict, note, reason });
  return key;
}

/** Take a verdict back by its key: one that was not sent is forgotten, another one is withdrawn. */
export function withdraw(inspection, key) {
  const left = waiting().filter((entry) => entry.key !== key);
  if (key !== flying && left.length < waiting().length) change(left);
  else add({ key: newKey(), inspection: inspection.id, withdraws: key });
}

function add(entry) {
  change([...waiting(), { ...entry, login: login(), given: Date.now() }]);
  send();
}

/** An inspection as it will be when all that waits is sent; what waits has no time yet. */
export function withWaiting(inspection) {
  const of = mine().filter((entry) => entry.inspection === inspection.id);
  const gone = new Set(of.map((entry) => entry.withdraws));
  const there = inspection.verdicts.filter((verdict) => verdict.time !== null && !gone.has(verdict.key));
  const known = new Set(there.map((verdict) => verdict.key));
  const coming = of
    .filter(({ key, verdict }) => verdict && !known.has(key) && !gone.has(key))
    .map(({ key, verdict, note, reason }) => ({ key, verdict, note, reason, by: "", time: null }));
  return { ...inspection, verdicts: [...there, ...coming] };
}

/** Send what waits of this login, the oldest first. */
export async function send() {
  if (flying) return;
  const next = () => (station.role === null ? undefined : mine()[0]);
  for (let entry = next(); entry; entry = next()) {
    flying = entry.key;
    const told = await sent(entry);
    flying = null;
    if (!told) return;
    change(waiting().filter((other) => other.key !== entry.key));
    outbox.dispatchEvent(told);
  }
}

/** Send one; returns the event that tells of it, null: it waits on. */
async function sent(entry) {
  const { key, verdict, note, reason, given, withdraws } = entry;
  const body = withdraws
    ? { verdict: withdraws, by: entry.login }
    : { verdict, note, reason, key, by: entry.login, age_seconds: Math.max(0, Date.now() - given) / 1000 };
  try {
    const path = `/v1/inspections/${entry.inspection}/${withdraws ? "withdrawal" : "verdict"}`;
    return new CustomEvent("saved", { detail: await post(path, body) });
  } catch (error) {
    if (error instanceof Away || error.status === 401) return null; // until it is back, or a token is given
    if (error instanceof Refused && error.wait !== null) {
      setTimeout(send, error.wait * 1000);
      return null;
    }
    if (error.status === 409 && (await loginChanged(entry))) return null;
    return new CustomEvent("refused", { detail: { ...entry, error } });
  }
}

/** Whether another tab has logged somebody else in: then this one's verdicts wait. */
async function loginChanged(entry) {
  try {
    await loadSession();
  } catch (error) {
    if (!(error instanceof Away)) setTimeout(send, 1000 * (error.wait ?? 2)); // else "back" sends
    return true; // nobody knows who is here: it waits
  }
  link.dispatchEvent(new Event("login"));
  return entry.login !== login();
}

link.addEventListener("back", send);
