// The form: its defaults, the size and length that fit, and the request that it makes.
import { call, fetchFile, uploaded } from "./api.js";
import { Picture } from "./crop.js";
import { acceptDrops } from "./drops.js";
import { showEstimate } from "./estimate.js";
import { Mistake, calm, mark, trying } from "./messages.js";
import { Sound } from "./sound.js";
import { Wording } from "./wording.js";

const $ = (id) => document.getElementById(id);
const GUIDED_ONLY = ["steps", "cfg", "modality", "negative"];
const NUMBERS = ["seed", "steps", "fps", "cfg", "modality"];
const USUAL_SECONDS = 4;

export class Form {
  constructor(options) {
    this.options = options;
    this.fitted = null;
    this.carried = {};
    this.formatIsChosen = false;
    this.picture = new Picture($, () => this.pictureChanged());
    this.sound = new Sound($, () => this.fit());
    this.wording = new Wording(options);
    this.applyDefaults();
    this.listen();
  }

  applyDefaults() {
    const { defaults, presets, qualities, demo } = this.options;
    $("demo").hidden = !demo;
    $("demo").textContent = `This is the demo: a ${demo} miniature that animates drawn faces, not the 22B model.`;
    for (const [name, { num_inference_steps: steps }] of Object.entries(presets)) {
      const radio = addChoice("presets", "preset", name, name, "");
      radio.checked = name === "standard";
      radio.addEventListener("change", () => {
        $("steps").value = steps;
        this.fit();
      });
    }
    for (const [value, { name, hint }] of Object.entries(qualities)) {
      addChoice("qualities", "quality", value, name, hint).addEventListener("change", () => this.qualityChanged());
    }
    chooseQuality(Object.keys(qualities)[0]);
    $("steps").value = defaults.num_inference_steps;
    $("fps").value = defaults.frame_rate;
    $("cfg").value = defaults.cfg;
    $("modality").value = defaults.modality;
    $("negative").value = defaults.negative_prompt;
    this.chooseLabel(null);
  }

  listen() {
    $("image").onchange = ({ target }) => target.files[0] && this.takePicture(target.files[0]);
    $("audio").onchange = ({ target }) => target.files[0] && this.takeSound(target.files[0]);
    $("image-remove").onclick = () => this.picture.take(null);
    $("last-image").onchange = lastPictureChanged;
    $("last-image-remove").onclick = () => giveLastPicture(null);
    acceptDrops($("image-drop"), (file) => this.takePicture(file));
    acceptDrops($("audio-drop"), (file) => this.takeSound(file));
    $("record").onclick = () => atTheVoice(() => this.sound.record());
    $("orientations").onchange = () => {
      if (!chosen("preset")) document.querySelector("input[name=preset][value=standard]").checked = true;
      this.fit();
    };
    for (const id of NUMBERS) $(id).onchange = () => this.numberChanged($(id));
    $("prompt").oninput = () => mark("prompt", "");
    $("seeds").onchange = seedingChanged;
    $("like").onchange = ({ target }) => target.files[0] && this.takeSettingsOf(target.files[0]);
    acceptDrops($("like-drop"), (file) => this.takeSettingsOf(file));
    $("example").onclick = () => trying(() => this.fillExample());
  }

  takePicture(file) {
    this.formatIsChosen = false;
    this.picture.take(file);
  }

  takeSound(file) {
    return atTheVoice(() => this.sound.take(file));
  }

  pictureChanged() {
    const { shape } = this.picture;
    if (shape && !this.formatIsChosen && chosen("preset")) document.querySelector(`input[name=orientation][value=${shape}]`).checked = true;
    this.fit();
  }

  qualityChanged() {
    offerGuidance();
    this.fit();
  }

  numberChanged(input) {
    mark(input.id, input.validity.valid ? "" : whatIsWrong(input));
    this.fit();
  }

  // -- what fits --

  wantedSize() {
    if (this.carried.size && !chosen("preset")) return this.carried.size;
    return this.sizeOf(chosen("preset"));
  }

  sizeOf(preset) {
    const { long_side: long, short_side: short } = this.options.presets[preset];
    const shape = chosen("orientation");
    if (shape === "square") return [short, short];
    return shape === "portrait" ? [short, long] : [long, short];
  }

  // Each button says its size in the chosen format, and its steps where the quality lets them be chosen.
  labelSizes() {
    for (const { value, parentElement: label } of document.querySelectorAll("input[name=preset]")) {
      const { num_inference_steps: steps } = this.options.presets[value];
      const cost = chosen("quality") === "fast" ? "" : `, ${steps} steps`;
      label.querySelector("small").textContent = `${this.sizeOf(value).join(" × ")}${cost}`;
    }
  }

