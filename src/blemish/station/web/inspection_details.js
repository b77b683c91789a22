/** Everything that is kept of an inspection, and its files. */

import { urlOf } from "./api.js";
import { h } from "./dom.js";
import { percent, seconds, when } from "./format.js";
import { modelOf } from "./state.js";

/** Return all that is known of an inspection, as a list with links to its files. */
export function detailsOf(inspection) {
  const model = modelOf(inspection.model);
  const rows = [
    ["Time", when(inspection.time)],
    ["Part", inspection.part],
    ["File", inspection.path],
    ["Product", inspection.product],
    ["Line", inspection.line],
    ["Shift", inspection.shift],
    ["Station", inspection.station],
    ["Drawn", inspection.sample && `at random, ${percent(inspection.sample)} of the accepted parts`],
    ["Image", inspection.width && `${inspection.width} × ${inspection.height} px`],
    ["Model", model ? `${model.name} (${model.method}, ${model.dataset})` : null],
    ["Model file", inspection.model.slice(0, 16)],
    ["From", inspection.source],
    ["Took", seconds(inspection.seconds)],
    ["Number", inspection.id],
  ].filter(([, value]) => value);
  const link = (to, text, name) => {
    const href = to?.startsWith("/") ? urlOf(to) : to;
    return href && h("a", { href, download: name, class: "button small" }, text);
  };
  return h(
    "div",
    {},
    h(
      "dl",
      {},
      rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    ),
    h(
      "p",
      { class: "links" },
      link(inspection.image, "Image", inspection.path ?? inspection.id),
      link(inspection.overlay, "Overlay", `${inspection.id}.png`),
      link(inspection.map && `${inspection.map}?full=true`, "Map", `${inspection.id}.tiff`),
      link(`#inspect/${inspection.id}`, "Link"),
    ),
  );
}
