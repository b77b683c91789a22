/**
 * What the page says, in the first of the browser's languages that it has; else in English.
 *
 * messages/LANGUAGE.json holds the texts by key. {name} stands for a value. A text that depends on the number
 * {n} has a form for each of its plurals. What stands between backticks is shown as code.
 */

import { h } from "./dom.js";
import de from "./messages/de.json" with { type: "json" };
import en from "./messages/en.json" with { type: "json" };
import es from "./messages/es.json" with { type: "json" };
import zh from "./messages/zh.json" with { type: "json" };

const LANGUAGES = { de, en, es, zh };

const chosen = navigator.languages.find((tag) => languageOf(tag) in LANGUAGES);

/** The language of the page. */
export const language = languageOf(chosen ?? "en");

/** How numbers and times are written. */
export const locale = language === "en" ? "en-GB" : chosen;

function languageOf(tag) {
  return tag.toLowerCase().split("-")[0];
}

const texts = { ...en, ...LANGUAGES[language] };
const plural = new Intl.PluralRules(locale);

/** The text of a key, with its values; numbers are written as the language does. */
export function t(key, values = {}) {
  const known = texts[key];
  const text = typeof known === "string" ? known : (known[plural.select(values.n)] ?? known.other);
  const written = (value) => (typeof value === "number" ? value.toLocaleString(locale) : value);
  return text.replace(/\{(\w+)\}/g, (_, name) => written(values[name]));
}

/** A text in pieces, of which those between backticks are code. */
export const withCode = (text) => text.split("`").map((piece, i) => (i % 2 ? h("code", {}, piece) : piece));

const ATTRIBUTES = ["title", "placeholder", "aria-label"];

/** Write the texts that `data-t` and `data-t-ATTRIBUTE` name into what the page brings with it. */
export function translate() {
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-t]"))
    element.replaceChildren(...withCode(t(element.dataset.t)));
  for (const name of ATTRIBUTES)
    for (const element of document.querySelectorAll(`[data-t-${name}]`))
      element.setAttribute(name, t(element.getAttribute(`data-t-${name}`)));
}
