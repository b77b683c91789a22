/** What people are asked to judge: which share of accepted parts is drawn for them, and the kinds of defects. */

import { Away, get, put } from "./api.js";
import { at, toast } from "./dom.js";
import { percent } from "./format.js";
import { t } from "./messages.js";
import { mayEngineer, station } from "./state.js";

export class Judging {
  constructor() {
    this.share = at("sampling-form").elements.share;
    this.reasons = at("reasons-form").elements.reasons;
    at("sampling-form").addEventListener("submit", (event) => this.save(event, () => this.saveShare()));
    at("reasons-form").addEventListener("submit", (event) => this.save(event, () => this.saveReasons()));
  }

  /** Show what is in force; what somebody is writing stays. */
  async look() {
    if (!mayEngineer()) return;
    try {
      const [plan, { reasons }] = await Promise.all([get("/v1/sampling"), get("/v1/reasons")]);
      if (this.share.value === this.share.defaultValue) this.showShare(plan.share);
      if (this.reasons.value === this.reasons.defaultValue) this.showReasons(reasons);
    } catch (error) {
      if (!(error instanceof Away) && error.status !== 401) toast(error.message);
    }
  }

  showShare(share) {
    this.share.defaultValue = Number((100 * share).toPrecision(12));
    this.share.value = this.share.defaultValue;
  }

  showReasons(reasons) {
    this.reasons.defaultValue = reasons.join("\n");
    this.reasons.value = this.reasons.defaultValue;
  }

  async save(event, act) {
    event.preventDefault();
    const [button, refusal] = ["button", ".error-line"].map((kind) => event.target.querySelector(kind));
    if (!mayEngineer() || button.ariaDisabled) return;
    button.ariaDisabled = true; // not `disabled`: it keeps the focus
    refusal.textContent = "";
    try {
      toast(await act());
    } catch (error) {
      refusal.textContent = error.message;
    } finally {
      button.ariaDisabled = null;
    }
  }

  async saveShare() {
    const share = Number(this.share.value) / 100;
    const { seed } = await get("/v1/sampling"); // as it is now: the share alone is changed here
    const plan = await put("/v1/sampling", { share, seed });
    this.showShare(plan.share);
    return t("judging.share_saved", { share: percent(plan.share) });
  }

  async saveReasons() {
    const lines = this.reasons.value.split("\n").map((line) => line.trim());
    const { reasons } = await put("/v1/reasons", { reasons: lines.filter(Boolean) });
    this.showReasons(reasons);
    station.reasons = reasons;
    return t("judging.reasons_saved", { n: reasons.length });
  }
}
