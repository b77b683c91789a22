/** A row of small pictures, newest first, with their decisions; one of them is chosen. */

import { urlOf } from "./api.js";
import { h, mark } from "./dom.js";
import { decisionOf, lastVerdict, nameOf, when } from "./format.js";
import { t } from "./messages.js";

/** The picture of an inspection, small; a blank when it is not kept. */
export function thumbnail(inspection) {
  if (!inspection.image) return h("span", { class: "thumb blank" });
  return h("img", {
    class: "thumb",
    src: urlOf(`${inspection.image}?side=96`),
    alt: "",
    loading: "lazy",
    width: 96,
    height: 96,
  });
}

/** What a person said, as a letter. */
export function verdictBadge(inspection) {
  const verdict = lastVerdict(inspection)?.verdict;
  if (!verdict) return null;
  return h(
    "span",
    { class: `said-badge ${verdict}`, title: t("tile.judged", { verdict: t(`verdict.${verdict}`) }) },
    verdict === "good" ? "G" : "D",
  );
}

export class Thumbnails {
  /** Fill the list `host`; `onchoose(inspection)` is told which is opened. */
  constructor(host, onchoose) {
    Object.assign(this, { host, onchoose, items: [], chosen: null, tiles: new Map() });
  }

  /** Show these, keeping the elements of those that are there already. */
  update(items) {
    this.items = items;
    const tiles = new Map();
    for (const item of items) {
      const state = `${item.verdicts.length}${item.image}`;
      const old = this.tiles.get(item.id);
      tiles.set(item.id, old?.state === state ? old : { state, element: this.tile(item) });
    }
    const elements = [...tiles.values()].map((tile) => tile.element);
    const unchanged =
      elements.length === this.host.children.length && elements.every((e, i) => e === this.host.children[i]);
    this.tiles = tiles;
    if (!unchanged) {
      const focused = this.host.contains(document.activeElement);
      this.host.replaceChildren(...elements);
      if (focused) this.tiles.get(this.chosen)?.element.firstChild.focus();
    }
    this.choose(this.chosen, false);
  }

  tile(item) {
    const label = t("tile.label", { name: nameOf(item), decision: decisionOf(item), time: when(item.time) });
    return h(
      "li",
      {},
      h(
        "button",
        {
          type: "button",
          class: `tile ${item.decision}`,
          title: label,
          "aria-label": label,
          onclick: () => this.onchoose(item),
        },
        thumbnail(item),
        mark(item.decision),
        verdictBadge(item),
      ),
    );
  }

  /** Mark one as chosen, and bring it into sight. */
  choose(id, scroll = true) {
    this.chosen = id;
    for (const [key, { element }] of this.tiles) {
      const button = element.firstChild;
      if (key === id) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      if (key === id && scroll) element.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
  }

  /** Open the one beside the chosen: -1 newer, 1 older. */
  step(by) {
    const now = this.items.findIndex((item) => item.id === this.chosen);
    const next = this.items[Math.min(this.items.length - 1, Math.max(0, now + by))];
    if (next && next.id !== this.chosen) this.onchoose(next);
  }
}
