// The jobs: a row of thumbnails, kept up to date by the server's events; the selected one is on the stage.
import { call, uploaded } from "./api.js";
import { Stage } from "./stage.js";
import { mark } from "./words.js";

const $ = (id) => document.getElementById(id);
const FINAL = ["completed", "failed", "cancelled"];
const TITLE = document.title;

export class Jobs {
  constructor(actions) {
    this.known = new Map();
    this.streams = new Map();
    this.last = null;
    this.selected = null;
    this.stage = new Stage({ ...actions, cancel: (job) => this.cancel(job), remove: (job) => this.remove(job) });
    $("more").onclick = () => actions.trying(() => this.history());
  }

  async history() {
    const query = new URLSearchParams({ limit: 12, ...(this.last ? { after: this.last } : {}) });
    const page = await call("GET", `/v1/videos?${query}`);
    for (const job of page.data) this.show(job);
    this.last = page.last_id ?? this.last;
    $("more").hidden = !page.has_more;
    if (!this.selected && page.data.length) this.select(page.data[0].id);
  }

  add(job) {
    this.show(job, true);
    this.select(job.id);
  }

  select(id) {
    this.selected = id;
    for (const [each, { item }] of this.known) {
      item.firstElementChild.setAttribute("aria-current", String(each === id));
    }
    this.stage.show(id === null ? null : this.known.get(id));
  }

  show(job, first = false) {
    const entry = this.known.get(job.id) ?? this.enter(job, first);
    entry.job = job;
    this.draw(entry);
    if (FINAL.includes(job.status)) this.unfollow(job.id);
    else this.follow(job.id);
    if (job.id === this.selected) this.stage.show(entry);
  }

  enter(job, first) {
    const item = $("job-template").content.firstElementChild.cloneNode(true);
    item.dataset.id = job.id;
    item.firstElementChild.onclick = () => {
      this.select(job.id);
      if (matchMedia("(max-width: 60rem)").matches) $("stage").scrollIntoView({ block: "nearest" });
    };
    first ? $("jobs").prepend(item) : $("jobs").append(item);
    const entry = { job, item, picture: picture(job) };
    this.known.set(job.id, entry);
    return entry;
  }

  async draw({ job, item, picture }) {
    item.className = `job ${job.status}`;
    item.querySelector(".name").textContent = job.prompt;
    item.querySelector(".mark").textContent = mark(job);
    const running = [...this.known.values()].find((each) => each.job.status === "in_progress");
    document.title = running ? `${running.job.progress} % – ${TITLE}` : TITLE;
    const thumb = item.querySelector(".thumb");
    const ready = job.status === "completed" && !job.expired;
    const source = ready ? `/v1/videos/${job.id}/content?variant=thumbnail` : job.expired ? null : await picture;
    if (source && thumb.dataset.source !== source) {
      thumb.dataset.source = source;
      const image = Object.assign(new Image(), { src: source, alt: "", loading: "lazy" });
      image.onerror = () => image.remove();
      thumb.replaceChildren(image);
    }
  }

  follow(id) {
    if (this.streams.has(id)) return;
    const stream = new EventSource(`/v1/videos/${id}/events`);
    stream.addEventListener("video", (event) => this.show(JSON.parse(event.data)));
    stream.addEventListener("preview", (event) => this.preview(id, `data:image/jpeg;base64,${event.data}`));
    stream.onerror = () => {
      if (stream.readyState !== EventSource.CLOSED) return; // it tries again by itself
      this.unfollow(id);
      setTimeout(() => call("GET", `/v1/videos/${id}`).then((job) => this.show(job), () => {}), 3000);
    };
    this.streams.set(id, stream);
  }

  preview(id, source) {
    const entry = this.known.get(id);
    if (!entry) return;
    entry.preview = source;
    if (id === this.selected) this.stage.show(entry);
  }

  unfollow(id) {
    this.streams.get(id)?.close();
    this.streams.delete(id);
  }

  async cancel(job) {
    this.show(await call("POST", `/v1/videos/${job.id}/cancel`));
  }

  async remove(job) {
    await call("DELETE", `/v1/videos/${job.id}`);
    const { item } = this.known.get(job.id);
    const next = (item.nextElementSibling ?? item.previousElementSibling)?.dataset.id ?? null;
    item.remove();
    this.known.delete(job.id);
    this.select(next);
    (next ? this.known.get(next).item.firstElementChild : $("prompt")).focus();
  }
}

// The uploaded picture, for a job that has no video yet; null where there is none.
async function picture(job) {
  if (!job.has_image || job.expired || job.status === "completed") return null;
  return uploaded(job, "image").then((file) => URL.createObjectURL(file), () => null);
}
