// The GPU's memory and the model's state, in the page's head.
import { call } from "./api.js";
import { showProblem } from "./messages.js";

const $ = (id) => document.getElementById(id);
const STATES = { starting: "Starts", loading: "Model loads", busy: "At work", broken: "The model cannot be opened" };

let before = null;

// Calls `changed` when the worker's state is another one.
export async function watchMachine(changed) {
  try {
    const status = await call("GET", "/api/status");
    draw(status);
    if (status.worker !== before) changed();
    before = status.worker;
  } catch (error) {
    say(error.message);
    $("meter").hidden = $("unload").hidden = true;
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

function draw({ gpu, worker, loaded, expires_at: expires, device_bytes: ours }) {
  $("meter").hidden = !gpu;
  if (gpu) {
    const others = Math.max(0, gpu.used - ours);
    $("bar-ours").style.width = `${(100 * ours) / gpu.total}%`;
    $("bar-others").style.width = `${(100 * others) / gpu.total}%`;
    $("gib-ours").textContent = gib(ours);
    $("gib-others").textContent = gib(others);
    $("gib-free").textContent = `${gib(gpu.free)} of ${gib(gpu.total)}`;
  }
  const until = expires ? ` until ${new Date(expires).toLocaleTimeString([], { timeStyle: "short" })}` : "";
  say((STATES[worker] ?? (loaded ? "Model loaded" : "Model not loaded")) + until);
  $("unload").hidden = !loaded;
}

// Screen readers speak a status whenever its text is set, also to the same.
function say(text) {
  if ($("machine-text").textContent !== text) $("machine-text").textContent = text;
}

function gib(bytes) {
  return (bytes / 2 ** 30).toFixed(1);
}