  async fit() {
    this.labelSizes();
    if (this.wrongNumber()) return;
    const [width, height] = this.wantedSize();
    const seconds = this.sound.seconds || USUAL_SECONDS;
    this.asked = call("GET", `/api/fit?${new URLSearchParams({ width, height, seconds, fps: $("fps").value })}`);
    this.fitted = await this.newestAnswer();
    const { width: w, height: h } = this.fitted;
    this.picture.frame(w, h);
    const length = this.sound.file ? `${this.fitted.seconds.toFixed(1)} s` : "as long as the voice";
    $("fitted").textContent = `${w} × ${h} pixels, ${length}.`;
    this.warnOfLength();
    await this.estimate();
  }

  // Answers can overtake each other: what is shown is the answer to the last question.
  async newestAnswer() {
    for (;;) {
      const { asked } = this;
      const answer = await asked;
      if (asked === this.asked) return answer;
    }
  }

  async estimate() {
    if (this.fitted && !this.wrongNumber()) await showEstimate($("estimate"), this.toEstimate());
  }

  warnOfLength() {
    const longest = this.fitted.seconds.toFixed(1);
    const isLongest = this.sound.seconds > this.options.limits.max_seconds;
    const lost = this.sound.file && isLongest ? this.sound.seconds - this.fitted.seconds : 0;
    mark("audio", lost > 0.05 ? `${lost.toFixed(1)} s of the voice are not used: ${longest} s is the longest video that this server makes.` : "");
    this.sound.usable = this.fitted.seconds;
    this.sound.draw();
  }

  toEstimate() {
    const { width, height, num_frames } = this.fitted;
    const guided = { num_inference_steps: $("steps").value, cfg: $("cfg").value, modality: $("modality").value };
    const quality = chosen("quality");
    const rest = quality === "fast" ? {} : guided;
    return { width, height, num_frames, fps: $("fps").value, quality, image: Boolean(this.picture.file), ...rest };
  }

  // -- the request --

  async request() {
    if (!this.sound.file) throw new Mistake("audio", "There is no voice yet: choose a file or record one.");
    if (!$("prompt").value.trim()) throw new Mistake("prompt", "Describe the video: who speaks, where, and how.");
    const wrong = this.wrongNumber();
    if (wrong) throw new Mistake(wrong, whatIsWrong($(wrong)));
    await this.fit();
    return this.data();
  }

  wrongNumber() {
    return NUMBERS.find((id) => !$(id).disabled && !$(id).validity.valid);
  }

  data() {
    const form = new FormData();
    const { guidance = {}, ...carried } = this.carried.settings ?? {};
    for (const name of ["image_strength", "image_crf", "speech_preparation"]) if (name in carried) form.append(name, carried[name]);
    form.append("prompt", $("prompt").value);
    this.wording.appendTo(form);
    form.append("check_sync", $("check-sync").checked);
    if ($("label").checked) form.append("visible_label", this.label);
    form.append("quality", chosen("quality"));
    form.append("size", this.fitted.size);
    form.append("num_frames", this.fitted.num_frames);
    form.append("fps", $("fps").value);
    form.append("audio_start_time", this.sound.start);
    form.append("seed", chosen("seeding") === "same" ? $("seed").value : Math.floor(Math.random() * 2 ** 31));
    if (chosen("quality") !== "fast") {
      form.append("negative_prompt", $("negative").value);
      form.append("num_inference_steps", $("steps").value);
      form.append("guidance", JSON.stringify({ ...guidance, cfg: +$("cfg").value, modality: +$("modality").value }));
    }
    form.append("audio", this.sound.file, "speech");
    if (this.picture.file) form.append("input_reference", this.picture.file, "picture");
    if ($("last-image").files[0]) {
      form.append("images[0]", $("last-image").files[0], "last picture");
      form.append("images[0][frame]", "last");
    }
    return form;
  }

  // -- filled by others --

  async reuse(job) {
    const { settings } = job;
    const { width, height } = job.result ?? settings;
    $("prompt").value = job.prompt;
    this.fillSettings(settings, width, height);
    this.picture.take(job.has_image ? await uploaded(job, "image") : null);
    const last = (settings.images ?? []).findIndex(({ frame }) => frame === "last");
    giveLastPicture(last < 0 ? null : await uploaded(job, `image_${last}`));
    const frames = job.result?.num_frames ?? settings.num_frames;
    await this.sound.take(await uploaded(job, "audio"));
    this.sound.select(settings.audio_start_time, frames === "auto" ? Infinity : frames / settings.frame_rate);
    $("form").scrollIntoView({ behavior: calm() ? "auto" : "smooth" });
    $("prompt").focus({ preventScroll: true });
  }

