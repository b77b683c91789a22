/** The view of time: how much is rejected, how parts score, how long it takes, and whether production drifts. */

import { alarms as acknowledgements, renderAlarms } from "./alarms.js";
import { Away, get } from "./api.js";
import { chart } from "./charts.js";
import { at, h, mark, toast } from "./dom.js";
import { capital, driftState, evidenceMeter, number, percent, seconds, when } from "./format.js";
import { locale, t } from "./messages.js";
import { mayLook, modelOf, station } from "./state.js";

const HOUR = 3600e3;
const SPANS = { hour: [HOUR, 60], day: [24 * HOUR, 48], week: [7 * 24 * HOUR, 84] };
const EVERY = 10000;

export class TrendsView {
  constructor() {
    this.span = "hour";
    for (const button of at("spans").children)
      button.addEventListener("click", () => this.choose(button.value));
    at("trends-model").addEventListener("change", () => this.look());
    setInterval(() => this.shown && !document.hidden && this.look(), EVERY);
    acknowledgements.addEventListener("acknowledged", () => this.look());
  }

  show() {
    this.shown = true;
    return this.choose(this.span);
  }

  hide() {
    this.shown = false;
  }

  choose(span) {
    this.span = span;
    for (const button of at("spans").children) button.setAttribute("aria-pressed", button.value === span);
    return this.look();
  }

  async look() {
    if (!mayLook()) return;
    const { span } = this;
    const [length, buckets] = SPANS[span];
    const until = new Date();
    const since = new Date(until - length);
    const model = this.model();
    try {
      const asked = { since: since.toISOString(), until: until.toISOString(), buckets, model: model?.digest };
      const [summary, alarms] = await Promise.all([get("/v1/summary", asked), get("/v1/alarms")]);
      if (span !== this.span || model?.digest !== this.model()?.digest) return; // another has been chosen
      this.render(summary, [...summary.map((b) => new Date(b.time).getTime()), until.getTime()], model);
      this.renderDrift(alarms);
    } catch (error) {
      if (!(error instanceof Away) && error.status !== 401) toast(error.message);
    }
  }

  /** The model whose scores are shown: scores of two models have no common scale. */
  model() {
    const select = at("trends-model");
    const known = station.models.map((model) => model.digest);
    if (known.join() !== Array.from(select.options, (option) => option.value).join()) {
      const chosen = select.value;
      select.replaceChildren(
        ...station.models.map((m) =>
          h("option", { value: m.digest }, m.active ? m.name : t("trends.was_used", { name: m.name })),
        ),
      );
      if (known.includes(chosen)) select.value = chosen;
    }
    select.parentElement.hidden = known.length < 2;
    return modelOf(select.value);
  }

