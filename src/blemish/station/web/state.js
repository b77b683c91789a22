/** What every view knows: who is here, and which models there are. */

import { get, inOrder } from "./api.js";

const getModels = inOrder("/v1/models");

export const station = { name: null, role: null, station: null, models: [], reasons: [] };

const ROLES = ["view", "inspect", "judge", "engineer"]; // each may do what those before it may

/** Whether the one who is here has a role. */
const may = (role) => ROLES.indexOf(station.role) >= ROLES.indexOf(role);

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
  Object.assign(station, await get("/v1/session"));
}

/** Ask for the models. */
export async function loadModels() {
  const models = await getModels();
  if (models) station.models = models;
  station.reasons = (await get("/v1/reasons")).reasons;
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
