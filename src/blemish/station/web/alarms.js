/** Alarms: what they say, how far they went, and a person's word that one was seen to. */

import { post } from "./api.js";
import { at, h, mark, toast } from "./dom.js";
import { capital, when } from "./format.js";
import { t } from "./messages.js";
import { keep, kept, mayJudge, modelOf, station } from "./state.js";

const MOST = 20;

/** Tells "acknowledged" when a person has seen to an alarm. */
export const alarms = new EventTarget();

/** Whether an alarm waits for a person. */
export const isOpen = (alarm) => alarm.acknowledged === null;

/** Whether a model's drift alarm waits for a person. */
export const isDrifting = (model, all) =>
  Boolean(model.drift?.alarm) &&
  all.some((alarm) => alarm.model === model.digest && alarm.kind === "drift" && isOpen(alarm));

/** Fill a list with the newest alarms. */
export function renderAlarms(host, all) {
  host.replaceChildren(...all.slice(-MOST).reverse().map(item));
}

function item(alarm) {
  const line = (...content) => h("p", { class: "muted" }, ...content);
  const button = () =>
    h("button", { type: "button", class: "small", onclick: () => ask(alarm) }, t("alarm.acknowledge"));
  return h(
    "li",
    {},
    mark(isOpen(alarm) ? "failed" : "accepted"),
    h(
      "div",
      {},
      h("b", {}, when(alarm.time)),
      ` ${ofModel(alarm)}${alarm.message}`,
      alarm.peak === null
        ? null
        : line(t("alarm.peak", { peak: capital({ evidence: alarm.peak }), time: when(alarm.peak_time) })),
      isOpen(alarm) ? null : line(seenTo(alarm)),
      isOpen(alarm) && mayJudge() ? line(button()) : null,
    ),
  );
}

/** Whose alarm it is; a clock is nobody's. */
const ofModel = ({ kind, model }) =>
  kind === "clock" ? "" : `${modelOf(model)?.name ?? model.slice(0, 8)}: `;

const seenTo = ({ acknowledged, acknowledged_by: by, note }) =>
  t(note ? "alarm.seen_note" : "alarm.seen", { by, note, time: when(acknowledged) });

function ask(alarm) {
  const form = at("acknowledge-form");
  at("acknowledge-what").textContent = `${when(alarm.time)}: ${alarm.message}`;
  at("acknowledge-error").textContent = "";
  form.elements.by.value = station.name ?? kept("name") ?? "";
  form.elements.by.disabled = station.name !== null;
  form.elements.note.value = "";
  form.onsubmit = (event) => {
    event.preventDefault();
    acknowledge(alarm, form.elements.by.value.trim(), form.elements.note.value.trim());
  };
  at("acknowledge").showModal();
}

async function acknowledge(alarm, by, note) {
  try {
    await post(`/v1/alarms/${alarm.id}/acknowledgement`, { by, note });
  } catch (error) {
    at("acknowledge-error").textContent = error.message;
    return;
  }
  if (station.name === null) keep("name", by);
  at("acknowledge").close();
  toast(t("alarm.kept"));
  alarms.dispatchEvent(new Event("acknowledged"));
}
