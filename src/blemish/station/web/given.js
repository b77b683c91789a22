/** The verdicts that were given here lately, each of which can be taken back. */

import { announce, at, h, mark, toast } from "./dom.js";
import { nameOf, when } from "./format.js";
import { t } from "./messages.js";
import { outbox, withdraw } from "./outbox.js";
import { mayJudge } from "./state.js";

const MOST = 30;

/** Tells "undone" with the inspection, when its verdict was taken back. */
export const given = new EventTarget();

let list = []; // the newest first: {inspection, verdict, key, time}

/** Note a verdict, and say it with the offer to take it back. */
export function note(inspection, verdict, key) {
  const entry = { inspection, verdict, key, time: Date.now() };
  list = [entry, ...list].slice(0, MOST);
  render();
  toast(t("given.said", named(entry)), () => undo(entry), t("given.undo_key"));
}

/** A part and its verdict, to be put into a text. */
const named = ({ inspection, verdict }) => ({ name: nameOf(inspection), verdict: t(`verdict.${verdict}`) });

/** Take the last verdict back. */
export function undoLast() {
  if (mayJudge() && list.length) undo(list[0]);
}

function undo(entry) {
  if (!list.includes(entry)) return; // it was taken back already
  list = list.filter((other) => other !== entry);
  withdraw(entry.inspection, entry.key);
  render();
  const text = t("given.undone", named(entry));
  announce(text);
  toast(text);
  given.dispatchEvent(new CustomEvent("undone", { detail: entry.inspection }));
}

/** A button that opens the list; it is there while there is something in it. */
export const listButton = () =>
  h(
    "button",
    { type: "button", class: "quiet small undo-list", hidden: !list.length, onclick: open },
    t("given.open"),
  );

function open() {
  render();
  at("given").showModal();
}

function render() {
  for (const button of document.querySelectorAll(".undo-list")) button.hidden = !list.length;
  at("given-none").hidden = list.length > 0;
  at("given-list").replaceChildren(
    ...list.map((entry) =>
      h(
        "li",
        {},
        mark(entry.verdict === "good" ? "accepted" : "rejected"),
        h(
          "span",
          {},
          h("b", {}, nameOf(entry.inspection)),
          ` ${t(`verdict.${entry.verdict}`)}, ${when(entry.time)}`,
        ),
        h("button", { type: "button", class: "small", onclick: () => undo(entry) }, t("given.undo")),
      ),
    ),
  );
}

outbox.addEventListener("refused", ({ detail }) => {
  list = list.filter((entry) => entry.key !== detail.key);
  render();
});
