/** What every view knows: who is here, and which models there are. */

import { get, inOrder } from "./api.js";

const getSession = inOrder("/v1/session");
const getModels = inOrder("/v1/models");

export const station = { name: null, role: null, station: null, models: [], reasons: [], known: false };

const ROLES = ["view", "inspect", "judge", "engineer"]; // each may do what those before it may

/** Whether the one who is here has a role. */
const may = (role) => ROLES.indexOf(station.role) >= ROLES.indexOf(role);

/** Whether parts can be asked for: who is here is known, and the models and reasons that each is shown with. */
export const mayLook = () => station.role !== null && station.known;

/** Whether the one who is here may send images. */
export const mayInspect = () => may("inspect");

/** Whether the one who is here may give verdicts. */
export const mayJudge = () => may("judge");

/** Whether the one who is here may change models. */
export const mayEngineer = () => may("engineer");

/** The model of a digest, if it is known. */
export const modelOf = (digest) => station.models.find((model) => model.digest === digest);

/** Ask who is here. */
export async function loadSession() {
  Object.assign(station, await getSession());
}

/** Ask for the models. */
export async function loadModels() {
  const models = await getModels();
  if (models) station.models = models;
  station.reasons = (await get("/v1/reasons")).reasons;
  station.known = true;
}

/** Keep a choice in this browser. */
export function keep(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    /* a browser that keeps nothing forgets it */
  }
}

/** A choice that was kept, or null. */
export function kept(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}
