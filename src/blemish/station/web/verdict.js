/** What a person says of a part: good or defect, with a reason and a note. */

import { h, mark } from "./dom.js";
import { lastVerdict, when } from "./format.js";
import { listButton } from "./given.js";
import { t } from "./messages.js";
import { mayJudge, station } from "./state.js";

let made = 0;

export class VerdictForm {
  /**
   * `subject()` returns {inspection, why}: the part that is on screen, and why it cannot be judged yet, or null;
   * `ongive(inspection, verdict, note, reason)` is told of every verdict, `onearly(inspection, why)` of one not taken.
   */
  constructor({ subject, ongive, onearly }) {
    Object.assign(this, { subject, ongive, onearly });
    this.pressed = null; // the subject when a finger or the mouse went down
    const id = `note-${made++}`;
    const button = (verdict, key, text) =>
      h(
        "button",
        {
          type: "button",
          class: `judge ${verdict}`,
          "aria-keyshortcuts": key,
          onpointerdown: () => (this.pressed = this.subject()),
          onclick: (event) => this.clicked(event, verdict),
          onkeydown: (event) => event.repeat && event.preventDefault(), // a held Enter would click again
        },
        mark(verdict === "good" ? "accepted" : "rejected"),
        h("span", {}, text),
        h("kbd", {}, key),
      );
    this.good = button("good", "G", t("verdict.Good"));
    this.defect = button("defect", "D", t("verdict.Defect"));
    this.note = h("input", {
      id,
      type: "text",
      maxlength: 2000,
      placeholder: t("verdict.note_hint"),
      "aria-label": t("verdict.note"),
      autocomplete: "off",
      onkeydown: (event) => event.key === "Escape" && this.note.blur(),
    });
    this.reason = h("select", { "aria-label": t("verdict.reason") });
    this.said = h("div", { class: "said", role: "status" });
    this.element = h(
      "section",
      { class: "verdict", "aria-label": t("verdict.yours") },
      h("div", { class: "judges" }, this.good, this.defect),
      this.reason,
      this.note,
      this.said,
      listButton(),
    );
  }

  /** Show whether the part cannot be judged yet. */
  setEarly(early) {
    this.element.classList.toggle("early", early);
    for (const button of [this.good, this.defect]) button.setAttribute("aria-disabled", early);
  }

  /** Show what has been said of an inspection. */
  show(inspection) {
    const may = mayJudge();
    const last = lastVerdict(inspection);
    const said = inspection.verdicts.map((v) => [v.verdict, v.time, v.note].join()).join(";");
    const news = [inspection.id, said, may].join();
    if (this.news === news) return; // what is said anew is read anew by a screen reader
    if (this.shown !== inspection.id) {
      this.note.value = "";
      this.offerReasons();
    }
    this.shown = inspection.id;
    this.news = news;
    for (const control of [this.good, this.defect, this.reason, this.note]) control.disabled = !may;
    this.element.classList.toggle("locked", !may);
    this.good.setAttribute("aria-pressed", last?.verdict === "good");
    this.defect.setAttribute("aria-pressed", last?.verdict === "defect");
    const lines = inspection.verdicts.map((v) =>
      h(
        "p",
        {},
        h("b", {}, t(v.verdict === "good" ? "verdict.Good" : "verdict.Defect")),
        v.time ? `, ${when(v.time)}` : `, ${t("verdict.saving")}`,
        v.by ? `, ${v.by}` : "",
        v.reason ? `, ${v.reason}` : "",
        v.note ? `: ${v.note}` : "",
      ),
    );
    if (!may) lines.unshift(h("p", {}, t("verdict.viewer")));
    if (lines.length > 1 && may)
      lines.push(h("p", { class: "muted" }, t("verdict.last_counts")));
    this.said.replaceChildren(...lines);
  }

  /** Offer the kinds of defects that the station knows; none is chosen. */
  offerReasons() {
    const options = station.reasons.map((name) => h("option", { value: name }, name));
    this.reason.replaceChildren(h("option", { value: "" }, t("verdict.reason_hint")), ...options);
    this.reason.hidden = options.length === 0;
  }

  /** Whether a note is being written. */
  get writing() {
    return document.activeElement === this.note || this.note.value !== "" || this.reason.value !== "";
  }

  /** Begin a note. */
  write() {
    if (mayJudge()) this.note.focus();
  }

  clicked(event, verdict) {
    const pressed = event.detail ? this.pressed : null; // 0: by a key or a screen reader
    this.pressed = null;
    this.give(verdict, pressed ?? this.subject());
  }

  /** Give a verdict of what is on screen now, or was when it was begun. */
  give(verdict, subject = this.subject()) {
    if (!mayJudge() || !subject.inspection) return;
    if (subject.why) return this.onearly(subject.inspection, subject.why);
    const note = this.note.value.trim();
    this.note.value = "";
    this.note.blur();
    const reason = (verdict === "defect" && this.reason.value) || null;
    this.reason.value = "";
    this.ongive(subject.inspection, verdict, note, reason);
  }
}
