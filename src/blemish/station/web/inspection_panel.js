/** One part: its picture, what was decided and why, what other rates would decide, and a person's verdict. */

import { calibrationOf } from "./api.js";
import { announce, h, mark, toast } from "./dom.js";
import { decisionOf, nameOf, number, oddness, summaryOf } from "./format.js";
import { HeatSlider } from "./heat_slider.js";
import { allowed, threshold } from "./heatmap.js";
import { detailsOf } from "./inspection_details.js";
import { t } from "./messages.js";
import { RateSlider } from "./rate_slider.js";
import { rateOf } from "./rates.js";
import { RegionList } from "./region_list.js";
import { scoreBar } from "./scorebar.js";
import { modelOf } from "./state.js";
import { VerdictForm } from "./verdict.js";
import { pictured, ViewPicker } from "./view_picker.js";
import { Viewer } from "./viewer.js";

const GLANCE = 1000; // ms that a part must have been on screen before it takes a verdict

let made = 0;

export class InspectionPanel {
  /**
   * Build into `host`; `onjudge(inspection, verdict, note, reason)` is told what a person says, `onback(inspection)`
   * that the part which was here before is wanted again.
   */
  constructor(host, onjudge, onback) {
    const figure = h("figure", { class: "viewer" });
    this.number = made++;
    this.head = h("div", { class: "decision" });
    this.why = h("div", { class: "why" });
    this.regions = new RegionList();
    this.record = h("details", { class: "record" });
    this.before = null; // the part that another one has just replaced
    this.verdict = new VerdictForm({
      subject: () => ({ inspection: this.inspection, why: this.whyEarly() }),
      ongive: onjudge,
      onearly: (inspection, why) => this.sayEarly(inspection, why, onback),
    });
    this.panel = h(
      "div",
      { class: "panel" },
      this.head,
      this.verdict.element,
      this.why,
      this.controls(),
      this.regions.element,
      this.record,
    );
    host.append(figure, this.panel);
    this.viewer = new Viewer(figure, () => this.seen());
    this.views = new ViewPicker(figure, (view) => this.choose(view));
    this.heat.begin();
    this.clear("");
  }

  controls() {
    this.heat = new HeatSlider(`opacity-${this.number}`, (opacity) => this.viewer.setOpacity(opacity));
    this.rates = new RateSlider(`rate-${this.number}`, (rate) => this.setRate(rate));
    return h(
      "section",
      { class: "controls", "aria-label": t("panel.shown") },
      this.heat.element,
      this.rates.element,
    );
  }

  /** Show nothing but a line. */
  clear(text) {
    this.inspection = this.view = null;
    this.views.show(null);
    this.viewer.clear(text);
    this.panel.hidden = true;
  }

  // --- long enough on screen to be judged -------------------------------------------------------------------

  /** Take note that the part is on screen from now on. */
  seen() {
    this.verdict.setEarly(true);
    clearTimeout(this.glance);
    this.glance = setTimeout(() => this.whyEarly() === null && this.verdict.setEarly(false), GLANCE + 5);
  }

  /** The view has gone from the screen. */
  hide() {
    this.viewer.unsee();
    this.verdict.setEarly(true);
  }

  /** The key of the text that says why the part takes no verdict yet; null: it does. */
  whyEarly() {
    const since = this.viewer.seenSince;
    if (since === null) return "verdict.early_picture";
    return performance.now() - since < GLANCE ? "verdict.early_second" : null;
  }

  sayEarly(inspection, why, onback) {
    const text = t(why, { name: nameOf(inspection) });
    announce(text);
    const { before } = this;
    if (before) toast(text, () => onback(before), t("verdict.back_to", { name: nameOf(before) }));
    else toast(text);
  }

  /** Whether what is shown should not be replaced just now. */
  get busy() {
    return this.verdict.writing;
  }

  /** Show an inspection; `say`: also to a screen reader. */
  async show(inspection, say = false) {
    const same = this.inspection?.id === inspection.id && this.viewer.inspection !== null;
    if (this.inspection?.id !== inspection.id) {
      this.before = this.viewer.seenSince === null ? null : this.inspection;
      this.verdict.setEarly(true);
    }
    this.inspection = inspection;
    this.panel.hidden = false;
    this.verdict.show(inspection);
    if (same) return;
    if (say) announce(summaryOf(inspection));
    await this.showPicture(pictured(inspection));
  }

  /** Show another view of the part large. */
  choose(view) {
    if (view.id === this.view.id) return;
    this.verdict.setEarly(true); // a verdict is for what has been on screen for a while
    this.showPicture(view);
  }

