/** The view of the line: images in, the latest part large, those before it in a row. */

import { Away, get, inOrder } from "./api.js";
import { at, h, icon, toast } from "./dom.js";
import { nameOf } from "./format.js";
import { InspectionPanel } from "./inspection_panel.js";
import { given, note as noteGiven } from "./given.js";
import { t } from "./messages.js";
import { asked, linkTo, only, viewAndPart } from "./only.js";
import { judge, outbox, withWaiting } from "./outbox.js";
import { keep, kept, mayInspect, mayLook, modelOf, station } from "./state.js";
import { Thumbnails } from "./thumbnails.js";
import { Uploads } from "./uploads.js";
import { newestOf } from "./view_picker.js";

const EVERY = 2000; // ms between two looks at the latest parts
const LATEST = 40;
const getLatest = inOrder("/v1/inspections");

export class InspectView {
  constructor() {
    this.dropText = t("inspect.drop");
    this.panel = new InspectionPanel(
      at("inspect-stage"),
      (...verdict) => this.judged(...verdict),
      (inspection) => this.open(inspection, true),
    );
    this.thumbnails = new Thumbnails(at("strip"), (item) => this.open(item, true));
    this.uploads = new Uploads();
    this.following = kept("following") !== "no";
    this.arrivals = 0;
    this.uploads.addEventListener("change", () => this.renderTray());
    this.uploads.addEventListener("inspected", ({ detail }) => this.arrived(detail));
    outbox.addEventListener("saved", ({ detail }) => this.changed(detail));
    outbox.addEventListener("refused", ({ detail }) => this.lookAgain(detail.inspection));
    given.addEventListener("undone", ({ detail }) => this.lookAgain(detail.id));
    at("follow").addEventListener("click", () => this.follow(!this.following));
    at("choose").addEventListener("click", () => at("files").click());
    at("welcome-choose").addEventListener("click", () => at("files").click());
    at("files").addEventListener("change", (event) => {
      this.take(event.target.files);
      event.target.value = "";
    });
    this.renderFollow();
    this.look();
    setInterval(() => this.shown && !document.hidden && this.look(), EVERY);
    document.addEventListener("visibilitychange", () => !document.hidden && this.look());
  }

  /** Become visible, perhaps with a certain part. */
  async show(id) {
    this.shown = true;
    this.panel.viewer.resize();
    this.wanted = id;
    if (!id || this.panel.inspection?.id === id) return this.look();
    try {
      this.follow(false);
      const found = await partOf(await get(`/v1/inspections/${id}`));
      if (this.wanted !== id) return; // another one is wanted by now
      if (found.state === "waiting") this.panel.clear(t("views.open"));
      else this.open(found, false);
    } catch (error) {
      if (this.wanted !== id) return;
      this.panel.clear(error.message);
      this.renderWelcome(false);
    }
    return this.look();
  }

  hide() {
    this.shown = false;
    this.panel.hide();
  }

  /** Show nothing, as other parts are asked for. */
  clear() {
    this.panel.clear("");
    this.thumbnails.update([]);
    this.follow(true);
  }

  /** Get the latest parts, and show the newest when following. */
  async look() {
    if (!mayLook()) return;
    this.renderViews();
    const { arrivals } = this;
    const wished = only();
    try {
      const latest = await getLatest({ limit: LATEST, ...asked() });
      if (!latest || wished !== only()) return;
      const { items } = latest;
      this.thumbnails.update(items);
      this.renderWelcome(items.length === 0);
      const newest = newestOf(items);
      const old = arrivals !== this.arrivals; // a newer one has come meanwhile
      const wanted = (this.following && !old) || !this.panel.inspection;
      if (newest && wanted && newest.id !== this.panel.inspection?.id && !this.panel.busy)
        this.open(newest, false);
      this.changed(items.find((item) => item.id === this.panel.inspection?.id));
    } catch (error) {
      if (!(error instanceof Away) && error.status !== 401) toast(error.message);
    }
  }

  renderWelcome(empty) {
    at("welcome").hidden = !empty || Boolean(this.panel.inspection);
    at("inspect-stage").hidden = !at("welcome").hidden;
  }

  open(inspection, byHand) {
    if (byHand) this.wanted = null; // what was asked for before comes too late
    if (byHand) this.follow(inspection.id === this.thumbnails.items[0]?.id && this.following);
    this.renderWelcome(false);
    this.panel.show(inspection, true);
    this.thumbnails.choose(inspection.id);
    const address = linkTo(this.following ? "inspect" : `inspect/${inspection.id}`);
    const [view] = viewAndPart(); // another one is on its way when it was just clicked
    if (this.shown && ["", "inspect"].includes(view) && location.hash !== address)
      history.replaceState(null, "", address);
  }

