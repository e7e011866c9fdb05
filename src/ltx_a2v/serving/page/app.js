// The page over the server's own API: one form, one list of jobs, one meter.
import { Sound } from "./sound.js";

const $ = (id) => document.getElementById(id);
const FINAL = ["completed", "failed", "cancelled"];
const PHASES = {
  wait_for_memory: "waits for GPU memory",
  load: "loads the model",
  load_audio: "reads the voice",
  encode_prompt: "reads the description",
  encode_audio: "listens to the voice",
  encode_image: "looks at the picture",
  load_transformer: "loads the model",
  stage_1: "draws",
  upsample: "enlarges",
  stage_2: "refines",
  decode: "writes the video",
};

const PRESET_HINTS = { draft: "a quick look", standard: "the usual", large: "finer, takes longer" };
const GUIDED_ONLY = ["steps", "cfg", "modality", "negative"];
const WHEN = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };
const TITLE = document.title;

const state = { options: null, image: null, carried: {}, fitted: null, jobs: new Map(), streams: new Map(), last: null };
const sound = new Sound($, fit);

// ---- talking to the server -------------------------------------------------------------------------------------------

async function call(method, path, body) {
  let reply;
  try {
    const headers = body && !(body instanceof FormData) ? { "Content-Type": "application/json" } : {};
    const sent = body instanceof FormData ? body : body && JSON.stringify(body);
    reply = await fetch(path, { method, headers, body: sent });
  } catch {
    throw new Error("The server does not answer. Is it running?");
  }
  if (reply.ok) return reply.json();
  const told = await reply.json().catch(() => ({}));
  throw new Error(told.error?.message ?? told.error ?? `The server answered ${reply.status}.`);
}

function complain(error) {
  $("problem").textContent = error?.message ?? "";
  $("problem").hidden = !error;
}

async function trying(work) {
  complain(null);
  try {
    return await work();
  } catch (error) {
    complain(error);
  }
}

// ---- the form --------------------------------------------------------------------------------------------------------

function chosen(name) {
  return document.querySelector(`input[name=${name}]:checked`)?.value;
}

function wantedSize() {
  const kept = state.carried.size;
  if (kept && !chosen("preset")) return kept;
  const { long_side: long, short_side: short } = state.options.presets[chosen("preset")];
  const shape = chosen("orientation");
  if (shape === "square") return [short, short];
  return shape === "portrait" ? [short, long] : [long, short];
}

async function fit() {
  if (!state.options) return;
  const [width, height] = wantedSize();
  const query = new URLSearchParams({ width, height, seconds: sound.seconds || 4, fps: $("fps").value || 24 });
  try {
    state.fitted = await call("GET", `/api/fit?${query}`);
  } catch (error) {
    $("fitted").textContent = error.message;
    return;
  }
  const { width: w, height: h } = state.fitted;
  $("fitted").textContent = `${w} × ${h} pixels, ${sound.file ? fittedLength() : "as long as the voice"}`;
}

function fittedLength() {
  const { num_frames: frames, seconds } = state.fitted;
  const cut = sound.seconds - seconds > 0.5 ? ", the longest that is made here" : "";
  return `${seconds.toFixed(2)} s (${frames} frames)${cut}`;
}

function setImage(file) {
  state.image = file;
  const preview = $("image-preview");
  URL.revokeObjectURL(preview.src);
  preview.hidden = $("image-remove").hidden = !file;
  $("image-drop").classList.toggle("filled", Boolean(file));
  if (!file) return ($("image").value = "");
  preview.src = URL.createObjectURL(file);
  preview.onload = () => {
    if (!chosen("preset")) return;
    const ratio = preview.naturalWidth / preview.naturalHeight;
    const shape = ratio > 1.15 ? "landscape" : ratio < 0.87 ? "portrait" : "square";
    document.querySelector(`input[name=orientation][value=${shape}]`).checked = true;
    fit();
  };
}