  render(summary, times, model) {
    const n = sum(summary, "n"),
      rejected = sum(summary, "rejected"),
      review = sum(summary, "review"),
      failed = sum(summary, "failed");
    const slowest = Math.max(...summary.map((b) => b.p99_seconds ?? 0));
    const fact = (name, value, note) =>
      h("div", { class: "card" }, h("dt", {}, name), h("dd", {}, h("b", {}, value), h("small", {}, note)));
    at("trend-facts").replaceChildren(
      fact(t("trends.inspected"), n.toLocaleString(locale), t(`trends.in_${this.span}`)),
      fact(t("trends.rejected"), n ? percent(rejected / n) : "–", t("count.parts", { n: rejected })),
      review ? fact(t("decision.review"), percent(review / n), t("count.parts", { n: review })) : "",
      fact(t("trends.failed"), failed.toLocaleString(locale), t("trends.failed_note")),
      fact(t("trends.slowest"), n ? seconds(slowest) : "–", t("trends.slowest_note")),
    );
    const timeForm = (time) =>
      new Date(time).toLocaleString(
        locale,
        this.span === "week" ? { weekday: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" },
      );
    const values = (of) => summary.map((b) => (b.n ? of(b) : null));
    const quantile = (i) => summary.map((b) => b.score_quantiles?.[i] ?? null);
    const level =
      model?.threshold === null || !model ? [] : [{ kind: "level", values: model.threshold, name: "limit" }];
    figure("rejects", {
      times,
      timeForm,
      floor: true,
      form: percent,
      label: t("trends.label_rejects"),
      layers: [
        {
          kind: "bar",
          values: values((b) => b.rejected / b.n),
          name: "rejects",
          titles: summary.map((b) => t("trends.bar", { time: when(b.time), rejected: b.rejected, n: b.n })),
        },
      ],
    });
    figure("scores", {
      times,
      timeForm,
      form: number,
      label: t("trends.label_scores"),
      layers: [
        { kind: "band", values: [quantile(0), quantile(4)], name: "wide" },
        { kind: "band", values: [quantile(1), quantile(3)], name: "narrow" },
        { kind: "line", values: quantile(2), name: "median" },
        ...level,
      ],
    });
    figure("latency", {
      times,
      timeForm,
      floor: true,
      form: seconds,
      label: t("trends.label_latency"),
      layers: [
        { kind: "line", values: values((b) => b.p99_seconds), name: "slow" },
        { kind: "line", values: values((b) => b.median_seconds), name: "median" },
      ],
    });
    at("trend-table").replaceChildren(
      ...summary
        .filter((b) => b.n)
        .reverse()
        .map((b) =>
          h(
            "tr",
            {},
            [
              when(b.time),
              b.n,
              b.rejected,
              b.review,
              b.failed,
              number(b.score_quantiles?.[2]),
              seconds(b.median_seconds),
              seconds(b.p99_seconds),
            ].map((v) => h("td", {}, v)),
          ),
        ),
    );
  }

  renderDrift(alarms) {
    const watched = station.models.filter((model) => model.active && model.drift);
    at("drift").replaceChildren(...watched.map(evidence));
    at("drift-none").hidden = watched.length > 0;
    renderAlarms(at("alarms"), alarms);
    at("alarms-none").hidden = alarms.length > 0;
  }
}

const sum = (summary, name) => summary.reduce((total, bucket) => total + bucket[name], 0);

const drawn = new Map(); // what is drawn in an element, and how wide

/** Draw a chart as wide as its place, and anew when that becomes wider or narrower. */
function figure(id, given) {
  const host = at(`chart-${id}`);
  const width = host.clientWidth || 640; // 0: the view has gone from the screen meanwhile
  drawn.set(host, { given, width });
  host.replaceChildren(chart({ ...given, width }));
  resizes.observe(host);
}

const resizes = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const { given, width } = drawn.get(target);
    if (target.clientWidth && target.clientWidth !== width) figure(target.id.replace("chart-", ""), given);
  }
});

/** Evidence for drift, in words and as a bar: what a bet against "nothing has changed" makes of 1. */
function evidence(model) {
  const { alarm } = model.drift;
  const filled = evidenceMeter(model.drift);
  return h(
    "li",
    { class: `evidence ${alarm ? "alarm" : ""}` },
    h(
      "div",
      { class: "evidence-head" },
      mark(alarm ? "failed" : "accepted"),
      h("b", {}, model.name),
      h("span", {}, driftState(model.drift)),
    ),
    h("meter", { min: 0, max: 2, value: filled, "aria-label": t("drift.meter", { name: model.name }) }),
    alarm ? h("p", { class: "means" }, t("drift.means")) : null,
    h(
      "p",
      { class: "muted" },
      `${alarm ? highest(model.drift) : t("drift.evidence", { now: capital(model.drift) })} ${t("drift.explained")}`,
    ),
  );
}

/** How far the evidence went, and when, and where it is now. */
const highest = (drift) =>
  t("drift.peak", {
    peak: capital({ evidence: drift.peak }),
    time: when(drift.peak_time),
    now: capital(drift),
  });
