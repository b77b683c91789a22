/** An image with its anomaly map over it: heat, contour and regions, zoomed and panned. */

import { Away, mapOf, pictureOf } from "./api.js";
import { h } from "./dom.js";
import { contour, heat, regions, resized } from "./heatmap.js";
import { t } from "./messages.js";
import { listen } from "./pan_zoom.js";

const LARGEST = 1024; // side of the grid on which heat, contour and regions are computed
const SIDES = [512, 1024, 2048, 4096, 8192]; // of pictures that are asked for
const ODD_ALL = 0.7; // share of an image above the level from which on its heat would only hide the part
const CLOSEST = 40; // screen pixels of a pixel at most

export class Viewer {
  /** Build into `host`; `onseen()` is told when a part, or that it has no picture, has come on screen. */
  constructor(host, onseen) {
    this.onseen = onseen;
    this.seenSince = null; // ms of the page's clock; null: it has not been on screen
    this.canvas = h("canvas", { tabindex: 0, role: "img", "aria-label": t("viewer.none") });
    this.readout = h("output", { class: "readout" });
    this.message = h("p", { class: "viewer-message" });
    const button = (label, text, act) =>
      h("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    this.tools = h(
      "div",
      { class: "viewer-tools" },
      button(t("viewer.closer"), "+", () => this.zoom(1.5)),
      button(t("viewer.farther"), "−", () => this.zoom(1 / 1.5)),
      button(t("viewer.whole"), "⤢", () => this.fit()),
    );
    host.append(this.canvas, this.message, this.tools, this.readout);
    this.opacity = 0.6;
    this.level = null;
    this.marked = null; // the region to frame
    this.clear("");
    listen(this);
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    document.addEventListener("visibilitychange", () => (document.hidden ? this.unsee() : this.draw()));
  }

  /** Count the part as not seen: it has gone from the screen. */
  unsee() {
    this.seenSince = null;
  }

  noteSeen() {
    if (!this.whole || this.seenSince !== null || document.hidden || !this.canvas.clientWidth) return;
    this.seenSince = performance.now();
    this.onseen();
  }

  /** Show nothing but a line. */
  clear(text) {
    this.inspection = this.picture = this.grid = this.layer = null;
    this.whole = false; // all there is of it can be drawn
    this.oddAll = false; // nearly all of it lies above the level
    this.unsee();
    this.lines = new Path2D();
    this.message.textContent = text;
    this.readout.textContent = "";
    this.draw();
  }

  /** Load and show an inspection's image and map; `range` are the values of the colours' ends. */
  async show(inspection, range, label) {
    if (this.inspection?.id === inspection.id) return;
    this.clear(inspection.image ? t("viewer.loading") : "");
    this.inspection = inspection;
    this.canvas.setAttribute("aria-label", label);
    if (!inspection.image) {
      this.message.textContent =
        inspection.error ?? t("viewer.removed");
      this.whole = true;
      this.draw();
      return;
    }
    this.fit();
    try {
      const [picture, map] = await Promise.all([pictureOf(inspection, this.side()), mapOf(inspection)]);
      if (this.inspection !== inspection) return;
      this.picture = picture;
      this.setMap(map, range);
      this.message.textContent = "";
      this.whole = true;
    } catch (error) {
      if (this.inspection !== inspection) return;
      const later = error instanceof Away || error.wait !== null;
      if (later) this.inspection = null; // so that showing it again tries again
      this.whole = error.status === 404; // there is no picture any more
      this.message.textContent = error.message;
    }
    this.draw();
  }

  setMap(map, range) {
    const { width, height } = this.inspection;
    const shrink = Math.min(1, LARGEST / Math.max(width, height));
    this.grid = resized(
      map,
      Math.max(1, Math.round(width * shrink)),
      Math.max(1, Math.round(height * shrink)),
    );
    this.layer = h("canvas", { width: this.grid.width, height: this.grid.height });
    const pixels = new ImageData(this.grid.width, this.grid.height);
    heat(this.grid, range, pixels.data);
    this.layer.getContext("2d").putImageData(pixels, 0, 0);
    this.setLevel(this.level);
  }

  /** Draw the heat so strongly, 0 to 1. */
  setOpacity(opacity) {
    this.opacity = opacity;
    this.draw();
  }

  /** Draw the contour at a level of the map; null: none. */
  setLevel(level) {
    this.level = level;
    this.lines = new Path2D();
    this.oddAll = false;
    if (this.grid && level !== null) {
      const { values } = this.grid;
      this.oddAll = values.reduce((above, value) => above + (value > level), 0) > ODD_ALL * values.length;
      const [sx, sy] = [this.inspection.width / this.grid.width, this.inspection.height / this.grid.height];
      const points = contour(this.grid, level);
      for (let i = 0; i < points.length; i += 4) {
        this.lines.moveTo(points[i] * sx, points[i + 1] * sy);
        this.lines.lineTo(points[i + 2] * sx, points[i + 3] * sy);
      }
    }
    this.draw();
  }

