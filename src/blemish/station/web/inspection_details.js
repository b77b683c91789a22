/** Everything that is kept of an inspection, and its files. */

import { urlOf } from "./api.js";
import { h } from "./dom.js";
import { percent, seconds, when } from "./format.js";
import { t } from "./messages.js";
import { linkToOnly } from "./only.js";
import { modelOf } from "./state.js";

/** Return all that is known of an inspection, as a list with links to its files. */
export function detailsOf(inspection) {
  const model = modelOf(inspection.model);
  const rows = [
    [t("detail.time"), when(inspection.time)],
    [t("detail.part"), inspection.part],
    [t("detail.file"), inspection.path],
    [t("detail.product"), labelOf(inspection, "product")],
    [t("detail.line"), labelOf(inspection, "line")],
    [t("detail.shift"), inspection.shift],
    [t("detail.station"), labelOf(inspection, "station")],
    [t("detail.drawn"), inspection.sample && t("detail.drawn_text", { share: percent(inspection.sample) })],
    [t("detail.image"), inspection.width && `${inspection.width} × ${inspection.height} px`],
    [t("detail.model"), model ? `${model.name} (${model.method}, ${model.dataset})` : null],
    [t("detail.model_file"), inspection.model.slice(0, 16)],
    [t("detail.source"), inspection.source],
    [t("detail.took"), seconds(inspection.seconds)],
    [t("detail.number"), inspection.id],
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
      link(inspection.image, t("detail.image"), inspection.path ?? inspection.id),
      link(inspection.overlay, t("detail.overlay"), `${inspection.id}.png`),
      link(inspection.map && `${inspection.map}?full=true`, t("detail.map"), `${inspection.id}.tiff`),
      link(`#inspect/${inspection.id}`, t("detail.link")),
    ),
  );
}

/** A label that leads to the newest parts with it, if there is one. */
function labelOf(inspection, name) {
  const what = inspection[name];
  return what && h("a", { href: linkToOnly(name, what), title: t("detail.only", { what }) }, what);
}
