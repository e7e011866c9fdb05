// The voice: chosen or recorded, drawn as a waveform, with a start and a length.

const SHORTEST = 0.3;
const HEIGHT = 64;

export class Sound {
  constructor($, changed) {
    this.$ = $;
    this.changed = changed;
    this.file = null;
    this.duration = 0;
    this.peaks = [];
    this.recorder = null;
    this.usable = Infinity;
    $("start").oninput = () => this.moved();
    $("length").oninput = () => this.moved();
    $("wave").onpointerdown = (event) => this.drag(event);
    $("listen").onplay = () => this.playSelection();
    new ResizeObserver(() => this.draw()).observe($("wave"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  get start() {
    return Number(this.$("start").value);
  }

  get seconds() {
    return this.file ? Number(this.$("length").value) : 0;
  }

  async take(file) {
    const samples = await decoded(file);
    this.file = file;
    this.duration = samples.duration;
    this.samples = samples.getChannelData(0);
    this.$("sound").hidden = false;
    this.$("audio-drop").classList.add("filled");
    this.$("audio-hint").textContent = `${file.name}, ${this.duration.toFixed(1)} s: drop or choose another.`;
    URL.revokeObjectURL(this.$("listen").src);
    this.$("listen").src = URL.createObjectURL(file);
    this.select(0, this.duration);
  }

  select(start, seconds) {
    const { duration } = this;
    this.$("start").max = Math.max(0, duration - SHORTEST).toFixed(2);
    this.$("start").value = start;
    this.$("length").max = Math.max(SHORTEST, duration - this.start).toFixed(2);
    this.$("length").value = Math.min(seconds, duration - this.start);
    this.moved();
  }

  moved() {
    const { $ } = this;
    $("length").max = Math.max(SHORTEST, this.duration - this.start).toFixed(2);
    $("start-out").textContent = `${this.start.toFixed(1)} s`;
    $("length-out").textContent = `${this.seconds.toFixed(1)} s`;
    this.draw();
    clearTimeout(this.pending);
    this.pending = setTimeout(this.changed, 150);
  }

  drag(event) {
    const wave = this.$("wave");
    const at = (e) => (Math.min(Math.max(e.offsetX / wave.clientWidth, 0), 1)) * this.duration;
    const from = at(event);
    wave.setPointerCapture(event.pointerId);
    wave.onpointermove = (e) => this.select(Math.min(from, at(e)), Math.abs(at(e) - from));
    wave.onpointerup = wave.onpointercancel = () => (wave.onpointermove = null);
  }

  draw() {
    const wave = this.$("wave");
    if (!this.file || !wave.clientWidth) return;
    const scale = window.devicePixelRatio || 1;
    wave.width = wave.clientWidth * scale;
    wave.height = HEIGHT * scale;
    const ink = wave.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const length = Math.min(this.seconds, this.usable);
    const [from, to] = [this.start, this.start + length].map((t) => (t / this.duration) * wave.width);
    ink.fillStyle = style.getPropertyValue("--wash");
    ink.fillRect(from, 0, to - from, wave.height);
    const step = 3 * scale;
    for (let x = 0; x < wave.width; x += step) {
      const peak = this.peak(x / wave.width, (x + step) / wave.width);
      ink.fillStyle = style.getPropertyValue(x >= from && x <= to ? "--accent" : "--line");
      const height = Math.max(2 * scale, peak * wave.height * 0.9);
      ink.fillRect(x, (wave.height - height) / 2, step - scale, height);
    }
  }

  peak(from, to) {
    const first = Math.floor(from * this.samples.length);
    const last = Math.min(Math.ceil(to * this.samples.length), this.samples.length);
    const stride = Math.max(1, Math.floor((last - first) / 400));
    let peak = 0;
    for (let i = first; i < last; i += stride) peak = Math.max(peak, Math.abs(this.samples[i]));
    return Math.min(peak, 1);
  }

  playSelection() {
    const player = this.$("listen");
    const end = this.start + this.seconds;
    if (player.currentTime < this.start || player.currentTime >= end) player.currentTime = this.start;
    player.ontimeupdate = () => player.currentTime >= end && player.pause();
  }

  async record() {
    if (this.recorder) return this.recorder.stop();
    if (!navigator.mediaDevices) throw new Error("This browser gives the microphone to https pages and localhost only.");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch (error) {
      throw new Error(`The microphone cannot be used: ${error.message}.`);
    }
    const chunks = [];
    this.recorder = new MediaRecorder(stream);
    this.recorder.ondataavailable = (event) => chunks.push(event.data);
    const stopped = new Promise((resolve) => (this.recorder.onstop = resolve));
    this.recorder.start();
    this.tick(Date.now());
    await stopped;
    for (const track of stream.getTracks()) track.stop();
    const type = this.recorder.mimeType;
    this.recorder = null;
    await this.take(new File(chunks, "recording", { type }));
  }

  tick(began) {
    const on = Boolean(this.recorder);
    this.$("record").classList.toggle("on", on);
    this.$("record-label").textContent = on ? "Stop" : "Record";
    this.$("record-time").textContent = on ? `${((Date.now() - began) / 1000).toFixed(1)} s` : "";
    if (on) setTimeout(() => this.tick(began), 100);
  }
}

async function decoded(file) {
  const context = new OfflineAudioContext(1, 1, 16000);
  try {
    return await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new Error(`This browser cannot read the sound of ${file.name || "the file"}: give a wav, mp3 or ogg, or an mp4 that has sound.`);
  }
}
