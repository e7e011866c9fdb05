// A part of the video on the stage, chosen with two handles, that is made again as a video of its own.
import { call } from "./api.js";
import { Mistake, clear } from "./messages.js";

const $ = (id) => document.getElementById(id);
const SHORTEST = 0.1;
const USUAL = 1;

export class Part {
  constructor({ trying, made }) {
    this.made = made;
    this.source = null;
    this.video = null;
    for (const id of ["from", "to"]) {
      $(id).oninput = () => this.move(id, +$(id).value);
      $(`${id}-here`).onclick = () => this.move(id, this.video.currentTime);
    }
    $("part-play").onclick = () => this.play();
    $("part-make").onclick = () => trying(() => this.make());
  }

  // Of a finished job, or of a file; `video` plays it.
  offer(source, video) {
    $("part").hidden = !source;
    if (!source || (this.source?.key === source.key && this.video === video)) return;
    this.source = source;
    this.video = video;
    $("part").open = Boolean(source.file);
    $("part-prompt").value = source.prompt;
    $("part-audio").value = "";
    video.addEventListener("timeupdate", () => this.stopAtEnd());
    video.addEventListener("loadedmetadata", () => this.measure(video));
    if (video.readyState) this.measure(video);
  }

  measure(video) {
    if (video !== this.video) return;
    const longest = Math.min(video.duration, this.source.seconds); // the sound may last longer than the pictures
    for (const id of ["from", "to"]) $(id).max = longest;
    $("from").value = 0;
    $("to").value = Math.min(USUAL, longest);
    this.draw();
  }

  // The other handle gives way; the player shows where this one is.
  move(id, seconds) {
    const longest = +$("to").max;
    const at = id === "from" ? Math.min(seconds, longest - SHORTEST) : Math.max(seconds, SHORTEST);
    $(id).value = at;
    if (id === "from") $("to").value = Math.max(+$("to").value, at + SHORTEST);
    else $("from").value = Math.min(+$("from").value, at - SHORTEST);
    clear();
    this.playing = false;
    this.video.pause();
    this.video.currentTime = +$(id).value;
    this.draw();
  }

  draw() {
    const [from, to, longest] = [+$("from").value, +$("to").value, +$("to").max || 1];
    for (const [id, seconds] of [["from", from], ["to", to]]) {
      $(`${id}-out`).textContent = inSeconds(seconds);
      $(id).setAttribute("aria-valuetext", inSeconds(seconds));
    }
    $("part-shown").style.left = `${(100 * from) / longest}%`;
    $("part-shown").style.width = `${(100 * (to - from)) / longest}%`;
  }

  play() {
    this.playing = true;
    this.video.currentTime = +$("from").value;
    this.video.play();
  }

  stopAtEnd() {
    if (!this.playing || this.video.currentTime < +$("to").value) return;
    this.playing = false;
    this.video.pause();
  }

  async make() {
    const { job, file } = this.source;
    if (!this.video.duration) throw new Mistake("from", "This browser cannot play the video: give an mp4.");
    const form = new FormData();
    if (file) form.append("retake[video]", file, "video");
    else form.append("retake[video]", job.id);
    form.append("retake[start]", $("from").value);
    form.append("retake[end]", $("to").value);
    form.append("seed", Math.floor(Math.random() * 2 ** 31));
    if ($("part-prompt").value.trim()) form.append("prompt", $("part-prompt").value);
    const voice = $("part-audio").files[0];
    if (voice) form.append("audio", voice, "speech");
    $("part-make").disabled = true;
    try {
      this.made(await call("POST", "/v1/videos", form));
    } catch (error) {
      throw error.param === "audio" ? new Mistake("part-audio", error.message) : error;
    } finally {
      $("part-make").disabled = false;
    }
  }
}

function inSeconds(seconds) {
  return `${seconds.toFixed(2)} s`;
}
