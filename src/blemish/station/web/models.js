/** The view of models: those in use and their earlier versions, new thresholds, and training. */

import { post } from "./api.js";
import { Keyed, at, h, mark, toast } from "./dom.js";
import { capital, driftOf, driftState, number, percent, when } from "./format.js";
import { Judging } from "./judging.js";
import { t, withCode } from "./messages.js";
import { RegionEditor } from "./region.js";
import { mayEngineer, modelOf, station } from "./state.js";
import { Training } from "./training.js";

const EVERY = 5000; // ms between two looks
const BUSY = 1000; // the same while a training runs
const PARTS = 500;

export class ModelsView {
  /** `lookAtModels()` asks for the models, and shows their drift above all views. */
  constructor(lookAtModels) {
    this.lookAtModels = lookAtModels;
    this.dropText = t("train.drop");
    this.training = new Training(() => this.look());
    this.judging = new Judging();
    this.cards = new Keyed(
      at("models"),
      (model) => model.origin,
      () => new ModelCard(() => this.look()),
    );
    this.gone = new Keyed(
      at("gone-models"),
      (model) => model.digest,
      () => new Named(),
    );
    this.looked = 0;
    setInterval(() => {
      const due = this.looked + (this.training.busy ? 0 : EVERY - BUSY);
      if (this.shown && !document.hidden && Date.now() > due) this.look();
    }, BUSY);
  }

  /** Become visible, perhaps with a certain model. */
  async show(digest) {
    this.shown = true;
    await Promise.all([this.look(), this.training.choices(), this.judging.look()]);
    const card = this.cards.rows.get(modelOf(digest)?.origin);
    card?.element.focus();
    card?.element.scrollIntoView({ block: "start" });
  }

  hide() {
    this.shown = false;
    for (const card of this.cards.rows.values()) card.say("");
  }

  take(files) {
    this.training.take(files);
  }

  async look() {
    this.looked = Date.now();
    await Promise.all([this.lookAtModels(), this.training.look()]);
    const { models } = station;
    const active = models.filter((model) => model.active);
    const origins = new Set(active.map((model) => model.origin));
    const gone = models.filter((model) => !origins.has(model.origin));
    this.cards.update(active);
    this.gone.update(gone);
    at("gone").hidden = gone.length === 0;
  }
}

/** A model in use: what it is, new thresholds, its other versions. */
class ModelCard {
  constructor(onchange) {
    this.onchange = onchange;
    this.head = h("div", { class: "model-head" });
    this.facts = h("dl", { class: "model-facts" });
    this.parts = h("input", { type: "number", min: 1, max: 100000, value: PARTS, required: true });
    this.refusal = h("p", { class: "error-line refusal", role: "alert" });
    this.button = h("button", {}, t("models.recalibrate"));
    this.region = new RegionEditor((region) => this.recalibrate(region));
    this.title = h("h3", {}, t("models.others"));
    const versions = h("ul", { class: "plain earlier" });
    this.versions = new Keyed(
      versions,
      (model) => model.digest,
      () => new Version((digest) => this.use(digest)),
    );
    this.form = h(
      "form",
      { class: "recalibrate may-engineer", onsubmit: (event) => this.submit(event) },
      h(
        "p",
        {},
        t("models.recalibrate_text"),
      ),
      h("div", { class: "bar" }, h("label", {}, h("span", {}, t("models.parts")), " ", this.parts), this.button),
    );
    this.byCommand = h("div", { class: "recalibrate may-engineer" }, h("p", {}, ...withCode(t("models.by_command"))));
    this.element = h(
      "li",
      { class: "card model", tabindex: -1 },
      this.head,
      this.facts,
      this.byCommand,
      this.form,
      this.region.element,
      this.refusal,
      h("div", {}, this.title, versions),
    );
  }

  update(model) {
    this.model = model;
    this.region.update(model);
    this.head.replaceChildren(
      mark(model.drift?.alarm ? "failed" : "accepted"),
      h("b", {}, model.name),
      h("small", { title: model.digest }, t("models.version", versionOf(model))),
    );
    const { drift } = model;
    const facts = [
      [t("models.method"), `${model.method}, ${model.preset}`],
      ...(model.parts ? ofParts(model.parts) : ofImages(model)),
      ...(model.counts === null ? [] : [[t("models.counts"), model.counts]]),
      [
        t("drift.title"),
        drift ? driftState(drift) : t("drift.unwatched"),
        drift && t("models.evidence", { now: capital(drift) }),
        drift?.alarm,
      ],
      [t("models.first_used"), when(model.first_used)],
    ];
    this.facts.replaceChildren(
      ...facts.map(([name, value, note, alarm]) =>
        h(
          "div",
          {},
          h("dt", {}, name),
          h(
            "dd",
            { class: alarm ? "alarm" : null },
            value,
            note ? h("small", {}, note) : null,
          ),
        ),
      ),
    );
    const others = station.models.filter((other) => other.origin === model.origin && !other.active);
    const bySeveral = model.parts?.one_model === false;
    this.form.hidden = bySeveral;
    this.region.element.hidden = Boolean(model.parts); // drawn over one view, it would count for all
    this.byCommand.hidden = !bySeveral;
    this.versions.update(others.sort((a, b) => b.first_used.localeCompare(a.first_used)));
    this.title.hidden = others.length === 0;
  }

