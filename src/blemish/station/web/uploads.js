/**
 * Images on their way: four at a time, the others wait; each answer or refusal is told.
 *
 * Each has a key, so that one that is sent again, because its answer was lost, is recorded once. One that takes
 * longer than the station lets a request wait is not sent again: its answer is asked for.
 */

import { Away, Refused, ask, link } from "./api.js";
import { newKey } from "./keys.js";
import { t } from "./messages.js";

const AT_ONCE = 4;
const TRIES = 3; // of an image that was taken and then lost
const ASK_AGAIN = 1000; // ms between two questions for an answer

/** Tells "change", and "inspected" with each inspection. */
export class Uploads extends EventTarget {
  constructor() {
    super();
    this.waiting = [];
    this.flying = 0;
    this.done = 0;
    this.failures = []; // {name, text}
    link.addEventListener("back", () => this.fly());
    addEventListener("beforeunload", (event) => {
      if (this.left) event.preventDefault(); // the browser asks whether to leave
    });
  }

  /** Images without an answer. */
  get left() {
    return this.waiting.length + this.flying;
  }

  /** Images since the tray was cleared. */
  get total() {
    return this.left + this.done + this.failures.length;
  }

  /** Send files to a model (null: the first), as pictures of a part and as its view (null: not said). */
  add(files, model, part, view) {
    if (!this.left && !this.failures.length) this.done = 0;
    this.waiting.push(...Array.from(files, (file) => ({ file, model, part, view, key: newKey(), tries: 0 })));
    this.changed();
    this.fly();
  }

  /** Forget what is done. */
  clear() {
    this.done = 0;
    this.failures = [];
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** Send as many as may be. */
  fly() {
    while (this.flying < AT_ONCE && this.waiting.length) this.send(this.waiting.shift());
  }

  async send(upload) {
    this.flying += 1;
    let pause = 0;
    try {
      const inspection = await this.request(upload);
      this.done += 1;
      this.dispatchEvent(new CustomEvent("inspected", { detail: inspection }));
    } catch (error) {
      pause = this.failed(upload, error);
    }
    this.flying -= 1;
    this.changed();
    if (pause === 0) this.fly();
    else if (pause < Infinity) setTimeout(() => this.fly(), pause * 1000);
  }

  /** Keep an upload for later, or its error; return the seconds to wait before the next. */
  failed(upload, error) {
    const locked = error.status === 401;
    if (error instanceof Away || locked || (error instanceof Refused && error.wait !== null)) {
      this.waiting.unshift(upload);
      return error instanceof Refused && !locked ? error.wait : Infinity;
    }
    if (error instanceof Lost && ++upload.tries < TRIES) {
      this.waiting.unshift(upload);
      return 0;
    }
    this.failures.push({ name: upload.file.name, text: error.message });
    return 0;
  }

  async request({ file, model, part, view, key }) {
    const form = new FormData();
    form.append("image", await readable(file), file.name || t("upload.pasted"));
    if (model) form.append("model", model);
    if (part) form.append("part", part);
    if (view) form.append("view", view);
    const headers = { "X-Blemish-Page": "1", "Idempotency-Key": key };
    const response = await ask("/v1/inspections", { method: "POST", headers, body: form });
    return response.status === 202 ? answerOf(await response.json()) : response.json();
  }
}

/** An image that was taken, and came to nothing. */
class Lost extends Error {}

/** Wait for the answer to an image that the station has taken. */
async function answerOf({ id }) {
  for (;;) {
    await new Promise((go) => setTimeout(go, ASK_AGAIN));
    let response;
    try {
      response = await ask(`/v1/inspections/${id}`);
    } catch (error) {
      throw error.status === 404 ? new Lost(t("upload.lost")) : error;
    }
    const answer = await response.json();
    if (response.status === 202) continue;
    if (answer.error) throw new Error(answer.error);
    return answer;
  }
}

/** The file's bytes, so that one that is gone from the disk is not taken for a station that is away. */
export async function readable(file) {
  try {
    return new Blob([await file.arrayBuffer()]);
  } catch {
    throw new Error(t("upload.unreadable", { name: file.name }));
  }
}
