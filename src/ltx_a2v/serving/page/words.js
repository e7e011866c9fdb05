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