  judged(inspection, verdict, note, reason) {
    noteGiven(inspection, verdict, judge(inspection, verdict, note, reason));
    if (this.panel.inspection?.id === inspection.id) this.panel.show(withWaiting(this.panel.inspection));
  }

  /** Show a part as the station knows it now. */
  async lookAgain(id) {
    if (this.panel.inspection?.id !== id) return;
    this.panel.show(withWaiting(this.panel.inspection));
    try {
      const found = await get(`/v1/inspections/${id}`);
      if (this.panel.inspection?.id === id) this.panel.show(withWaiting(found));
    } catch (error) {
      if (!(error instanceof Away)) throw error;
    }
  }

  /** Take news of the part that is shown. */
  changed(inspection) {
    const now = this.panel.inspection;
    if (inspection && inspection.id === now?.id && wordsOf(inspection) >= wordsOf(now)) {
      this.panel.show(withWaiting(inspection));
    }
  }

  follow(on) {
    this.following = on;
    keep("following", on ? "yes" : "no");
    this.renderFollow();
    if (on) this.look();
  }

  renderFollow() {
    at("follow").setAttribute("aria-pressed", this.following);
    at("follow-text").textContent = t(this.following ? "inspect.following" : "inspect.follow");
  }

  // --- images in ----------------------------------------------------------------------------------------

  take(files) {
    if (!files.length || !mayInspect()) return;
    const [part, view] = [at("part").value.trim(), at("view").value];
    this.uploads.add(files, at("model").value || null, part || null, view || null);
    this.nextView(view);
    if (!this.shown) location.hash = "inspect";
  }

  /** Ask for the next view of the part, or after the last one for another part. */
  nextView(view) {
    const select = at("view");
    const last = !view || select.selectedIndex === select.options.length - 1;
    if (last) at("part").value = ""; // the next images are of another part
    if (view) select.selectedIndex = last ? Math.min(1, select.options.length - 1) : select.selectedIndex + 1;
  }

  /** Offer the views of the model that is chosen, where its parts have some. */
  renderViews() {
    const chosen = at("model").value;
    const model = modelOf(chosen) ?? station.models.find((each) => each.active);
    const names = model?.parts?.views ?? [];
    at("view-row").hidden = names.length === 0;
    const options = names.length ? ["", ...names] : [];
    if (options.join("\n") === Array.from(at("view").options, (each) => each.value).join("\n")) return;
    at("view").replaceChildren(
      ...options.map((name) => h("option", { value: name }, name || t("inspect.view_by_name"))),
    );
  }

  async arrived(inspection) {
    const found = inspection.part_id ? await partOf(inspection).catch(() => null) : inspection;
    if (found?.state === "waiting") {
      const waits = { name: nameOf(inspection), views: inspection.waits_for.join(", ") };
      toast(t("views.waits", waits));
    } else if (found) {
      this.arrivals += 1;
      if (!this.panel.busy) this.open(found, false);
    }
    this.look();
  }

  renderTray() {
    const { uploads } = this;
    const { left, total, failures } = uploads;
    at("tray").hidden = !left && !failures.length;
    const sent = t("tray.progress", { done: total - left, n: total });
    const progress =
      uploads.waiting.length && !uploads.flying ? t("tray.waiting", { progress: sent }) : sent;
    at("tray").replaceChildren(
      h(
        "div",
        { class: "tray-head" },
        h("progress", { max: total, value: total - left, "aria-label": t("tray.sent") }),
        h(
          "span",
          {},
          left ? progress : t("tray.refused_n", { n: failures.length }),
        ),
        left
          ? null
          : h(
              "button",
              { type: "button", class: "quiet small", onclick: () => uploads.clear() },
              icon("close"),
              t("tray.clear"),
            ),
      ),
      h(
        "ul",
        { "aria-label": t("tray.refused") },
        failures
          .slice(-20)
          .map(({ name, text }) => h("li", {}, text.includes(name) ? text : `${name}: ${text}`)),
      ),
    );
  }

  onKey(event) {
    const acts = {
      ArrowLeft: () => this.thumbnails.step(-1),
      ArrowRight: () => this.thumbnails.step(1),
      f: () => this.follow(!this.following),
      o: () => mayInspect() && at("files").click(),
    };
    if (!(event.key in acts)) return this.panel.onKey(event.key);
    acts[event.key]();
    return true;
  }
}

/** The part of a view, perhaps one that waits; what is no view is a part. */
const partOf = async (inspection) =>
  inspection.part_id ? get(`/v1/inspections/${inspection.part_id}`) : inspection;

/** How much a person has said of a part; it grows, so that what is out of date can be told. */
const wordsOf = (inspection) => inspection.verdicts.length + inspection.withdrawn.length;
