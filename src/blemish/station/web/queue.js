/** The view of what waits for a person: parts rejected, in review or drawn, without a verdict, one after another. */

import { Away, inOrder } from "./api.js";
import { announce, at, toast } from "./dom.js";
import { nameOf } from "./format.js";
import { InspectionPanel } from "./inspection_panel.js";
import { given, listButton, note as noteGiven } from "./given.js";
import { t } from "./messages.js";
import { judge, outbox, withWaiting } from "./outbox.js";
import { mayJudge, mayLook, station } from "./state.js";
import { Thumbnails } from "./thumbnails.js";

const EVERY = 5000;
const PAGE = 200;
const getWaiting = inOrder("/v1/inspections");

export class QueueView {
  constructor() {
    this.panel = new InspectionPanel(
      at("queue-stage"),
      (...verdict) => this.judged(...verdict),
      (inspection) => this.open(inspection),
    );
    this.thumbnails = new Thumbnails(at("queue-strip"), (item) => this.open(item));
    this.said = new Set(); // judged here, though the station may not know yet
    this.last = null; // what was judged last, to change one's mind
    this.returning = null; // whose verdict was taken back, though the station may not know yet
    at("undo").addEventListener("click", () => this.undo());
    at("queue-done").append(listButton());
    outbox.addEventListener("refused", ({ detail }) => this.said.delete(detail.inspection));
    outbox.addEventListener("saved", ({ detail }) => {
      if (this.last?.id === detail.id) this.last = withWaiting(detail);
      if (this.panel.inspection?.id === detail.id) this.panel.show(withWaiting(detail));
      if (this.returning === detail.id) this.look();
    });
    given.addEventListener("undone", ({ detail }) => this.undone(detail));
    this.look();
    setInterval(() => !document.hidden && this.look(), EVERY);
  }

  show() {
    this.shown = true;
    this.panel.viewer.resize();
    return this.look();
  }

  hide() {
    this.shown = false;
    this.panel.hide();
  }

  async look() {
    if (!mayLook()) return;
    try {
      const waiting = await getWaiting({ to_judge: true, limit: PAGE, station: station.station });
      if (!waiting) return;
      const { items, next } = waiting;
      this.more = next !== null;
      this.thumbnails.update(items.filter((item) => !this.said.has(item.id)));
      this.render();
    } catch (error) {
      if (!(error instanceof Away) && error.status !== 401) toast(error.message);
    }
  }

  render() {
    const { items } = this.thumbnails;
    const left = `${items.length}${this.more ? "+" : ""}`;
    at("queue-count").textContent = items.length ? left : "";
    at("queue-left").textContent = items.length ? t("queue.left", { n: left }) : "";
    at("undo").hidden = !this.last;
    const now = this.panel.inspection;
    const stays = [this.last?.id, this.returning];
    if (now && (stays.includes(now.id) || items.some((item) => item.id === now.id))) return;
    if (items.length) this.open(items[0]);
    else this.panel.clear("");
    at("queue-done").hidden = items.length > 0;
    at("queue-stage").hidden = items.length === 0;
  }

  open(inspection) {
    at("queue-done").hidden = true;
    at("queue-stage").hidden = false;
    this.panel.show(inspection, this.shown);
    this.thumbnails.choose(inspection.id);
  }

  /** Send a verdict and open the next part. */
  judged(inspection, verdict, note, reason) {
    const { items } = this.thumbnails;
    const again = !items.some((item) => item.id === inspection.id);
    const place = items.findIndex((item) => item.id === inspection.id);
    this.said.add(inspection.id);
    if (this.returning === inspection.id) this.returning = null;
    noteGiven(inspection, verdict, judge(inspection, verdict, note, reason));
    this.last = withWaiting(inspection);
    this.thumbnails.update(items.filter((item) => item.id !== inspection.id));
    const left = this.thumbnails.items;
    this.panel.clear("");
    if (left.length) this.open(left[again ? 0 : Math.min(place, left.length - 1)]);
    this.render();
    const said = { name: nameOf(inspection), verdict: t(`verdict.${verdict}`) };
    announce(t("queue.said", { ...said, left: t("count.parts_left", { n: left.length }) }));
  }

  /** Take a part whose verdict was taken back in again: it is opened where it was the last one. */
  undone(inspection) {
    this.said.delete(inspection.id);
    if (this.last?.id === inspection.id) this.last = null;
    this.returning = inspection.id;
    if (this.shown) this.open(withWaiting({ ...inspection, verdicts: [] }));
    this.look();
  }

  /** Open the part that was judged last: a further verdict replaces the one before. */
  undo() {
    if (!this.last) return;
    this.open(this.last);
    this.thumbnails.choose(null);
    announce(t("queue.again", { name: nameOf(this.last) }));
  }

  onKey(event) {
    const acts = {
      ArrowLeft: () => this.thumbnails.step(-1),
      ArrowRight: () => this.thumbnails.step(1),
      u: () => mayJudge() && this.undo(),
    };
    if (!(event.key in acts)) return this.panel.onKey(event.key);
    acts[event.key]();
    return true;
  }
}
