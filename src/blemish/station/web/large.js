/** The large view: the newest part's decision over much of the screen, to be read from two metres away. */

import { calibrationOf, get, isAway, link } from "./api.js";
import { at, h, mark } from "./dom.js";
import { decisionOf, nameOf, when } from "./format.js";
import { threshold } from "./heatmap.js";
import { locale, t } from "./messages.js";
import { asked, only } from "./only.js";
import { rateOf } from "./rates.js";
import { kept, mayLook, modelOf, station } from "./state.js";
import { newestOf, pictured, ViewPicker } from "./view_picker.js";
import { Viewer } from "./viewer.js";

const EVERY = 1000; // ms between two looks
const STALE = 4000; // ms without an answer after which what is shown counts as old
const LATEST = 12;

const ages = new Intl.RelativeTimeFormat(locale, { numeric: "auto" });

export class LargeView {
  constructor() {
    this.viewer = new Viewer(at("large-picture"), () => {});
    this.views = new ViewPicker(at("large-picture"), (view) => this.picture(view));
    this.inspection = null;
    this.answered = -Infinity; // ms of the page's clock
    at("open-large").addEventListener("click", () => this.enter());
    at("leave-large").addEventListener("click", () => this.leave());
    document.addEventListener("fullscreenchange", () => {
      if (this.shown && !document.fullscreenElement) this.leave();
    });
    document.addEventListener("visibilitychange", () => this.stayAwake());
    link.addEventListener("away", () => this.render());
    setInterval(() => this.shown && !document.hidden && this.look(), EVERY);
  }

  /** Open it, on the whole screen where the browser allows that. */
  enter() {
    location.hash = "large";
    document.documentElement.requestFullscreen?.().catch(() => {});
  }

  leave() {
    if (document.fullscreenElement) document.exitFullscreen();
    location.hash = "inspect";
  }

  show() {
    this.shown = true;
    document.body.classList.add("large");
    this.viewer.resize();
    this.stayAwake();
    return this.look();
  }

  hide() {
    this.shown = false;
    this.stayAwake();
    document.body.classList.remove("large");
  }

  /** Keep the screen from going dark while the view is shown, where the browser can (by https alone). */
  async stayAwake() {
    try {
      await this.awake?.release();
      this.awake = this.shown && !document.hidden ? await navigator.wakeLock?.request("screen") : null;
    } catch {
      /* it is dark when the system says so */
    }
  }

  /** Show nothing, as other parts are asked for. */
  clear() {
    this.inspection = this.view = null;
    this.answered = -Infinity;
    this.views.show(null);
    this.viewer.clear("");
    this.render();
  }

  /** Whether what is shown may not be the newest part. */
  get stale() {
    return isAway() || performance.now() - this.answered > STALE;
  }

  async look() {
    this.render(); // also while an answer is waited for: it may have become stale
    if (!mayLook() || this.asking) return;
    this.asking = true;
    const wished = only();
    try {
      const { items } = await get("/v1/inspections", { limit: LATEST, ...asked() });
      if (wished === only()) {
        this.answered = performance.now();
        this.latest(items);
      }
    } catch {
      /* what is shown becomes stale, which is said */
    }
    this.asking = false;
    this.render();
  }

  latest(items) {
    const newest = newestOf(items);
    const others = items.filter((item) => item !== newest);
    at("large-strip").replaceChildren(
      ...others.map((item) => h("li", {}, mark(item.decision, `${nameOf(item)}: ${decisionOf(item)}`))),
    );
    if (!newest || newest.id === this.inspection?.id) return;
    this.inspection = newest;
    this.picture(pictured(this.inspection));
  }

  /** Show the picture of a part, or of one of its views, with its heat unless that would cover all of it. */
  async picture(view) {
    this.view = view;
    this.views.show(this.inspection, view);
    this.viewer.setLevel(null);
    const range = modelOf(view.model)?.display_range ?? [0, 1];
    const drawn = this.viewer.show(view, range, nameOf(this.inspection));
    try {
      const calibration = await calibrationOf(view.model);
      if (calibration && view.threshold !== null && this.view === view)
        this.viewer.setLevel(threshold(calibration.map_maxima, rateOf(view, calibration.scores)));
    } catch {
      /* the decision stands without its contour */
    }
    await drawn;
    this.viewer.setOpacity(this.viewer.oddAll ? 0 : Number(kept("opacity") ?? 0.6));
  }

  render() {
    if (!this.shown) return;
    const { inspection, stale } = this;
    const waits = this.answered === -Infinity && !isAway();
    at("large-picture").classList.toggle("stale", stale);
    const said = [station.station, only(), inspection && when(inspection.time), inspection && ageOf(inspection)];
    at("large-age").textContent = said.filter(Boolean).join(" · ");
    const [kind, word, line] = waits
      ? ["unjudged", t("viewer.loading"), ""]
      : stale
        ? ["failed", t("large.away"), t("large.away_text")]
        : inspection
          ? [inspection.decision, decisionOf(inspection), nameOf(inspection)]
          : ["unjudged", t("welcome.title"), ""];
    const news = [kind, word, line, inspection?.id].join();
    if (this.news === news) return; // what is said anew is read anew by a screen reader
    this.news = news;
    at("large-decision").className = `large-decision ${kind}`;
    at("large-said").replaceChildren(mark(kind), h("strong", {}, word), h("span", {}, line));
  }

  onKey({ key }) {
    if (key !== "Escape" && key !== "l") return false;
    this.leave();
    return true;
  }
}

function ageOf({ time }) {
  const seconds = Math.max(0, (Date.now() - new Date(time)) / 1000);
  if (seconds < 90) return ages.format(-Math.round(seconds), "second");
  return seconds < 5400
    ? ages.format(-Math.round(seconds / 60), "minute")
    : ages.format(-Math.round(seconds / 3600), "hour");
}
