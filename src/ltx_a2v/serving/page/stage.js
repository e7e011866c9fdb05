// The stage: the selected job, large.
import { acceptDrops } from "./drops.js";
import { inPageWords } from "./messages.js";
import { Part } from "./part.js";
import { facts, inWords, syncInWords } from "./words.js";

const $ = (id) => document.getElementById(id);
const ENDED = ["completed", "failed", "cancelled"];

export class Stage {
  constructor({ trying, reuse, cancel, remove, made, opened }) {
    this.trying = trying;
    this.shown = null;
    this.choice = new Part({ trying, made });
    const open = (file) => {
      opened();
      this.showFile(file);
    };
    $("video-file").onchange = ({ target }) => target.files[0] && open(target.files[0]);
    acceptDrops($("stage"), open);
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
    if (!entry) this.choice.offer(null);
    if (!entry) return this.fill("empty", paragraph("Your videos appear here, and are still here when you come back."));
    this.describe(entry.job);
    this.draw(entry);
  }

  // A video that is no job's, of which a part can be made again.
  showFile(file) {
    $("about").hidden = false;
    $("stage").className = "";
    this.job = null;
    say(this.part(".state"), file.name);
    for (const name of [".prompt", ".facts"]) this.part(name).textContent = "";
    for (const name of [".measured", ".marked", "progress", ".cancel", ".delete", ".again", ".download"]) this.part(name).hidden = true;
    const url = URL.createObjectURL(file);
    this.fill(url, () => player(url, "", file.name));
    this.choice.offer({ key: url, file, prompt: "", seconds: Infinity }, $("screen").querySelector("video"));
  }

  describe(job) {
    const ended = ENDED.includes(job.status);
    const playable = job.status === "completed" && !job.expired;
    say(this.part(".state"), inWords(job, job.error && inPageWords(job.error)));
    this.part(".prompt").textContent = job.result?.prompt ?? job.prompt; // with its style, once it is known
    this.part(".facts").textContent = facts(job);
    this.part(".measured").hidden = !job.result?.sync;
    this.part(".sync").textContent = job.result?.sync ? syncInWords(job.result.sync) : "";
    this.part(".marked").hidden = !(playable && job.result.marks);
    this.part("progress").hidden = job.status !== "in_progress";
    this.part("progress").value = job.progress;
    this.part(".cancel").hidden = ended;
    this.part(".cancel").disabled = job.cancelling;
    this.part(".delete").hidden = !ended;
    this.part(".again").hidden = !ended || job.expired || Boolean(job.settings.retake);
    this.part(".download").hidden = !playable;
    if (playable) Object.assign(this.part(".download"), { href: content(job), download: `${job.id}.mp4` });
  }

  draw({ job, picture, preview }) {
    if (job.status === "completed" && !job.expired) {
      this.fill(`${job.id} video`, () => this.goOn(job, playerOf(job)));
      return this.choice.offer({ key: job.id, job, prompt: job.prompt, seconds: Number(job.seconds) }, $("screen").querySelector("video"));
    }
    this.choice.offer(null);
    if (job.window > 1) return this.fill(`${job.id} part ${job.window}`, () => this.finishedPart(job));
    if (job.expired) return this.fill(`${job.id} expired`, paragraph("Removed after its time."));
    this.fill(`${job.id} picture`, paragraph(whileWaiting(job)));
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
    const video = playerOf(job, `${content(job)}?partial=1&window=${job.window}`);
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

function playerOf(job, src = content(job)) {
  const poster = job.status === "completed" ? `${content(job)}?variant=thumbnail` : "";
  return player(src, poster, job.prompt.slice(0, 120));
}

function player(src, poster, label) {
  const video = document.createElement("video");
  Object.assign(video, { src, poster, controls: true, loop: true, preload: "metadata", playsInline: true });
  video.setAttribute("aria-label", label);
  return video;
}

function whileWaiting(job) {
  if (job.settings.retake) return "A part of a video is made again.";
  return job.has_image ? "" : "No picture was given.";
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
