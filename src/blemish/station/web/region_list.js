/** The regions of a part: a list of buttons, each of which shows its region in the picture. */

import { h } from "./dom.js";
import { number } from "./format.js";
import { locale, t } from "./messages.js";

const MOST_REGIONS = 50; // that are listed

export class RegionList {
  constructor() {
    this.title = h("h3", {});
    this.list = h("ol", { class: "regions" });
    this.element = h("section", { class: "found" }, this.title, this.list);
  }

  /** List regions, which the pictures of `viewer` show. */
  show(regions, viewer) {
    this.title.textContent = regions.length
      ? t("panel.regions", { n: regions.length })
      : t("panel.no_region");
    this.list.replaceChildren(
      ...regions.slice(0, MOST_REGIONS).map((region, i) => regionItem(region, i, viewer)),
    );
  }
}

function regionItem(region, i, viewer) {
  const { x0, y0, x1, y1, area_px: area, peak } = region;
  const frame = () => viewer.mark(region);
  const unframe = () => viewer.mark(null);
  return h(
    "li",
    {},
    h(
      "button",
      {
        type: "button",
        class: "region",
        onmouseenter: frame,
        onfocus: frame,
        onclick: () => viewer.lookAt(region),
        onmouseleave: unframe,
        onblur: unframe,
        "aria-label": t("panel.region", { i: i + 1, area, x0, x1, y0, y1, peak: number(peak) }),
      },
      h("b", {}, i + 1),
      h("span", {}, `${x1 - x0} × ${y1 - y0} px`),
      h("span", { class: "muted" }, t("panel.region_at", { x: x0, y: y0 })),
      h("span", { class: "right" }, `${area.toLocaleString(locale)} px²`),
      h("span", { class: "right" }, number(peak)),
    ),
  );
}
