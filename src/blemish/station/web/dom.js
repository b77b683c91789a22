/** Elements without templates: text is always text, never HTML. */

const SVG = "http://www.w3.org/2000/svg";

/** Make an element. Keys of `properties` starting with "on" are listeners; true and null set or leave out. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** Make an SVG element, as `h`. */
export function s(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** The element of an id, which must be there. */
export const at = (id) => document.getElementById(id);

const PATHS = {
  accepted: ["M12 2.5a9.5 9.5 0 1 0 0 19a9.5 9.5 0 1 0 0-19z", "M7.4 12.4l3.2 3.2l6-6.6"],
  rejected: ["M8 2.5h8l5.5 5.5v8l-5.5 5.5h-8l-5.5-5.5v-8z", "M8.4 8.4l7.2 7.2M15.6 8.4l-7.2 7.2"],
  review: ["M3.5 3.5h17v17h-17z", "M9 9.4a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.1-1.5 2.2M12 17.2v.2"],
  unjudged: ["M12 2.5l9.5 9.5l-9.5 9.5l-9.5-9.5z", "M12 7.6v5.2M12 16.2v.2"],
  failed: ["M12 3l10 17.5h-20z", "M12 9.5v5M12 17.4v.2"],
};

/** The mark of a decision: a circle with a tick, an octagon with a cross, a square, a diamond, a triangle. */
export function mark(decision, label = null) {
  const [body, sign] = PATHS[decision];
  const meaning = label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" };
  return s(
    "svg",
    { viewBox: "0 0 24 24", class: `mark ${decision}`, ...meaning },
    s("path", { d: body, class: "body" }),
    s("path", { d: sign, class: "sign" }),
  );
}

const ICONS = {
  live: "M12 12m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0M7 7a7 7 0 0 0 0 10M17 7a7 7 0 0 1 0 10",
  upload: "M12 16V4M7 9l5-5l5 5M4 16v4h16v-4",
  close: "M6 6l12 12M18 6l-12 12",
  retry: "M20 5v5h-5M19.5 10a8 8 0 1 0 .5 4",
};

/** A line drawing that only accompanies its text. */
export function icon(name) {
  return s(
    "svg",
    { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" },
    s("path", { d: ICONS[name] }),
  );
}

/** Say something to a screen reader without moving the focus. */
export function announce(text) {
  at("announcer").textContent = text;
}

/** Show a line at the bottom of the page for a few seconds, perhaps with something to do. */
export function toast(text, action = null, label = "") {
  const button =
    action &&
    h(
      "button",
      {
        type: "button",
        class: "quiet",
        onclick: () => {
          action();
          line.remove();
        },
      },
      label,
    );
  const line = h("div", { class: "toast" }, h("span", {}, text), button);
  at("toasts").replaceChildren(line);
  setTimeout(() => line.remove(), 9000);
}

/** A list whose items keep their elements, and what is focused or written in them, while they are there. */
export class Keyed {
  /** `key(item)` tells items apart; `make(item)` returns {element, update(item)}. */
  constructor(host, key, make) {
    Object.assign(this, { host, key, make, rows: new Map() });
  }

  /** Show these, in this order. */
  update(items) {
    const before = this.rows;
    this.rows = new Map(items.map((item) => [this.key(item), before.get(this.key(item)) ?? this.make(item)]));
    for (const item of items) this.rows.get(this.key(item)).update(item);
    for (const [key, { element }] of before) if (!this.rows.has(key)) element.remove();
    [...this.rows.values()].forEach(({ element }, place) => {
      const there = this.host.children[place];
      if (there !== element) this.host.insertBefore(element, there ?? null);
    });
  }
}

/** Whether the keyboard is writing text now. */
export function typing(event) {
  const target = event.target;
  if (!(target instanceof HTMLElement)) return false;
  return target.matches("textarea, select, input:not([type=range]):not([type=checkbox])");
}
