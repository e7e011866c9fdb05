// Talks to the server; a refusal becomes an error with the server's message, its code and the field that is wrong.

export class Refusal extends Error {
  constructor(message, code, param) {
    super(message);
    Object.assign(this, { code, param });
  }
}

export async function call(method, path, body) {
  let reply;
  try {
    reply = await fetch(path, { method, body });
  } catch {
    throw new Error("The server does not answer. Is it running?");
  }
  if (reply.ok) return reply.json();
  const { error = {} } = await reply.json().catch(() => ({}));
  throw new Refusal(error.message ?? `The server answered ${reply.status}.`, error.code, error.param);
}

export async function fetchFile(path, name) {
  const reply = await fetch(path);
  if (!reply.ok) throw new Error(`The ${name} is not on the server any more: choose a file.`);
  return new File([await reply.blob()], name);
}

export function uploaded(job, which) {
  const name = which === "audio" ? "voice of that video" : "picture of that video";
  return fetchFile(`/v1/videos/${job.id}/inputs/${which}`, name);
}
