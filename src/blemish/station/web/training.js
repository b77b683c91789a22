/** Training from the page: good images in, a job, how far it is, and the model that it makes. */

import { Away, Refused, ask, get, inOrder, link, post } from "./api.js";
import { Keyed, at, h, mark, toast } from "./dom.js";
import { percent, timeLeft, when } from "./format.js";
import { t } from "./messages.js";
import { mayEngineer } from "./state.js";
import { readable } from "./uploads.js";

const UNFINISHED = ["collecting", "waiting", "running"];
const SURE = 5000; // ms in which a second press cancels a job that runs
const getJobs = inOrder("/v1/trainings");

export class Training {
  /** `onchange()` looks at jobs and models anew. */
  constructor(onchange) {
    Object.assign(this, { onchange, form: at("train-form"), jobs: [], methods: {}, job: null });
    this.forget();
    this.rows = new Keyed(
      at("jobs"),
      (job) => job.id,
      () => new JobRow(onchange),
    );
    this.form.addEventListener("submit", (event) => this.submit(event));
    this.form.elements.method.addEventListener("change", () => this.showPresets());
    this.form.elements.source.addEventListener("change", () => this.render());
    at("choose-good").addEventListener("click", () => at("good-images").click());
    at("good-images").addEventListener("change", (event) => {
      this.take(event.target.files);
      event.target.value = "";
    });
    at("forget-chosen").addEventListener("click", () => {
      this.forget();
      this.render();
      at("choose-good").focus();
    });
    addEventListener("beforeunload", (event) => {
      if (this.sending) event.preventDefault(); // the browser asks whether to leave
    });
  }

  /** Whether a job moves on by itself. */
  get busy() {
    return this.jobs.some((job) => job.state === "waiting" || job.state === "running");
  }

  /** Ask what can be trained here, once. */
  async choices() {
    if (!mayEngineer() || Object.keys(this.methods).length) return;
    try {
      const { methods, sources } = await get("/v1/trainings/choices");
      this.methods = methods;
      const missing = Object.keys(methods).length === 0;
      at("train-missing").hidden = !missing;
      this.form.hidden = missing;
      options(this.form.elements.method, Object.keys(methods));
      if ("auto" in methods) this.form.elements.method.value = "auto"; // what the service takes unless told
      this.form.elements.source.replaceChildren(
        h("option", { value: "" }, t("train.here")),
        ...sources.map((name) => h("option", { value: name }, t("train.folder", { name }))),
      );
      at("source-row").hidden = sources.length === 0;
      this.showPresets();
    } catch (error) {
      if (!(error instanceof Away) && error.status !== 401) toast(error.message);
    }
  }

  showPresets() {
    const { method, preset } = this.form.elements;
    const presets = this.methods[method.value] ?? [];
    options(preset, presets);
    if (presets.includes("default")) preset.value = "default";
    this.render();
  }

  async look() {
    try {
      const jobs = await getJobs();
      if (!jobs) return;
      this.jobs = jobs;
    } catch (error) {
      if (!(error instanceof Away) && error.status !== 401) toast(error.message);
      return;
    }
    const own = this.jobs.find((job) => job.id === this.job?.id);
    if (own && own.state !== "collecting") Object.assign(this, { job: null, sent: 0, refused: [] }); // cancelled
    this.rows.update([...this.jobs].reverse().map((job) => ({ ...job, here: job.id === this.job?.id })));
    at("jobs-none").hidden = this.jobs.length > 0;
    this.render();
  }

  // --- images -------------------------------------------------------------------------------------------

  take(files) {
    if (!files.length || !mayEngineer() || this.form.hidden) return;
    if (!this.job) this.form.elements.source.value = "";
    else if (this.job.source !== null) return;
    this.files.push(...files);
    this.render();
  }

  forget() {
    Object.assign(this, { files: [], sent: 0, refused: [] });
  }

  render() {
    const { name, method, preset, source } = this.form.elements;
    const left = this.files.length;
    for (const field of [name, method, preset, source]) field.disabled = Boolean(this.job);
    at("train-files").hidden = source.value !== "";
    at("chosen").textContent = this.sent
      ? t("train.sent", { sent: this.sent, n: this.sent + left })
      : left
        ? t("train.chosen", { n: left })
        : t("train.or_drop");
    at("forget-chosen").hidden = !left || this.sending;
    at("sent").hidden = !this.sent;
    at("sent").max = this.sent + left;
    at("sent").value = this.sent;
    at("train-refused").replaceChildren(
      ...this.refused
        .slice(-20)
        .map(({ name, text }) => h("li", {}, text.includes(name) ? text : `${name}: ${text}`)),
    );
    if (this.sending) at("train-start").setAttribute("aria-disabled", true);
    else at("train-start").removeAttribute("aria-disabled");
  }

  // --- a job --------------------------------------------------------------------------------------------

