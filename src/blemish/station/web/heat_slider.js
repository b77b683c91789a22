/** How strongly the heat covers a part: a slider, and the scale of its colours. */

import { h } from "./dom.js";
import { number } from "./format.js";
import { t } from "./messages.js";
import { keep, kept } from "./state.js";

const STEP = 0.1; // of the opacity, by a key

export class HeatSlider {
  /** `id` names the slider, once on the page; `onchange(opacity)` is told what to draw with. */
  constructor(id, onchange) {
    this.onchange = onchange;
    this.opacity = 0;
    this.slider = h("input", {
      type: "range",
      id,
      min: 0,
      max: 100,
      oninput: () => this.set(this.slider.value / 100),
    });
    this.value = h("output", { for: id });
    this.scale = h("div", { class: "scale" });
    this.wholeOdd = h("p", { class: "whole-odd", role: "status" });
    this.element = h(
      "div",
      { class: "slider" },
      h("label", { for: id }, t("panel.heat")),
      this.value,
      this.slider,
      this.scale,
      this.wholeOdd,
    );
  }

  /** Draw with the opacity that was chosen last. */
  begin() {
    this.set(Number(kept("opacity") ?? 0.6));
  }

  set(opacity) {
    this.opacity = opacity;
    this.slider.value = Math.round(opacity * 100);
    this.value.textContent = `${this.slider.value} %`;
    this.onchange(opacity);
    if (opacity) {
      this.last = opacity;
      keep("opacity", opacity);
    }
  }

  /** Take one step up (1) or down (-1). */
  step(direction) {
    this.set(Math.min(1, Math.max(0, this.opacity + direction * STEP)));
  }

  /** Hide the heat map, or show it again. */
  blink() {
    this.set(Number(this.slider.value) ? 0 : this.last);
  }

  /** Say which values of the map the colours stand for. */
  showScale([low, high]) {
    this.scale.replaceChildren(
      h("span", {}, number(low, 3)),
      h("i", { "aria-hidden": "true" }),
      h("span", {}, number(high, 3)),
    );
  }

  /** Leave the heat off where it would cover all of the part: its frame says that the whole image is odd. */
  leaveOff(odd, id) {
    this.wholeOdd.textContent = odd ? t("panel.whole") : "";
    if (!odd || this.cleared === id) return;
    this.cleared = id; // once: who wants the heat all the same may have it
    this.isOff = this.opacity > 0;
    this.set(0);
  }

  /** Show the heat of the next part again, where it was left off for this one. */
  restore() {
    if (this.isOff && this.opacity === 0) this.set(this.last);
    this.isOff = false;
    this.cleared = null;
    this.wholeOdd.textContent = "";
  }
}