function acceptDrops(zone, take) {
  const over = (on) => (event) => {
    event.preventDefault();
    zone.classList.toggle("over", on);
  };
  zone.addEventListener("dragover", over(true));
  zone.addEventListener("dragleave", over(false));
  zone.addEventListener("drop", (event) => {
    over(false)(event);
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
}

function applyDefaults() {
  const { defaults, presets, qualities, model, demo } = state.options;
  $("model").textContent = model;
  $("demo").hidden = !demo;
  $("demo").textContent = `This is the demo: a ${demo} miniature that animates drawn faces, not the 22B model.`;
  for (const [name, { long_side: long, short_side: short, num_inference_steps: steps }] of Object.entries(presets)) {
    const radio = addChoice("presets", "preset", name, name, `${long} × ${short}, ${PRESET_HINTS[name] ?? ""}`);
    radio.checked = name === "standard";
    radio.addEventListener("change", () => {
      $("steps").value = steps;
      fit();
    });
  }
  for (const [value, { name, hint }] of Object.entries(qualities)) {
    addChoice("qualities", "quality", value, name, hint).addEventListener("change", offerGuidance);
  }
  chooseQuality(Object.keys(qualities)[0]);
  $("steps").value = defaults.num_inference_steps;
  $("seed").value = defaults.seed;
  $("fps").value = defaults.frame_rate;
  $("cfg").value = defaults.cfg;
  $("modality").value = defaults.modality;
  $("negative").value = defaults.negative_prompt;
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

function chooseQuality(value) {
  const radio = document.querySelector(`input[name=quality][value=${value}]`);
  if (radio) radio.checked = true;
  offerGuidance();
}

// One pass of fixed steps has nothing to guide.
function offerGuidance() {
  for (const id of GUIDED_ONLY) $(id).disabled = chosen("quality") === "fast";
}

function formData() {
  const form = new FormData();
  const { guidance = {}, ...carried } = state.carried.settings ?? {};
  for (const name of ["image_strength", "image_crf"]) if (name in carried) form.append(name, carried[name]);
  form.append("prompt", $("prompt").value);
  form.append("quality", chosen("quality"));
  form.append("size", state.fitted.size);
  form.append("num_frames", state.fitted.num_frames);
  form.append("fps", $("fps").value);
  form.append("audio_start_time", sound.start);
  form.append("seed", $("seed").value);
  if (chosen("quality") !== "fast") {
    form.append("negative_prompt", $("negative").value);
    form.append("num_inference_steps", $("steps").value);
    form.append("guidance", JSON.stringify({ ...guidance, cfg: +$("cfg").value, modality: +$("modality").value }));
  }
  form.append("audio", sound.file, "speech");
  if (state.image) form.append("input_reference", state.image, "picture");
  return form;
}

async function submit() {
  if (!sound.file) throw new Error("There is no voice yet: choose an audio file or record one.");
  if (!$("prompt").value.trim()) throw new Error("Nothing is described yet: say who speaks, where, and how.");
  await fit();
  if (!state.fitted) throw new Error("The size could not be fitted; see above.");
  $("submit").disabled = true;
  try {
    show(await call("POST", "/v1/videos", formData()), true);
  } finally {
    $("submit").disabled = false;
  }
}

async function again(job) {
  const { settings } = job;
  state.carried = { settings, size: [settings.width, settings.height] };
  for (const radio of document.querySelectorAll("input[name=preset]")) radio.checked = false;
  $("prompt").value = job.prompt;
  $("negative").value = settings.negative_prompt;
  $("seed").value = settings.seed;
  $("steps").value = settings.num_inference_steps;
  $("fps").value = settings.frame_rate;
  $("cfg").value = settings.guidance.cfg;
  $("modality").value = settings.guidance.modality;
  chooseQuality(settings.quality ?? "standard");
  setImage(job.has_image ? await input(job, "image") : null);
  const frames = job.result?.num_frames ?? settings.num_frames;
  await sound.take(await input(job, "audio"));
  sound.select(settings.audio_start_time, frames === "auto" ? Infinity : frames / settings.frame_rate);
  $("form").scrollIntoView({ behavior: "smooth" });
}

function input(job, which) {
  const name = which === "audio" ? "voice of that video" : "picture of that video";
  return fetchFile(`/v1/videos/${job.id}/inputs/${which}`, name);
}

async function fetchFile(path, name) {
  const reply = await fetch(path);
  if (!reply.ok) throw new Error(`The ${name} is not on the server any more: choose a file.`);
  return new File([await reply.blob()], name);
}

async function fillExample() {
  const { image, audio, prompt } = state.options.example;
  const [picture, voice] = await Promise.all([fetchFile(image, "example picture"), fetchFile(audio, "example voice")]);
  $("prompt").value = prompt;
  setImage(picture);
  await sound.take(voice);
}

// ---- the jobs --------------------------------------------------------------------------------------------------------

function show(job, first = false) {
  let item = state.jobs.get(job.id)?.item;
  if (!item) {
    item = $("job-template").content.firstElementChild.cloneNode(true);
    item.dataset.id = job.id;
    item.querySelector(".cancel").onclick = () => trying(() => call("POST", `/v1/videos/${job.id}/cancel`).then(show));
    item.querySelector(".again").onclick = () => trying(() => again(state.jobs.get(job.id).job));
    item.querySelector(".delete").onclick = () => trying(() => remove(job.id));
    first ? $("jobs").prepend(item) : $("jobs").append(item);
  }
  state.jobs.set(job.id, { job, item });
  draw(job, item);
  if (FINAL.includes(job.status)) unfollow(job.id);
  else follow(job.id);
  $("empty").hidden = state.jobs.size > 0;
}

function draw(job, item) {
  const part = (name) => item.querySelector(name);
  const ended = FINAL.includes(job.status);
  item.className = `job ${job.status}`;
  part(".prompt").textContent = job.prompt;
  part(".facts").textContent = facts(job);
  part(".state").textContent = inWords(job);
  part("progress").hidden = job.status !== "in_progress";
  part("progress").value = job.progress;
  part(".cancel").hidden = ended;
  part(".cancel").disabled = job.cancelling;
  part(".delete").hidden = !ended;
  part(".again").hidden = job.expired;
  const playable = job.status === "completed" && !job.expired;
  part(".download").hidden = !playable;
  if (playable) play(job, part(".picture"), part(".download"));
  else part(".picture").textContent = { in_progress: `${job.progress} %`, queued: "waits" }[job.status] ?? "";
  if (job.status === "in_progress") document.title = `${job.progress} % – ${TITLE}`;
  else if (ended && ![...state.jobs.values()].some((one) => one.job.status === "in_progress")) document.title = TITLE;
}

function play(job, place, link) {
  const url = `/v1/videos/${job.id}/content`;
  link.href = url;
  link.download = `${job.id}.mp4`;
  if (place.querySelector("video")) return;
  const video = document.createElement("video");
  Object.assign(video, { src: url, poster: `${url}?variant=thumbnail`, controls: true, preload: "none", playsInline: true });
  place.replaceChildren(video);
}

function facts(job) {
  const length = job.seconds === "auto" ? "as long as the voice" : `${job.seconds} s`;
  const made = job.result ? `, made in ${span(job.result.elapsed_seconds)}` : "";
  const when = new Date(1000 * job.created_at).toLocaleString([], WHEN);
  const quality = job.settings.quality === "fast" ? ", quick" : "";
  return `${job.size.replace("x", " × ")}, ${length}, seed ${job.seed}${quality}${made} · ${when}`;
}

function inWords(job) {
  if (job.status === "queued") return job.queue_position === 1 ? "Next in the queue." : `Number ${job.queue_position} in the queue.`;
  if (job.status === "failed") return `Failed: ${job.error.message}`;
  if (job.status === "cancelled") return "Cancelled.";
  if (job.expired) return "The files were removed after their time; the settings are kept.";
  if (job.status === "completed") return (job.result.notices ?? []).join(" ");
  if (job.cancelling) return "Stops at its next step…";
  const step = job.steps ? `, step ${job.step} of ${job.steps}` : "";
  const left = job.eta_seconds === null ? "" : `, about ${span(job.eta_seconds)} left`;
  return `${capital(PHASES[job.phase] ?? "starts")}${step}${left}.`;
}

function span(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

function follow(id) {
  if (state.streams.has(id)) return;
  const stream = new EventSource(`/v1/videos/${id}/events`);
  stream.addEventListener("video", (event) => show(JSON.parse(event.data)));
  stream.onerror = () => {
    if (stream.readyState !== EventSource.CLOSED) return; // it tries again by itself
    unfollow(id);
    setTimeout(() => call("GET", `/v1/videos/${id}`).then(show, () => {}), 3000);
  };
  state.streams.set(id, stream);
}

function unfollow(id) {
  state.streams.get(id)?.close();
  state.streams.delete(id);
}

async function remove(id) {
  await call("DELETE", `/v1/videos/${id}`);
  state.jobs.get(id).item.remove();
  state.jobs.delete(id);
  $("empty").hidden = state.jobs.size > 0;
}

async function history() {
  const query = new URLSearchParams({ limit: 10, ...(state.last ? { after: state.last } : {}) });
  const page = await call("GET", `/v1/videos?${query}`);
  for (const job of page.data) show(job);
  state.last = page.last_id ?? state.last;
  $("more").hidden = !page.has_more;
  $("empty").hidden = state.jobs.size > 0;
}

// ---- the machine -----------------------------------------------------------------------------------------------------

async function watchMachine() {
  try {
    drawMachine(await call("GET", "/api/status"));
  } catch (error) {
    $("machine-text").textContent = error.message;
    $("meter").hidden = $("unload").hidden = true;
  }
  setTimeout(watchMachine, document.hidden ? 15000 : 2500);
}

function drawMachine(status) {
  const states = { starting: "Getting ready", loading: "Model loads", busy: "At work", broken: "The model cannot be opened" };
  const words = [states[status.worker] ?? (status.loaded ? "Model loaded" : "Model not loaded")];
  const { gpu } = status;
  $("meter").hidden = !gpu;
  if (gpu) {
    const ours = status.device_bytes;
    const others = Math.max(0, gpu.used - ours);
    $("bar-ours").style.width = `${(100 * ours) / gpu.total}%`;
    $("bar-others").style.width = `${(100 * others) / gpu.total}%`;
    $("gib-ours").textContent = gib(ours);
    $("gib-others").textContent = gib(others);
    $("gib-free").textContent = `${gib(gpu.free)} of ${gib(gpu.total)}`;
  }
  if (status.expires_at) {
    words.push(`until ${new Date(status.expires_at).toLocaleTimeString([], { timeStyle: "short" })}`);
  }
  $("machine-text").textContent = words.join(" ");
  $("unload").hidden = !status.loaded;
}

function gib(bytes) {
  return (bytes / 2 ** 30).toFixed(1);
}

async function unload() {
  $("unload").disabled = true;
  try {
    const { status } = await call("POST", "/api/unload");
    if (status === "unloading") complain(new Error("A video is being made: the model is unloaded after it."));
    drawMachine(await call("GET", "/api/status"));
  } finally {
    $("unload").disabled = false;
  }
}

// ---- the start -------------------------------------------------------------------------------------------------------

function listen() {
  $("image").onchange = (event) => event.target.files[0] && setImage(event.target.files[0]);
  $("audio").onchange = (event) => event.target.files[0] && trying(() => sound.take(event.target.files[0]));
  $("image-remove").onclick = (event) => {
    event.preventDefault();
    setImage(null);
  };
  acceptDrops($("image-drop"), setImage);
  acceptDrops($("audio-drop"), (file) => trying(() => sound.take(file)));
  $("record").onclick = () => trying(() => sound.record());
  $("orientations").onchange = () => {
    if (!chosen("preset")) document.querySelector("input[name=preset][value=standard]").checked = true;
    fit();
  };
  $("fps").onchange = fit;
  $("dice").onclick = () => ($("seed").value = Math.floor(Math.random() * 2 ** 31));
  $("form").onsubmit = (event) => {
    event.preventDefault();
    trying(submit);
  };
  $("example").onclick = () => trying(fillExample);
  $("unload").onclick = () => trying(unload);
  $("more").onclick = () => trying(history);
}

listen();
trying(async () => {
  state.options = await call("GET", "/api/options");
  applyDefaults();
  await Promise.all([fit(), history()]);
  document.body.dataset.ready = "yes";
});
watchMachine();