  /** Regions above the level, in pixels of the image; exact while the image is no larger than the grid. */
  regions() {
    if (!this.grid || this.level === null) return [];
    const [sx, sy] = [this.inspection.width / this.grid.width, this.inspection.height / this.grid.height];
    return regions(this.grid, this.level).map((region) => ({
      ...region,
      x0: Math.floor(region.x0 * sx),
      x1: Math.ceil(region.x1 * sx),
      y0: Math.floor(region.y0 * sy),
      y1: Math.ceil(region.y1 * sy),
      area_px: Math.round(region.area_px * sx * sy),
    }));
  }

  /** Frame a region; null: none. */
  mark(region) {
    this.marked = region;
    this.draw();
  }

  /** Zoom about a point of the canvas; its centre by default. */
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    if (!this.inspection?.width) return;
    const whole = this.wholeScale();
    const scale = Math.min(Math.max(this.scale * factor, whole), Math.max(CLOSEST, whole));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.settle();
  }

  /** Show the whole image. */
  fit() {
    if (!this.inspection?.width) return;
    this.scale = this.wholeScale();
    this.x = this.y = 0;
    this.settle();
  }

  /** Go close to a region. */
  lookAt({ x0, y0, x1, y1 }) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const fills = 0.4 * Math.min(width / (x1 - x0), height / (y1 - y0));
    this.scale = Math.max(this.wholeScale(), Math.min(CLOSEST / 4, fills));
    this.x = width / 2 - ((x0 + x1) / 2) * this.scale;
    this.y = height / 2 - ((y0 + y1) / 2) * this.scale;
    this.settle();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.settle();
  }

  wholeScale() {
    const { width, height } = this.inspection;
    return Math.min(this.canvas.clientWidth / width, this.canvas.clientHeight / height) || 1;
  }

  /** Keep the image within sight, and get a finer picture when this one is too coarse. */
  settle() {
    const { width, height } = this.inspection;
    const place = (offset, image, room) =>
      image <= room ? (room - image) / 2 : Math.min(0, Math.max(room - image, offset));
    this.x = place(this.x, width * this.scale, this.canvas.clientWidth);
    this.y = place(this.y, height * this.scale, this.canvas.clientHeight);
    // one finger scrolls the page while the whole image is in sight, and the image when it is not
    this.zoomed = this.scale > this.wholeScale() * 1.001;
    this.canvas.classList.toggle("zoomed", this.zoomed);
    this.draw();
    if (this.picture && this.side() > Math.max(this.picture.width, this.picture.height)) this.sharpen();
  }

  side() {
    const { width, height } = this.inspection;
    const longest = Math.max(width, height, 16);
    const needed = longest * Math.min(1, this.scale * devicePixelRatio);
    return Math.min(SIDES.find((side) => side >= needed) ?? SIDES.at(-1), longest);
  }

  async sharpen() {
    const { inspection } = this;
    const side = this.side();
    if (this.asked === inspection.id + side) return;
    this.asked = inspection.id + side;
    try {
      const picture = await pictureOf(inspection, side);
      if (this.inspection !== inspection) return;
      this.picture = picture;
      this.draw();
    } catch {
      /* the coarser picture stays */
    }
    this.asked = null;
  }

  resize() {
    const whole = this.inspection?.width && !this.zoomed;
    this.canvas.width = Math.round(this.canvas.clientWidth * devicePixelRatio);
    this.canvas.height = Math.round(this.canvas.clientHeight * devicePixelRatio);
    if (whole) this.fit();
    else if (this.inspection?.width) this.settle();
    this.paint(); // at once: a canvas of a new size is empty
  }

  draw() {
    this.frame ??= requestAnimationFrame(() => this.paint());
  }

  paint() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.picture) return this.noteSeen();
    const { width, height } = this.inspection;
    const scale = this.scale * devicePixelRatio;
    context.setTransform(scale, 0, 0, scale, this.x * devicePixelRatio, this.y * devicePixelRatio);
    context.imageSmoothingQuality = "high";
    context.imageSmoothingEnabled = scale < 3; // closer, pixels are shown as they are
    context.drawImage(this.picture, 0, 0, width, height);
    this.noteSeen();
    if (!this.layer) return;
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "low"; // bilinear, as the map itself is resized
    context.globalAlpha = this.opacity;
    context.drawImage(this.layer, 0, 0, width, height);
    context.globalAlpha = 1;
    if (this.oddAll) this.frameAll(context);
    else this.stroke(context, this.lines, 1.5 / this.scale);
    if (this.marked) this.frameRegion(context, this.marked, 6 / this.scale);
  }

  /** White on black is seen on every picture and every colour of the heat. */
  stroke(context, path, width) {
    for (const [style, wide] of [
      ["rgb(0 0 0 / 75%)", 2.6 * width],
      ["#fff", width],
    ]) {
      context.strokeStyle = style;
      context.lineWidth = wide;
      context.stroke(path);
    }
  }

  /** An outline along the border of the image, in the place of a contour. */
  frameAll(context) {
    const { width, height } = this.inspection;
    const wide = 6 / this.scale;
    const path = new Path2D();
    path.rect(wide, wide, width - 2 * wide, height - 2 * wide);
    this.stroke(context, path, wide / 2);
  }

  frameRegion(context, { x0, y0, x1, y1 }, room) {
    const path = new Path2D();
    path.roundRect(x0 - room, y0 - room, x1 - x0 + 2 * room, y1 - y0 + 2 * room, room);
    this.stroke(context, path, 2.5 / this.scale);
  }
}
