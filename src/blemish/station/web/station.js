/** The page: views by the address after #, keys, who is here, and whether the station answers. */

import { alarms, isDrifting, isOpen } from "./alarms.js";
import { Away, ask, get, isAway, link, retry } from "./api.js";
import { at, h, mark, toast, typing } from "./dom.js";
import { listenForImages } from "./drag_drop.js";
import { when } from "./format.js";
import { InspectView } from "./inspect.js";
import { LargeView } from "./large.js";
import { ModelsView } from "./models.js";
import { undoLast } from "./given.js";
import { endSession, forgetLogin, isLeaving } from "./leaving.js";
import { t, translate } from "./messages.js";
import { ofOthers, outbox, send, unsent } from "./outbox.js";
import { only, takeOnly, viewAndPart } from "./only.js";
import { QueueView } from "./queue.js";
import { SearchView } from "./search.js";
import { keep, kept, loadModels, loadSession, mayEngineer, station } from "./state.js";
import { TrendsView } from "./trends.js";

const EVERY = 5000; // ms between two looks at the models and their drift
const NAMES = ["inspect", "queue", "trends", "search", "models"];
const ONCE = ["g", "d", "u", "z", "n"]; // a key that is held down gives no second verdict
const VIEWS = [...NAMES, "large"]; // which has no tab: it is there for those who stand far away
const views = {};
let current = null;
let finishing = false; // a log-out is on its way to the station

// --- views --------------------------------------------------------------------------------------------------

function route() {
  const [name, id] = viewAndPart();
  if (!VIEWS.includes(name || "inspect")) return; // a link within the page
  if (takeOnly()) {
    at("only").hidden = !only();
    at("only").textContent = t("inspect.only", { what: only() });
    for (const other of [views.inspect, views.large]) other.clear();
  }
  const view = name || "inspect";
  for (const other of VIEWS) {
    at(`view-${other}`).hidden = other !== view;
    const tab = at(`tab-${other}`);
    if (other === view) tab?.setAttribute("aria-current", "page");
    else tab?.removeAttribute("aria-current");
    if (other !== view) views[other].hide();
  }
  current = views[view];
  document.title = `${at(`title-${view}`).textContent} · ${t("page.title")}`;
  current.show(id);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "?" && !typing(event)) return at("help").showModal();
  if (typing(event)) return;
  if (event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow")) return;
  if (event.repeat && ONCE.includes(event.key.toLowerCase())) return event.preventDefault();
  const place = "12345".indexOf(event.key);
  if (place >= 0) location.hash = NAMES[place];
  else if (event.key === "/") {
    event.preventDefault();
    location.hash = "search";
    setTimeout(() => at("search-part").focus());
  } else if (event.key === "t") nextTheme();
  else if (event.key === "l" && current !== views.large) views.large.enter();
  else if (event.key === "z") undoLast();
  else {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (current?.onKey?.({ key })) event.preventDefault();
  }
}

// --- looks --------------------------------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];

function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  const named = { theme: t(`theme.${theme}`) };
  at("theme").setAttribute("aria-label", t("theme.change", named));
  at("theme").title = t("theme.title", named);
  at("theme").dataset.shows = theme;
}

function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(kept("theme") ?? "system") + 1) % THEMES.length];
  keep("theme", theme);
  showTheme(theme);
}

// --- who is here --------------------------------------------------------------------------------------------

async function enter() {
  if (isLeaving()) return finishLeaving();
  try {
    await loadSession();
  } catch (error) {
    if (error instanceof Away) return; // "back" begins again
    throw error;
  }
  if (isLeaving()) return; // somebody has logged out meanwhile
  const { name, role } = station;
  at("brand").textContent = ["blemish", station.station].filter(Boolean).join(" · ");
  const less = name && role && !mayEngineer();
  at("who").textContent = less ? t("page.login", { name, role: t(`role.${role}`) }) : (name ?? "");
  at("leave").hidden = !station.name;
  document.body.dataset.role = station.role ?? "view";
  if (station.role === null) return askForToken();
  at("login").close();
  sayWhatWaitsForOthers();
  await look();
  send();
  views.inspect.uploads.fly();
  route();
}

function sayWhatWaitsForOthers() {
  const others = ofOthers().map(([name, n]) => t("verdict.of", { n, name: name || t("verdict.no_login") }));
  if (others.length) toast(t("verdict.others", { others: others.join(", ") }));
}

function askForToken() {
  if (at("login").open) return;
  at("login").showModal();
  offerAccounts();
}

/** Show the log-in by an account of the plant, where there is one. */
async function offerAccounts() {
  try {
    at("login-account").hidden = !(await get("/v1/session/ways")).accounts;
  } catch (error) {
    if (!(error instanceof Away)) throw error; // it is asked again when the station is back
  }
}

