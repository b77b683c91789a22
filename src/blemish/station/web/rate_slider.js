/** What another false-alarm rate would decide of a part: a slider, and what follows in words. */

import { h, mark } from "./dom.js";
import { oneIn, percent } from "./format.js";
import { t } from "./messages.js";
import { HIGHEST, STEPS, lowestOf, rateAt, stepAt } from "./rates.js";

export class RateSlider {
  /** `id` names the slider, once on the page; `onrate(rate)` is told which rate a person looks at. */
  constructor(id, onrate) {
    this.slider = h("input", {
      type: "range",
      id,
      min: 0,
      max: STEPS,
      oninput: () => onrate(rateAt(this.slider.value, this.scores)),
    });
    this.value = h("output", { for: id });
    this.whatIf = h("p", { class: "what-if", "aria-live": "polite" });
    this.back = h("button", { type: "button", class: "quiet small", onclick: () => onrate(this.own) });
    this.element = h(
      "div",
      { class: "slider" },
      h("label", { for: id }, t("panel.rate")),
      this.value,
      this.slider,
      h("div", { class: "consequence" }, this.whatIf, this.back),
    );
  }

  /** Show a rate, with the threshold `limit` that it brings; `own` is the rate by which the part was decided. */
  show(inspection, scores, { rate, own, limit }) {
    this.scores = scores;
    this.own = own;
    this.element.hidden = Boolean(inspection.views) || lowestOf(scores) >= HIGHEST; // a view's rate is not its part's
    this.slider.value = stepAt(rate, scores);
    this.value.textContent = t("panel.rate_value", { share: oneIn(rate), percent: percent(rate) });
    this.slider.setAttribute("aria-valuetext", this.value.textContent);
    this.whatIf.replaceChildren(...(rate === own ? [t("panel.rate_means")] : decidedBy(limit, inspection)));
    this.back.hidden = rate === own;
    this.back.textContent = t("panel.rate_back", { share: oneIn(own) });
  }

  hide() {
    this.element.hidden = true;
  }
}

/** What a threshold would decide of an inspection. */
function decidedBy(limit, { score, review_threshold: review, decision: decided }) {
  const below = review !== null && score > review ? "review" : "accepted";
  const decision = score > limit ? "rejected" : below;
  const still = decision === decided ? "still_" : "";
  return [mark(decision), t(`panel.rate_${still}${decision}`)];
}
