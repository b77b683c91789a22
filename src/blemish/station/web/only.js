/** Which parts are shown: those of a line, a product or a station alone, as the address says behind a question mark. */

import { station } from "./state.js";

const NAMES = ["line", "product", "station"];
let chosen = new URLSearchParams();

/** The view and the part that the address names: #VIEW/PART?line=LINE. */
export const viewAndPart = () => location.hash.slice(1).split("?")[0].split("/");

/** Take what the address says; one that says nothing leaves it as it was. Returns whether it is another now. */
export function takeOnly() {
  const [, query] = location.hash.split(/\?(.*)/s);
  if (query === undefined) return false;
  const before = chosen.toString();
  const given = Array.from(new URLSearchParams(query)).filter(([name, value]) => NAMES.includes(name) && value);
  chosen = new URLSearchParams(given);
  return chosen.toString() !== before;
}

/** What is asked of the station: the parts of this one, where nothing else is chosen. */
export const asked = () => ({ station: station.station, ...Object.fromEntries(chosen) });

/** What is chosen, in its own words; empty: nothing. */
export const only = () => Array.from(chosen.values()).join(" · ");

/** The address of a view with what is chosen. */
export const linkTo = (view) => (chosen.size ? `#${view}?${chosen}` : `#${view}`);

/** The address that shows the newest parts of one line, product or station alone. */
export const linkToOnly = (name, value) => `#inspect?${new URLSearchParams({ [name]: value })}`;
