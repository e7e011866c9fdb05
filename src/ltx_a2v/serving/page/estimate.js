// What the video will take, in the line before the button.
import { call } from "./api.js";
import { bytes, span } from "./words.js";

let latest = 0;

export async function showEstimate(place, wanted) {
  const mine = ++latest;
  const say = (text, fits = true) => {
    if (mine !== latest) return;
    place.textContent = text;
    place.classList.toggle("warns", !fits);
  };
  if (!place.textContent) say("Looks up time and memory…");
  try {
    const estimate = await call("GET", `/api/estimate?${new URLSearchParams(wanted)}`);
    say(inWords(estimate), estimate.fits !== false);
  } catch {
    say("Time and memory unknown.");
  }
}

function inWords({ seconds, seconds_from: source, device, peak_bytes: peak, fits, problem, waiting }) {
  const about = source === "other sizes" ? "roughly" : "about";
  const parts = [seconds === null ? "time unknown before a first video" : `${about} ${span(seconds)} to make`];
  const whose = device.startsWith("cpu") ? "of memory for the model" : "of GPU memory";
  parts.push(peak === null ? "memory unknown yet" : `${bytes(peak)} ${whose}`);
  if (waiting) parts.push(waiting === 1 ? "after 1 other video" : `after ${waiting} other videos`);
  const line = `${parts.join(", ")}.`;
  const text = line[0].toUpperCase() + line.slice(1);
  return fits === false ? `Does not fit now: ${problem}` : text;
}