  /** Show the picture of an inspection, or that of one of its views, and what is known of it. */
  async showPicture(view) {
    const { inspection } = this;
    this.view = view;
    this.views.show(inspection, view);
    this.calibration = null;
    this.viewer.setLevel(null);
    this.heat.restore();
    this.render();
    const range = modelOf(view.model)?.display_range ?? [0, 1];
    this.heat.showScale(range);
    this.viewer.show(view, range, summaryOf(inspection)).then(() => {
      if (this.view?.id === view.id) this.renderRegions();
    });
    let calibration = null;
    try {
      calibration = await calibrationOf(view.model);
    } catch {
      /* the station is away: what was decided is shown all the same */
    }
    if (this.view?.id !== view.id) return;
    this.calibration = view.threshold === null ? null : calibration;
    this.ownRate = this.calibration && rateOf(view, this.calibration.scores);
    this.setRate(this.ownRate);
  }

  render() {
    const { inspection } = this;
    this.head.className = `decision ${inspection.decision}`;
    this.head.replaceChildren(
      mark(inspection.decision),
      h(
        "div",
        {},
        h("h2", {}, decisionOf(inspection)),
        h("p", { class: "name" }, nameOf(inspection)),
        inspection.missing?.length ? h("p", {}, t("views.lacks", { views: inspection.missing.join(", ") })) : null,
      ),
    );
    this.record.replaceChildren(h("summary", {}, t("panel.record")), detailsOf(inspection));
  }

  renderWhy(limit) {
    const { inspection } = this;
    if (inspection.error) {
      this.why.replaceChildren(h("p", { class: "error-line" }, inspection.error));
      return;
    }
    const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, value));
    this.why.replaceChildren(
      h(
        "dl",
        { class: "facts" },
        fact(t("panel.score"), number(inspection.score)),
        fact(t("panel.threshold"), number(limit)),
        ...(inspection.review_threshold === null
          ? []
          : [fact(t("panel.review_threshold"), number(inspection.review_threshold))]),
        fact(t("panel.p_value"), number(inspection.p_value, 3)),
      ),
      ...(this.calibration && !inspection.views ? [scoreBar(inspection.score, limit, this.calibration.scores)] : []),
      h("p", { class: "odds" }, this.odds()),
    );
  }

  odds() {
    const { decision, p_value: p, views, model } = this.inspection;
    const { rule, carried_by: parts, false_alarm_rate: rate } = modelOf(model)?.parts ?? {};
    const n = views ? rule === "together" && parts : this.calibration?.scores.length;
    return oddness(p, n, n && decision === "rejected" ? allowed(n, views ? rate : this.ownRate) : null);
  }

  // --- rate ---------------------------------------------------------------------------------------------

  /** Show what a false-alarm rate means for this part: its threshold, its contour and its regions. */
  setRate(rate) {
    this.rate = rate;
    if (!this.calibration) {
      this.rates.hide();
      this.renderWhy(this.inspection.threshold);
      this.viewer.setLevel(null);
      this.renderRegions();
      return;
    }
    const { scores, map_maxima: maxima } = this.calibration;
    const limit = rate === this.ownRate ? this.inspection.threshold : threshold(scores, rate);
    this.rates.show(this.inspection, scores, { rate, own: this.ownRate, limit });
    this.renderWhy(limit);
    this.viewer.setLevel(threshold(maxima, rate));
    this.renderRegions();
  }

  // --- regions ------------------------------------------------------------------------------------------

  renderRegions() {
    this.heat.leaveOff(this.viewer.oddAll && this.rate === this.ownRate, this.inspection.id);
    const found =
      this.calibration && this.rate !== this.ownRate
        ? this.viewer.regions().filter((region) => this.isLarge(region))
        : this.view.regions;
    this.viewer.mark(null);
    this.regions.show(found, this.viewer);
    this.regions.element.hidden =
      this.inspection.decision === "failed" || this.view.threshold === null;
  }

  /** Whether a region counts, for the model of this part. */
  isLarge({ x0, y0, x1, y1, area_px: area }) {
    const { min_area_px: least, min_length_px: shortest } = this.calibration;
    return area >= least && Math.hypot(x1 - x0, y1 - y0) >= shortest;
  }

  // --- keys ---------------------------------------------------------------------------------------------

  /** Act on a key; return whether it was one of this panel's. */
  onKey(key) {
    if (!this.inspection) return false;
    const acts = {
      "+": () => this.viewer.zoom(1.5),
      "=": () => this.viewer.zoom(1.5),
      "-": () => this.viewer.zoom(1 / 1.5),
      0: () => this.viewer.fit(),
      h: () => this.heat.blink(),
      j: () => this.heat.step(-1),
      k: () => this.heat.step(1),
      n: () => this.verdict.write(),
      g: () => this.verdict.give("good"),
      d: () => this.verdict.give("defect"),
    };
    acts[key]?.();
    return key in acts;
  }
}
