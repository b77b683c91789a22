/** The view of the record: parts by time, decision, name, verdict and model. */

import { get, urlOf } from "./api.js";
import { at, h, mark } from "./dom.js";
import { decisionOf, lastVerdict, nameOf, number, when } from "./format.js";
import { t } from "./messages.js";
import { station } from "./state.js";
import { thumbnail } from "./thumbnails.js";

const PAGE = 50;

export class SearchView {
  constructor() {
    this.form = at("search-form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.search();
    });
    this.form.addEventListener("change", () => this.search());
    this.form.addEventListener("reset", () => setTimeout(() => this.search()));
    at("search-more").addEventListener("click", () => this.more());
  }

  show() {
    const select = this.form.elements.model;
    const chosen = select.value;
    select.replaceChildren(
      h("option", { value: "" }, t("search.any")),
      ...station.models.map((m) => h("option", { value: m.digest }, m.name)),
    );
    select.value = chosen;
    return this.search();
  }

  hide() {}

  filters() {
    const { since, until, decision, text, line, shift, product, verdict, model } = Object.fromEntries(new FormData(this.form));
    const time = (text) => text && new Date(text).toISOString();
    const judged = verdict === "none" ? { unjudged: true } : { verdict };
    const texts = { text: text.trim(), product: product.trim(), line: line.trim(), shift: shift.trim() };
    return { since: time(since), until: time(until), decision, ...texts, model, ...judged };
  }

  /** Begin anew. */
  search() {
    this.found = 0;
    this.next = null;
    at("search-rows").replaceChildren();
    const given = Object.entries(this.filters()).filter(([, value]) => value);
    at("export").href = urlOf(`/v1/export.csv?${new URLSearchParams(given)}`);
    const day = new Date(Date.now() - 24 * 3600e3).toISOString();
    const reported = given.some(([name]) => name === "since") ? given : [["since", day], ...given];
    at("report").href = urlOf(`/v1/report.html?${new URLSearchParams(reported)}`);
    at("report-pdf").href = urlOf(`/v1/report.pdf?${new URLSearchParams(reported)}`);
    return this.more();
  }

  async more() {
    const asked = (this.asked = {});
    at("search-state").textContent = t("search.searching");
    at("search-more").hidden = true;
    try {
      const { items, next } = await get("/v1/inspections", {
        ...this.filters(),
        before: this.next,
        limit: PAGE,
      });
      if (this.asked !== asked) return; // another search has begun
      this.found += items.length;
      this.next = next;
      at("search-rows").append(...items.map(row));
      at("search-more").hidden = next === null;
      const parts = t("count.parts", { n: this.found });
      const found = next ? t("search.found_more", { parts }) : parts;
      at("search-state").textContent = this.found ? found : t("search.nothing");
    } catch (error) {
      if (this.asked === asked) at("search-state").textContent = error.message;
    }
  }

  onKey() {
    return false;
  }
}

function row(inspection) {
  const verdict = lastVerdict(inspection);
  return h(
    "li",
    {},
    h(
      "a",
      { href: `#inspect/${inspection.id}`, class: "row" },
      thumbnail(inspection),
      mark(inspection.decision),
      h(
        "span",
        { class: "row-name" },
        h("b", {}, nameOf(inspection)),
        h("small", {}, inspection.error ?? when(inspection.time)),
      ),
      h(
        "span",
        { class: "row-decision" },
        decisionOf(inspection),
        h("small", {}, inspection.error ? "" : t("search.score", { score: number(inspection.score) })),
      ),
      h(
        "span",
        { class: "row-verdict" },
        verdict ? t("search.judged", { verdict: t(`verdict.${verdict.verdict}`) }) : "",
        h("small", {}, verdict?.note ?? ""),
      ),
    ),
  );
}