  async submit(event) {
    event.preventDefault();
    if (!mayEngineer() || this.sending) return;
    this.sending = true;
    this.refused = [];
    at("train-error").textContent = "";
    try {
      await this.start();
    } catch (error) {
      at("train-error").textContent = error.message;
    }
    this.sending = false;
    await this.onchange();
  }

  /** Make the job unless there is one that lacked images, send what was chosen, and start it. */
  async start() {
    const { name, method, preset, source } = this.form.elements;
    this.job ??= await post("/v1/trainings", {
      name: name.value.trim(),
      method: method.value,
      preset: preset.value,
      source: source.value || null,
    });
    const { id } = this.job;
    if (source.value === "") await this.send(id);
    if (this.job?.id !== id) return; // it was cancelled meanwhile
    if (this.refused.length) {
      throw new Error(t("train.refused", { n: this.refused.length }));
    }
    await post(`/v1/trainings/${id}/start`, {});
    this.job = null;
    this.forget();
    name.value = "";
  }

  /** Send the chosen images one after another; one that is no image is noted, the others go on. */
  async send(id) {
    while (this.files.length && this.job?.id === id) {
      const [file] = this.files;
      this.render();
      try {
        await ask(`/v1/trainings/${id}/images`, { method: "POST", body: await readable(file) });
        this.sent += 1;
      } catch (error) {
        if (await waited(error)) continue;
        if (error.status === 401 || error.status === 403) throw error;
        if (this.job?.id === id) this.refused.push({ name: file.name, text: error.message });
      }
      this.files.shift();
    }
    this.render();
  }
}

/** Wait until the same can be tried again; false where that is of no use. */
async function waited(error) {
  if (error instanceof Away) await new Promise((back) => link.addEventListener("back", back, { once: true }));
  else if (error instanceof Refused && error.wait !== null)
    await new Promise((over) => setTimeout(over, error.wait * 1000));
  else return false;
  return true;
}

const options = (select, names) =>
  select.replaceChildren(...names.map((name) => h("option", { value: name }, name)));

/** A job: what was wanted, how far it is, what became of it. */
class JobRow {
  constructor(onchange) {
    this.onchange = onchange;
    this.head = h("div", { class: "job-head" });
    this.about = h("small", {});
    this.bar = h("progress", { max: 1 });
    this.error = h("p", { class: "error-line" });
    this.start = h("button", { type: "button", class: "small", onclick: () => this.tell("start") }, t("job.start"));
    this.cancel = h("button", { type: "button", class: "small", onclick: () => this.askFirst() }, t("job.cancel"));
    this.model = h("a", { class: "button small" }, t("job.model"));
    this.element = h(
      "li",
      { class: "card job" },
      this.head,
      this.about,
      this.bar,
      this.error,
      h(
        "p",
        { class: "links" },
        this.model,
        h("span", { class: "links may-engineer" }, this.start, this.cancel),
      ),
    );
  }

  update(job) {
    this.job = job;
    const unfinished = UNFINISHED.includes(job.state);
    const marks = { done: "accepted", failed: "failed" };
    this.head.replaceChildren(
      ...(marks[job.state] ? [mark(marks[job.state])] : []),
      h("b", {}, job.name),
      h("span", {}, stateOf(job)),
    );
    const images = job.source === null ? t("count.images", { n: job.images }) : t("train.folder", { name: job.source });
    this.about.textContent = `${job.method}, ${job.preset} · ${images} · ${when(job.created)}`;
    this.bar.hidden = job.state !== "running";
    this.bar.setAttribute("aria-label", t("job.progress", { name: job.name }));
    if (job.what === "training") this.bar.value = job.share;
    else this.bar.removeAttribute("value"); // decoding comes before: the bar only says that it works
    if (this.error.textContent !== (job.error ?? "")) this.error.textContent = job.error ?? "";
    this.error.hidden = !job.error;
    this.start.hidden = job.state !== "collecting" || job.here;
    this.cancel.hidden = !unfinished;
    this.model.hidden = !job.model;
    this.model.href = `#models/${job.model}`;
  }

  /** A job that runs has cost time: it takes a second press. */
  askFirst() {
    if (this.job.state !== "running" || this.sure) return this.tell("cancel");
    this.sure = true;
    this.cancel.textContent = t("job.sure");
    setTimeout(() => {
      this.sure = false;
      this.cancel.textContent = t("job.cancel");
    }, SURE);
  }

  async tell(what) {
    if (!mayEngineer()) return;
    try {
      await post(`/v1/trainings/${this.job.id}/${what}`, {});
    } catch (error) {
      toast(error.message);
    }
    await this.onchange();
  }
}

function stateOf(job) {
  if (job.state === "collecting" && job.here) return t("job.taking");
  if (job.state !== "running") return t(`job.${job.state}`);
  const running = [
    t(`job.${job.what ?? "beginning"}`),
    job.share === null ? null : percent(job.share),
    job.seconds_left === null ? null : timeLeft(job.seconds_left),
  ];
  return running.filter(Boolean).join(", ");
}
