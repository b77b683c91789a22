/** The views of a part as small pictures side by side: one is shown large, and those that are missing are said. */

import { h } from "./dom.js";
import { number } from "./format.js";
import { t } from "./messages.js";
import { thumbnail } from "./thumbnails.js";

/** The view whose picture stands for a part, the most unusual one; an image without views is its own. */
export const pictured = (inspection) =>
  inspection.views?.find(
    (view) => view.image_sha256 !== null && view.image_sha256 === inspection.image_sha256,
  ) ??
  inspection.views?.[0] ??
  inspection;

/** When a part was decided, in ms: one with several views came before it waited for them. */
const decidedAt = ({ time, views, seconds }) => new Date(time).getTime() + (views ? 1000 * seconds : 0);

/** The part that was decided last, of parts in the order of their arrival, the newest first. */
export const newestOf = (items) =>
  items.reduce((newest, each) => (each.views && decidedAt(each) > decidedAt(newest) ? each : newest), items[0]);

/** What a view is called. */
const nameOf = (view, place) => view.view ?? t("views.number", { n: place + 1 });

export class ViewPicker {
  /** Build into the figure `host`; `onchoose(view)` is told which is wanted large. */
  constructor(host, onchoose) {
    this.host = host;
    this.onchoose = onchoose;
    this.element = h("ul", { class: "views", "aria-label": t("views.title"), hidden: true });
    host.append(this.element);
  }

  /** Show the views of a part, and choose one; of an image without views, nothing. */
  show(inspection, chosen) {
    const views = inspection?.views ?? [];
    this.host.classList.toggle("has-views", views.length > 0);
    this.element.hidden = views.length === 0;
    const worst = inspection && pictured(inspection);
    const unseen = (inspection?.missing ?? []).filter((name) => !views.some((view) => view.view === name));
    this.element.replaceChildren(
      ...views.map((view, place) => this.tile(view, nameOf(view, place), view.id === worst.id, view.id === chosen.id)),
      ...unseen.map((name) =>
        h("li", {}, h(
            "span",
            { class: "view-tile lacks" },
            h("span", {}, h("b", {}, name), h("small", {}, t("views.missing"))),
          )),
      ),
    );
  }

  tile(view, name, first, chosen) {
    const worst = first && view.p_value !== null;
    const p = view.error ? t("views.unreadable") : `p ${number(view.p_value, 2)}`;
    const said = `${name}: ${p}${worst ? `, ${t("views.worst")}` : ""}`;
    return h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: `view-tile ${view.decision}`,
          "aria-pressed": String(chosen),
          "aria-label": said,
          title: said,
          onclick: () => this.onchoose(view),
        },
        thumbnail(view),
        h(
          "span",
          {},
          h("b", {}, name),
          h("small", {}, p),
          worst ? h("small", { class: "worst" }, t("views.worst")) : null,
        ),
      ),
    );
  }
}
