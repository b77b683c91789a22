/** A region is drawn over a good part, by pointer or keys: where images are to count from then on. */

import { get, pictureOf } from "./api.js";
import { announce, h } from "./dom.js";
import { t } from "./messages.js";

const SIDE = 1024; // longer side in pixels of what is drawn on
const MOST = 4096; // longest side in pixels of what is sent
const NEAR = 14; // screen pixels around a corner in which it is taken hold of
const STEP = 0.02; // of a side, by an arrow key; a fifth of it with Shift
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class RegionEditor {
  /** `onsave(region)` gets the size of an image and the polygon's corners in its pixels. */
  constructor(onsave) {
    this.onsave = onsave;
    this.picture = this.part = null;
    this.corners = []; // as shares of width and height
    this.cursor = [0.5, 0.5];
    this.held = null; // the number of the corner that the pointer holds
    this.canvas = h("canvas", {
      tabindex: 0,
      role: "application",
      "aria-label": t("region.canvas"),
      onpointerdown: (event) => this.press(event),
      onpointermove: (event) => this.move(event),
      onpointerup: () => (this.held = null),
      onpointercancel: () => (this.held = null),
      onkeydown: (event) => this.key(event),
      onfocus: () => this.draw(),
      onblur: () => this.draw(),
    });
    const button = (text, act) => h("button", { type: "button", class: "small", onclick: act }, text);
    this.undo = button(t("region.undo"), () => this.set(this.corners.slice(0, -1)));
    this.again = button(t("region.again"), () => this.set([]));
    this.save = h("button", { type: "button", onclick: () => this.send() }, t("region.save"));
    this.state = h("p", { class: "state" });
    this.body = h(
      "div",
      { hidden: true },
      this.canvas,
      h("div", { class: "bar" }, this.undo, this.again, this.save),
    );
    this.element = h(
      "details",
      { class: "draw-region may-engineer", ontoggle: () => this.element.open && this.load() },
      h("summary", {}, t("region.title")),
      h("p", {}, t("region.text")),
      this.state,
      this.body,
    );
  }

  /** Draw for this model from now on; another version of it begins anew. */
  update(model) {
    if (this.digest === model.digest) return;
    this.digest = model.digest;
    this.picture = null;
    this.element.open = false;
  }

  /** Show the newest part that was accepted. */
  async load() {
    if (this.picture) return;
    this.body.hidden = true;
    const { digest } = this;
    const turn = (this.turn = {}); // closed and opened again, an earlier answer would take corners away
    try {
      const found = await get("/v1/inspections", { model: digest, decision: "accepted", limit: 20 });
      const part = found.items.find((each) => each.image);
      const picture = part && (await pictureOf(part, SIDE));
      if (turn !== this.turn || digest !== this.digest) return;
      if (!part) {
        this.state.textContent = t("region.no_part");
        return;
      }
      [this.part, this.picture] = [part, picture];
    } catch (error) {
      this.state.textContent = error.message;
      return;
    }
    const larger = Math.max(1, SIDE / Math.max(this.picture.width, this.picture.height));
    this.canvas.width = Math.round(this.picture.width * larger);
    this.canvas.height = Math.round(this.picture.height * larger);
    this.body.hidden = false;
    this.set([]);
  }

  set(corners) {
    this.corners = corners;
    const few = corners.length < 3;
    for (const [button, off] of [
      [this.undo, !corners.length],
      [this.again, !corners.length],
      [this.save, few],
    ])
      button.toggleAttribute("disabled", off);
    this.state.textContent = t(few ? "region.more" : "region.corners", { n: corners.length });
    this.draw();
  }

  add(corner) {
    this.set([...this.corners, corner]);
    announce(t("region.corners", { n: this.corners.length }));
  }

  /** Where the pointer is, as shares of width and height. */
  at(event) {
    const { clientWidth, clientHeight } = this.canvas;
    const share = (value, whole) => Math.min(1, Math.max(0, value / whole));
    return [share(event.offsetX, clientWidth), share(event.offsetY, clientHeight)];
  }

  press(event) {
    const { clientWidth, clientHeight } = this.canvas;
    const near = ([x, y]) => Math.hypot(x * clientWidth - event.offsetX, y * clientHeight - event.offsetY) < NEAR;
    this.canvas.setPointerCapture(event.pointerId);
    const found = this.corners.findIndex(near);
    if (found < 0) this.add(this.at(event));
    this.held = found < 0 ? this.corners.length - 1 : found;
  }

  move(event) {
    if (this.held === null) return;
    this.set(this.corners.with(this.held, this.at(event)));
  }

  /** Arrows move the cross; Enter and Space set a corner there, Backspace takes the last one back. */
  key(event) {
    const step = ARROWS[event.key];
    if (step) {
      const far = event.shiftKey ? STEP / 5 : STEP;
      this.cursor = this.cursor.map((value, axis) => Math.min(1, Math.max(0, value + far * step[axis])));
      this.draw();
    } else if (event.key === "Enter" || event.key === " ") this.add(this.cursor);
    else if (event.key === "Backspace") this.set(this.corners.slice(0, -1));
    else return;
    event.preventDefault();
    event.stopPropagation(); // these keys are the page's elsewhere
  }

  draw() {
    if (!this.picture) return;
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.drawImage(this.picture, 0, 0, width, height);
    const points = this.corners.map(([x, y]) => [x * width, y * height]);
    const outline = new Path2D();
    points.forEach(([x, y], i) => (i ? outline.lineTo(x, y) : outline.moveTo(x, y)));
    if (points.length > 2) {
      outline.closePath();
      const outside = new Path2D(outline);
      outside.rect(0, 0, width, height);
      context.fillStyle = "rgb(0 0 0 / 0.6)";
      context.fill(outside, "evenodd");
    }
    const pen = Math.max(1.5, width / 320);
    this.stroke(context, outline, pen);
    for (const [x, y] of points) {
      const corner = new Path2D();
      corner.arc(x, y, 2.5 * pen, 0, 2 * Math.PI);
      this.stroke(context, corner, pen);
    }
    if (document.activeElement !== this.canvas) return;
    const cross = new Path2D();
    const [x, y, arm] = [this.cursor[0] * width, this.cursor[1] * height, 7 * pen];
    cross.moveTo(x - arm, y);
    cross.lineTo(x + arm, y);
    cross.moveTo(x, y - arm);
    cross.lineTo(x, y + arm);
    this.stroke(context, cross, pen);
  }

  /** A light line in a dark one, which is seen on any part. */
  stroke(context, path, pen) {
    for (const [style, wide] of [
      ["#000", 2.5],
      ["#fff", 1],
    ]) {
      [context.strokeStyle, context.lineWidth] = [style, wide * pen];
      context.stroke(path);
    }
  }

  send() {
    const { width, height } = this.part;
    const scale = Math.min(1, MOST / Math.max(width, height));
    const size = [width, height].map((side) => Math.round(side * scale));
    const polygon = this.corners.map((corner) => corner.map((share, axis) => share * size[axis]));
    return this.onsave({ size, polygons: [polygon] });
  }
}