async function logIn(event) {
  event.preventDefault();
  const token = at("token").value.trim();
  try {
    await ask("/v1/session", { method: "POST", body: token });
    at("token").value = "";
    at("login-error").textContent = "";
    await enter();
  } catch (error) {
    at("login-error").textContent =
      error.status === 401 ? t("login.unknown") : error.message;
  }
}

function leave() {
  forgetLogin();
  return finishLeaving();
}

/** End the session of somebody who has logged out; while the station does not do it, say so and show nothing else. */
async function finishLeaving() {
  if (finishing) return; // the answer to a log-out says itself that the station is back
  finishing = true;
  try {
    await endSession();
  } catch (error) {
    at("main").hidden = true;
    at("who").textContent = "";
    at("leave").hidden = true;
    at("login").close();
    if (!at("leaving").open) at("leaving").showModal();
    at("leaving-text").textContent = t("leaving.text", { error: error.message });
    if (!(error instanceof Away)) setTimeout(enter, EVERY); // else "back" begins again
    return;
  } finally {
    finishing = false;
  }
  at("leaving").close();
  at("main").hidden = false;
  location.reload();
  enter(); // where images wait to be sent, the browser asks whether to leave, and one may stay
}

// --- models, drift, the link --------------------------------------------------------------------------------

async function look() {
  if (station.role === null) return;
  let all;
  try {
    [all] = await Promise.all([get("/v1/alarms"), loadModels()]);
  } catch {
    return; // the banner of the link says it
  }
  const active = station.models.filter((model) => model.active);
  at("model-row").hidden = active.length < 2;
  const select = at("model");
  if (active.map((m) => m.digest).join() !== Array.from(select.options, (o) => o.value).join()) {
    select.replaceChildren(...active.map((m) => h("option", { value: m.digest }, m.name)));
  }
  showDrift(active.filter((model) => isDrifting(model, all)));
  showClock(all.findLast((alarm) => alarm.kind === "clock" && isOpen(alarm)));
}

function showClock(alarm) {
  at("clock-banner").hidden = !alarm;
  at("clock-text").textContent = alarm ? `${when(alarm.time)}: ${alarm.message}.` : "";
}

function showDrift(alarmed) {
  const names = alarmed.map((model) => model.name).join(", ");
  const banner = at("drift-banner");
  banner.hidden = !alarmed.length;
  if (banner.dataset.names === names) return;
  banner.dataset.names = names;
  banner.replaceChildren(
    mark("failed"),
    h("p", {}, h("b", {}, t("drift.banner", { names })), " ", t("drift.check")),
    h("a", { href: "#trends", class: "button small" }, t("view.trends")),
  );
}

function showLink() {
  const waiting = unsent() + (views.inspect?.uploads.left ?? 0);
  at("link").className = isAway() ? "away" : "";
  at("link-text").textContent = isAway()
    ? t("link.away")
    : unsent()
      ? t("link.saving", { n: unsent() })
      : t("link.live");
  at("away-banner").hidden = !isAway();
  const promise = waiting ? t("away.waiting", { n: waiting }) : t("away.kept");
  at("away-text").textContent = `${t("away.text")} ${promise}`;
}

function begin() {
  translate();
  at("key-views").textContent = NAMES.map((name) => t(`view.${name}`)).join(", ");
  showTheme(kept("theme") ?? "system");
  Object.assign(views, {
    inspect: new InspectView(),
    large: new LargeView(),
    queue: new QueueView(),
    trends: new TrendsView(),
    search: new SearchView(),
    models: new ModelsView(look),
  });
  listenForImages(() => (current?.take ? current : views.inspect));
  addEventListener("hashchange", route);
  addEventListener("keydown", onKey);
  at("theme").addEventListener("click", nextTheme);
  at("help-button").addEventListener("click", () => at("help").showModal());
  at("login-form").addEventListener("submit", logIn);
  at("login").addEventListener("cancel", (event) => event.preventDefault());
  at("leave").addEventListener("click", leave);
  at("leaving").addEventListener("cancel", (event) => event.preventDefault());
  at("leaving-retry").addEventListener("click", enter);
  at("retry").addEventListener("click", retry);
  alarms.addEventListener("acknowledged", look);
  at("acknowledge-cancel").addEventListener("click", () => at("acknowledge").close());
  link.addEventListener("away", showLink);
  link.addEventListener("back", () => {
    showLink();
    enter();
  });
  link.addEventListener("locked", enter); // it may be the answer of a session that another one has replaced
  link.addEventListener("login", enter);
  outbox.addEventListener("change", showLink);
  outbox.addEventListener("refused", ({ detail }) => toast(t("verdict.refused", { error: detail.error.message })));
  views.inspect.uploads.addEventListener("change", showLink);
  setInterval(() => !document.hidden && (at("login").open ? enter() : look()), EVERY); // another tab may log in
  showLink();
  enter();
}

begin();
