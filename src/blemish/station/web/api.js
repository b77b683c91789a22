/** Talking to the station. What goes wrong becomes one line; a station that is away is waited for. */

import { t } from "./messages.js";

/** The station said no. */
export class Refused extends Error {
  constructor(status, detail, wait) {
    super(detail);
    this.status = status;
    this.wait = wait; // seconds after which it may be asked again, or null
  }
}

/** The station did not answer. */
export class Away extends Error {}

/** Tells "away", "back" and "locked" (a request came without a login that the station knows). */
export const link = new EventTarget();

const HEARTBEAT = 2000;
let away = false;

/** Whether the station is away. */
export const isAway = () => away;

function setAway(now) {
  if (away === now) return;
  away = now;
  link.dispatchEvent(new Event(away ? "away" : "back"));
  if (away) setTimeout(knock, HEARTBEAT);
}

async function knock() {
  await retry();
  if (away) setTimeout(knock, HEARTBEAT);
}

/** The address of a path of the station, which a proxy may show below another path. */
export const urlOf = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

/** Ask now whether the station is back. */
export async function retry() {
  try {
    if ((await fetch(urlOf("/healthz"), { cache: "no-store" })).ok) setAway(false);
  } catch {
    /* still away */
  }
}

/** Make a request and return its response; throws Refused or Away. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(urlOf(path), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    setAway(true);
    throw new Away(t("error.away"));
  }
  setAway(false);
  if (response.ok) return response;
  if (response.status === 401) link.dispatchEvent(new Event("locked"));
  const wait = response.status === 503 ? Number(response.headers.get("Retry-After") ?? 2) : null;
  throw new Refused(response.status, await detailOf(response), wait);
}

async function detailOf(response) {
  try {
    const { detail } = await response.json();
    return String(detail);
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

/** Make a request and return its JSON. */
export async function get(path, parameters = {}) {
  const given = Object.entries(parameters).filter(
    ([, value]) => value !== null && value !== undefined && value !== "",
  );
  const query = new URLSearchParams(given).toString();
  return (await ask(query ? `${path}?${query}` : path)).json();
}

/** Make a `get` of a path whose answer is null when it comes after that of a later question: it is out of date. */
export function inOrder(path) {
  let asked = 0;
  let answered = 0;
  return async (parameters = {}) => {
    asked += 1;
    const turn = asked;
    const answer = await get(path, parameters);
    if (turn < answered) return null;
    answered = turn;
    return answer;
  };
}

async function sendJson(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method, headers, body: JSON.stringify(body) })).json();
}

/** Send JSON and return the answer's. */
export const post = (path, body) => sendJson("POST", path, body);

/** Put JSON in the place of what is there, and return the answer's. */
export const put = (path, body) => sendJson("PUT", path, body);

/** The anomaly map of an inspection: {values, width, height}. */
export async function mapOf(inspection) {
  const response = await ask(inspection.map);
  const values = new Float32Array(await response.arrayBuffer());
  const [height, width] = ["X-Map-Height", "X-Map-Width"].map((name) => Number(response.headers.get(name)));
  return { values, width, height };
}

/** A picture that every browser shows, its longer side `side` px at most. */
export async function pictureOf(inspection, side) {
  return createImageBitmap(await (await ask(`${inspection.image}?side=${side}`)).blob());
}

const calibrations = new Map();

/** Calibration scores of a model, ascending, asked once; null when it has none, or is not in use now. */
export async function calibrationOf(digest) {
  if (!calibrations.has(digest)) {
    try {
      calibrations.set(digest, await get(`/v1/models/${digest}/calibration`));
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 404) throw error;
      return null;
    }
  }
  return calibrations.get(digest);
}
