// Says what is wrong in the page's own words, at the field that it is about.
import { Refusal } from "./api.js";

const $ = (id) => document.getElementById(id);

const FIELDS = {
  image: ["image", "Picture"],
  input_reference: ["image", "Picture"],
  images: ["last-image", "Last picture"],
  "images[0]": ["last-image", "Last picture"],
  audio: ["audio", "Voice"],
  audio_reference: ["audio", "Voice"],
  audio_start_time: ["audio", "Start"],
  prompt: ["prompt", "Description"],
  prompt_style: ["prompt", "Words around it"],
  enhance_prompt: ["prompt", "Written out"],
  negative_prompt: ["negative", "Steer away from"],
  size: ["size", "Size"],
  width: ["size", "Width"],
  height: ["size", "Height"],
  num_frames: ["audio", "Length"],
  num_inference_steps: ["steps", "Steps"],
  seed: ["seed", "Seed number"],
  fps: ["fps", "Frames per second"],
  frame_rate: ["fps", "Frames per second"],
  "guidance.cfg": ["cfg", "Follow the description"],
  "guidance.modality": ["modality", "Follow the voice"],
  "guidance.skip_step": ["steps", "Skipped steps"],
  quality: ["size", "Quality"],
  visible_label: ["label", "Label"],
  "retake.video": ["from", "The video"],
  "retake.start": ["from", "From"],
  "retake.end": ["to", "To"],
};
// The server's name of a field -> where its message stands, and what the page calls it.

export class Mistake extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

export function complain(error) {
  const field = error.field ?? FIELDS[error.param]?.[0];
  const text = inPageWords(error);
  if (!field) return showProblem(text);
  mark(field, text);
  const input = $(field) ?? document.querySelector(`#${field}-message`).parentElement.querySelector("input");
  const details = input.closest("details");
  if (details) details.open = true;
  input.focus({ preventScroll: true });
  $(`${field}-message`).scrollIntoView({ block: "center", behavior: calm() ? "auto" : "smooth" });
}

export function mark(field, text) {
  $(`${field}-message`).textContent = text;
  $(field)?.toggleAttribute("aria-invalid", Boolean(text));
  if (text) $(field)?.setAttribute("aria-invalid", "true");
}

export function clear() {
  $("problem").hidden = true;
  for (const message of document.querySelectorAll(".message")) mark(message.id.replace("-message", ""), "");
}

export function showProblem(text) {
  $("problem").textContent = text;
  $("problem").hidden = false;
}

export async function trying(work) {
  clear();
  try {
    return await work();
  } catch (error) {
    complain(error);
  }
}

export function calm() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}

export function inPageWords(error) {
  if (!(error instanceof Refusal) && !error.param) return error.message;
  let text = error.message;
  for (const [name, [, label]] of Object.entries(FIELDS).sort(([a], [b]) => b.length - a.length)) {
    if (name.includes("_") || name.includes(".")) text = text.replaceAll(name, label);
    else if (name === error.param) text = text.replace(new RegExp(`^${name}\\b`), label);
  }
  return text;
}
