/** Zooming, panning and reading values of a viewer, by wheel, pointer, fingers and keys. */

import { number } from "./format.js";

const STEPS = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };

/** Let a viewer's canvas listen. */
export function listen(viewer) {
  const { canvas } = viewer;
  canvas.addEventListener("wheel", (event) => onWheel(viewer, event), { passive: false });
  canvas.addEventListener("dblclick", (event) => {
    if (viewer.zoomed) viewer.fit();
    else viewer.zoom(4, event.offsetX, event.offsetY);
  });
  const fingers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }
  canvas.addEventListener("pointermove", (event) => onMove(viewer, event, fingers));
  canvas.addEventListener("pointerleave", () => (viewer.readout.textContent = ""));
  canvas.addEventListener("keydown", (event) => onKey(viewer, event));
}

function onWheel(viewer, event) {
  if (!viewer.inspection?.width) return;
  event.preventDefault();
  const notches = event.deltaY * (event.deltaMode ? 0.05 : 0.0015);
  viewer.zoom(Math.exp(-notches), event.offsetX, event.offsetY);
}

function onMove(viewer, event, fingers) {
  read(viewer, event);
  const before = fingers.get(event.pointerId);
  if (!before || !viewer.inspection?.width) return;
  const other = [...fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
  fingers.set(event.pointerId, event);
  if (other) pinch(viewer, before, event, other);
  else viewer.pan(event.offsetX - before.offsetX, event.offsetY - before.offsetY);
}

function pinch(viewer, before, now, other) {
  const apart = (finger) => Math.hypot(finger.offsetX - other.offsetX, finger.offsetY - other.offsetY);
  viewer.pan((now.offsetX - before.offsetX) / 2, (now.offsetY - before.offsetY) / 2);
  const [x, y] = [(now.offsetX + other.offsetX) / 2, (now.offsetY + other.offsetY) / 2];
  viewer.zoom(apart(now) / Math.max(1, apart(before)), x, y);
}

/** Pan by arrows while there is something to pan; else they are the page's. */
function onKey(viewer, event) {
  const step = STEPS[event.key];
  if (!step || !viewer.zoomed) return;
  event.preventDefault();
  event.stopPropagation();
  viewer.pan(...step);
}

/** Say where the pointer is, and what the map says there. */
function read(viewer, event) {
  if (!viewer.grid) return;
  const { width, height } = viewer.inspection;
  const { values, width: across, height: down } = viewer.grid;
  const [x, y] = [(event.offsetX - viewer.x) / viewer.scale, (event.offsetY - viewer.y) / viewer.scale];
  const inside = x >= 0 && y >= 0 && x < width && y < height;
  const value = values[Math.floor((y * down) / height) * across + Math.floor((x * across) / width)];
  viewer.readout.textContent = inside ? `x ${Math.floor(x)}  y ${Math.floor(y)}  ·  ${number(value)}` : "";
}
