// What the page says of jobs.

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
const WHEN = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };

export function facts(job) {
  const parts = [job.size.replace("x", " × ")];
  if (job.seconds !== "auto") parts.push(`${Number(job.seconds).toFixed(1)} s`);
  if (job.settings.quality === "fast") parts.push("quick");
  if (job.settings.retake) parts.push(`made again from ${job.settings.retake.start.toFixed(2)} to ${job.settings.retake.end.toFixed(2)} s`);
  parts.push(`seed ${job.seed}`);
  if (job.result) parts.push(`made in ${span(job.result.elapsed_seconds)}`);
  parts.push(new Date(1000 * job.created_at).toLocaleString([], WHEN));
  return parts.join(" · ");
}

export function inWords(job, error) {
  if (job.status === "queued") return job.queue_position === 1 ? "Next in the queue." : `Number ${job.queue_position} in the queue.`;
  if (job.status === "failed") return `Failed: ${error}`;
  if (job.status === "cancelled") return "Cancelled.";
  if (job.expired) return "The files were removed after their time; the settings are kept.";
  if (job.status === "completed") return (job.result.notices ?? []).join(" ");
  if (job.cancelling) return "Stops at its next step…";
  const step = job.steps ? `, step ${job.step} of ${job.steps}` : "";
  const left = job.eta_seconds === null ? "" : `, about ${span(job.eta_seconds)} left`;
  const part = job.windows > 1 ? `Part ${job.window} of ${job.windows}: ` : "";
  const doing = PHASES[job.phase] ?? "starts";
  return `${part}${part ? doing : capital(doing)}${step}${left}.`;
}

// What was measured, and not how good it is: there is no number to pass.
export function syncInWords(sync) {
  if (sync.lag_frames === null) return "The mouth or the sound does not move, so nothing can be said of the sync.";
  const chance = sync.by_chance === null ? "" : ` (at wrong times of the voice mostly below ${sync.by_chance.toFixed(2)})`;
  const rest = sync.closed_in_silence === null ? "" : ` In silence the mouth is closed in ${Math.round(100 * sync.closed_in_silence)} % of the frames.`;
  return `Mouth and voice: correlation ${sync.correlation.toFixed(2)}${chance}; ${lag(sync)}.${rest}${weakest(sync)}`;
}

function lag({ lag_frames: frames, frame_rate: rate }) {
  if (!frames) return "the mouth is neither late nor early";
  const count = Math.abs(frames);
  return `the mouth is ${count} ${count === 1 ? "frame" : "frames"} (${Math.round((1000 * count) / rate)} ms) ${frames > 0 ? "late" : "early"}`;
}

function weakest({ parts }) {
  const told = parts.filter((part) => part.correlation !== null);
  if (told.length < 2) return "";
  const { start, end, correlation } = told.reduce((a, b) => (b.correlation < a.correlation ? b : a));
  return ` The correlation is lowest from ${start.toFixed(1)} to ${end.toFixed(1)} s: ${correlation.toFixed(2)}.`;
}

export function mark(job) {
  if (job.status === "completed") return job.expired ? "removed" : `${Number(job.seconds).toFixed(1)} s`;
  return { in_progress: `${job.progress} %`, queued: "waits" }[job.status] ?? job.status;
}

export function span(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

export function bytes(count) {
  return count >= 2 ** 30 / 10 ? `${(count / 2 ** 30).toFixed(1)} GiB` : `${Math.ceil(count / 2 ** 20)} MiB`;
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