  /** Say why something was refused, in a line; with the way to the queue when that is what helps. */
  say(text) {
    const waits = text.includes("wait for a verdict");
    this.refusal.replaceChildren(
      ...(text ? [h("span", {}, text)] : []),
      ...(waits ? [h("a", { href: "#queue", class: "button small" }, t("models.open_queue"))] : []),
    );
  }

  submit(event) {
    event.preventDefault();
    return this.recalibrate(null);
  }

  /** Make a new version with thresholds of the newest parts; with a region it counts inside of that alone. */
  recalibrate(region) {
    return this.change(async () => {
      const path = `/v1/models/${this.model.digest}/recalibration`;
      const made = await post(path, { parts: Number(this.parts.value), region });
      return t("models.recalibrated", { name: made.name, n: calibratedOn(made) });
    });
  }

  use(digest) {
    return this.change(async () => {
      const model = await post(`/v1/models/${digest}/use`, {});
      return t("models.now_used", { name: model.name, ...versionOf({ digest }) });
    });
  }

  /** Do one thing at a time, and tell how it went. */
  async change(act) {
    if (!mayEngineer() || this.working) return;
    this.working = true;
    this.button.setAttribute("aria-disabled", true); // not `disabled`: it keeps the focus
    this.say("");
    try {
      toast(await act());
      await this.onchange();
    } catch (error) {
      this.say(error.message);
    } finally {
      this.working = false;
      this.button.removeAttribute("aria-disabled");
    }
  }
}

/** What is known of a model that is not in use, in a row. */
class Named {
  constructor() {
    this.text = h("div", {});
    this.element = h("li", {}, this.text);
  }

  update(model) {
    const { drift } = model;
    const facts = [
      calibratedOn(model) ? t("models.was_calibrated", { parts: calibrated(model) }) : null,
      model.threshold === null || model.calibration_parts // which is of images
        ? null
        : t("models.was_threshold", { threshold: number(model.threshold), rate: percent(model.false_alarm_rate) }),
      drift && t(`models.was_${driftOf(drift)}`, { now: capital(drift) }),
      t("models.was_first", { time: when(model.first_used) }),
    ];
    this.text.replaceChildren(
      h("b", {}, `${model.name} `),
      `${model.method}, ${model.preset}, ${t("models.version", versionOf(model))}`,
      h("small", {}, facts.filter(Boolean).join(" · ")),
    );
  }
}

/** A version that can be gone back to. */
class Version extends Named {
  constructor(onuse) {
    super();
    this.button = h(
      "button",
      { type: "button", class: "small may-engineer", onclick: () => onuse(this.digest) },
      t("models.use"),
    );
    this.element.append(this.button);
  }

  update(model) {
    super.update(model);
    this.digest = model.digest;
    this.button.setAttribute("aria-label", t("models.use_version", versionOf(model)));
  }
}

const fewImages = (model) =>
  model.calibration_images < model.usual_rate_needs &&
  t("models.few", { rate: percent(model.usual_rate), n: model.usual_rate_needs });

/** What is promised of parts that are one image each, as facts of a card. */
const ofImages = (model) => [
  [t("models.calibrated"), calibrated(model)],
  [t("models.rate"), percent(model.false_alarm_rate), fewImages(model)],
  [t("panel.threshold"), number(model.threshold)],
  ...(model.review_rate === null
    ? []
    : [
        [t("models.review_rate"), percent(model.review_rate)],
        [t("panel.review_threshold"), number(model.review_threshold)],
      ]),
];

/** The same of parts with several views. */
const ofParts = ({ views, count, carried_by: n, rule, false_alarm_rate: rate, review_rate: review }) => [
  [t("models.views"), views.length ? views.join(", ") : String(count)],
  ...(rule === "together" ? [[t("models.calibrated"), t("count.good_parts", { n })]] : []),
  [t("models.rate_of_parts"), percent(rate)],
  ...(review === null ? [] : [[t("models.review_rate"), percent(review)]]),
];

/** How many good parts: those of several views were calibrated together, else each image is one. */
const calibratedOn = (model) => model.calibration_parts ?? model.calibration_images;

const calibrated = (model) =>
  calibratedOn(model) ? t("count.good_parts", { n: calibratedOn(model) }) : t("models.nothing");

/** A version's short name, to be put into a text. */
const versionOf = ({ digest }) => ({ digest: digest.slice(0, 8) });
