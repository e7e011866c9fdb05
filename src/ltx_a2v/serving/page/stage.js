// The stage: the selected job, large.
import { inPageWords } from "./messages.js";
import { facts, inWords } from "./words.js";

const $ = (id) => document.getElementById(id);
const ENDED = ["completed", "failed", "cancelled"];

export class Stage {
  constructor({ trying, reuse, cancel, remove }) {
    this.trying = trying;
    this.shown = null;
    const on = (name, act) => (this.part(name).onclick = () => trying(() => act(this.job)));
    on(".cancel", cancel);
    on(".again", reuse);
    on(".delete", remove);
  }

  part(selector) {
    return $("stage").querySelector(selector);
  }

  show(entry) {
    $("about").hidden = !entry;
    $("stage").className = entry ? entry.job.status : "";
    this.job = entry?.job;
    if (!entry) return this.fill("empty", paragraph("Your videos appear here, and are still here when you come back."));
    this.describe(entry.job);
    this.draw(entry);
  }

  describe(job) {
    const ended = ENDED.includes(job.status);
    const playable = job.status === "completed" && !job.expired;
    say(this.part(".state"), inWords(job, job.error && inPageWords(job.error)));
    this.part(".prompt").textContent = job.result?.prompt ?? job.prompt; // with its style, once it is known
    this.part(".facts").textContent = facts(job);
    this.part(".marked").hidden = !(playable && job.result.marks);
    this.part("progress").hidden = job.status !== "in_progress";
    this.part("progress").value = job.progress;
    this.part(".cancel").hidden = ended;
    this.part(".cancel").disabled = job.cancelling;
    this.part(".delete").hidden = !ended;
    this.part(".again").hidden = !ended || job.expired;
    this.part(".download").hidden = !playable;
    if (playable) Object.assign(this.part(".download"), { href: content(job), download: `${job.id}.mp4` });
  }

  draw({ job, picture, preview }) {
    if (job.status === "completed" && !job.expired) return this.fill(`${job.id} video`, () => this.goOn(job, player(job)));
    if (job.window > 1) return this.fill(`${job.id} part ${job.window}`, () => this.finishedPart(job));
    if (job.expired) return this.fill(`${job.id} expired`, paragraph("Removed after its time."));
    this.fill(`${job.id} picture`, paragraph(job.has_image ? "" : "No picture was given."));
    picture.then((source) => {
      if (source && this.shown === `${job.id} picture`) this.fill(`${job.id} shown`, () => still(source));
      if (this.job?.id === job.id) this.sketch(this.job, preview);
    });
  }

  // What the video looks like so far, small, in the corner of its picture.
  sketch(job, source) {
    const shown = $("screen").querySelector(".sketch");
    if (!source || job.status !== "in_progress") return shown?.remove();
    if (shown) return (shown.src = source);
    const image = Object.assign(new Image(), { src: source, className: "sketch", alt: "What the video looks like so far, roughly" });
    $("screen").append(image);
  }

  finishedPart(job) {
    const video = player(job, `${content(job)}?partial=1&window=${job.window}`);
    video.loop = false;
    return this.goOn(job, video);
  }

  // Where the shorter part of the same long video was.
  goOn(job, video) {
    const before = $("screen").querySelector("video");
    if (before && this.playing === job.id) {
      video.currentTime = before.currentTime;
      video.autoplay = !before.paused || before.ended;
      video.muted = before.muted;
    }
    this.playing = job.id;
    return video;
  }

  // Only what changes is replaced: a video goes on playing while other jobs run.
  fill(what, make) {
    if (this.shown === what || (this.shown === what.replace(" picture", " shown") && what.endsWith(" picture"))) return;
    this.shown = what;
    $("screen").replaceChildren(make());
  }
}

function content(job) {
  return `/v1/videos/${job.id}/content`;
}

function player(job, src = content(job)) {
  const video = document.createElement("video");
  const poster = job.status === "completed" ? `${content(job)}?variant=thumbnail` : "";
  Object.assign(video, { src, poster, controls: true, loop: true, preload: "metadata", playsInline: true });
  video.setAttribute("aria-label", job.prompt.slice(0, 120));
  return video;
}

function still(source) {
  const image = Object.assign(new Image(), { src: source, alt: "The picture of this video" });
  image.onerror = () => image.remove();
  return image;
}

function paragraph(text) {
  return () => Object.assign(document.createElement("p"), { textContent: text });
}

function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