  // All but words and files.
  fillSettings(settings, width, height) {
    const isKnown = width !== "auto" && height !== "auto"; // else the picture decides again
    this.carried = { settings, size: isKnown ? [width, height] : null };
    if (isKnown) this.chooseSize(width, height);
    else document.querySelector("input[name=preset][value=standard]").checked = true;
    this.wording.take(settings);
    $("negative").value = settings.negative_prompt ?? this.options.defaults.negative_prompt;
    $("seed").value = settings.seed;
    document.querySelector("input[name=seeding][value=same]").checked = true;
    seedingChanged();
    $("details").open = true;
    $("steps").value = settings.num_inference_steps;
    $("fps").value = settings.frame_rate;
    $("cfg").value = settings.guidance.cfg;
    $("modality").value = settings.guidance.modality;
    $("check-sync").checked = Boolean(settings.check_sync);
    this.chooseLabel(settings.visible_label);
    chooseQuality(settings.quality ?? "standard");
    this.formatIsChosen = isKnown; // the picture was cut on purpose
  }

  // The usual text, or that of another video.
  chooseLabel(text) {
    this.label = text ?? this.options.label;
    $("label").checked = Boolean(text);
    $("label-text").textContent = `Show “${this.label}” in the picture`;
  }

  // What a made video says of itself; the picture, the voice and the description stay as they are.
  takeSettingsOf(file) {
    return trying(async () => {
      $("like-said").textContent = "";
      const found = await inspected(file);
      const { request, video } = found.settings ?? {};
      if (!request?.guidance || !video) throw new Mistake("like", "This video holds no settings of ltx-a2v.");
      this.fillSettings(request, video.width, video.height);
      if (request.prompt) $("prompt").value = request.prompt;
      this.wording.preview();
      const changed = found.state === "changed" ? " It was changed after it was made, so they may be wrong." : "";
      $("like-said").textContent = `The form has its settings.${changed} Add picture, voice and description.`;
      await this.fit();
    });
  }

  // The buttons that stand for a size; none where it is another one.
  chooseSize(width, height) {
    const shape = width === height ? "square" : width > height ? "landscape" : "portrait";
    document.querySelector(`input[name=orientation][value=${shape}]`).checked = true;
    for (const radio of document.querySelectorAll("input[name=preset]")) {
      const { long_side: long, short_side: short } = this.options.presets[radio.value];
      const sides = shape === "square" ? [short, short] : [long, short];
      radio.checked = Math.max(width, height) === sides[0] && Math.min(width, height) === sides[1];
    }
  }

  async fillExample() {
    const { image, audio, prompt } = this.options.example;
    const [picture, voice] = await Promise.all([fetchFile(image, "example picture"), fetchFile(audio, "example voice")]);
    $("prompt").value = prompt;
    this.wording.preview();
    this.takePicture(picture);
    await this.sound.take(voice);
  }
}

function giveLastPicture(file) {
  const files = new DataTransfer();
  if (file) files.items.add(file);
  $("last-image").files = files.files;
  lastPictureChanged();
}

function lastPictureChanged() {
  mark("last-image", "");
  $("last-image-remove").hidden = !$("last-image").files[0];
}

async function inspected(file) {
  try {
    return await call("POST", "/v1/inspect", file);
  } catch (error) {
    throw new Mistake("like", error.message);
  }
}

function atTheVoice(work) {
  return trying(async () => {
    try {
      await work();
    } catch (error) {
      throw new Mistake("audio", error.message);
    }
  });
}

function chosen(name) {
  return document.querySelector(`input[name=${name}]:checked`)?.value;
}

function seedingChanged() {
  $("seed-field").hidden = chosen("seeding") !== "same";
}

function chooseQuality(value) {
  const radio = document.querySelector(`input[name=quality][value=${value}]`);
  if (radio) radio.checked = true;
  offerGuidance();
}

// One pass of fixed steps has nothing to guide.
function offerGuidance() {
  for (const id of GUIDED_ONLY) $(id).disabled = chosen("quality") === "fast";
}

function addChoice(group, field, value, name, hintText) {
  const label = document.createElement("label");
  const radio = Object.assign(document.createElement("input"), { type: "radio", name: field, value });
  const words = document.createElement("span");
  const hint = document.createElement("small");
  hint.textContent = hintText;
  words.append(name, hint);
  label.append(radio, words);
  $(group).append(label);
  return radio;
}

function whatIsWrong(input) {
  const label = document.querySelector(`label[for=${input.id}]`).textContent;
  const whole = input.step === "1" ? "a whole number" : "a number";
  const most = Number(input.max) > 1e9 ? "" : ` to ${input.max}`;
  return `${label} must be ${whole} from ${input.min}${most || " upwards"}.`;
}
