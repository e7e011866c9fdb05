// The GPU's memory and the model's state, in the page's head.
import { call } from "./api.js";
import { showProblem } from "./messages.js";

const $ = (id) => document.getElementById(id);
const STATES = { starting: "Starts", loading: "Model loads", busy: "At work", broken: "The model cannot be opened" };

let before = null;

// Calls `changed` when a worker's state is another one.
export async function watchMachine(changed) {
  try {
    const status = await call("GET", "/api/status");
    draw(status);
    const states = status.workers.map(({ worker }) => worker).join();
    if (states !== before) changed();
    before = states;
  } catch (error) {
    say(error.message);
    $("meters").hidden = $("unload").hidden = true;
  }
  setTimeout(() => watchMachine(changed), document.hidden ? 15000 : 2500);
}

export async function unload() {
  $("unload").disabled = true;
  try {
    const { status } = await call("POST", "/api/unload");
    if (status === "unloading") showProblem("A video is being made: the model is unloaded after it.");
    draw(await call("GET", "/api/status"));
  } finally {
    $("unload").disabled = false;
  }
}

function draw({ workers, loaded }) {
  const gpus = workers.flatMap((worker) => worker.gpus.map((gpu) => ({ ...gpu, ours: gpu.ours ?? worker.device_bytes })));
  while ($("meters").children.length > gpus.length) $("meters").lastElementChild.remove();
  gpus.forEach((gpu, index) => drawMeter(meterAt(index), gpu, gpus.length > 1 ? gpu.device : "GPU"));
  $("meters").hidden = !gpus.length;
  say(workers.map((worker) => (workers.length > 1 ? `${worker.device}: ${inWords(worker)}` : inWords(worker))).join(" · "));
  $("unload").hidden = !loaded;
}

function meterAt(index) {
  if (!$("meters").children[index]) $("meters").append($("meter").content.cloneNode(true));
  return $("meters").children[index];
}

function drawMeter(meter, { total, free, used, ours }, name) {
  const others = Math.max(0, used - ours);
  meter.querySelector("i.ours").style.width = `${(100 * ours) / total}%`;
  meter.querySelector("i.others").style.width = `${(100 * others) / total}%`;
  meter.querySelector(".gpu").textContent = name;
  meter.querySelector("b.ours").textContent = gib(ours);
  meter.querySelector("b.others").textContent = gib(others);
  meter.querySelector(".free").textContent = `${gib(free)} of ${gib(total)}`;
}

function inWords({ worker, loaded, expires_at: expires }) {
  const until = expires ? ` until ${new Date(expires).toLocaleTimeString([], { timeStyle: "short" })}` : "";
  return (STATES[worker] ?? (loaded ? "Model loaded" : "Model not loaded")) + until;
}

// Screen readers speak a status whenever its text is set, also to the same.
function say(text) {
  if ($("machine-text").textContent !== text) $("machine-text").textContent = text;
}

function gib(bytes) {
  return (bytes / 2 ** 30).toFixed(1);
}
