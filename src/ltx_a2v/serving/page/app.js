// The page over the server's own API: the form, the jobs and the machine, put together.
import { call } from "./api.js";
import { Form } from "./form.js";
import { Jobs } from "./jobs.js";
import { unload, watchMachine } from "./machine.js";
import { calm, trying } from "./messages.js";

const $ = (id) => document.getElementById(id);

async function start() {
  const options = await call("GET", "/api/options");
  $("model").textContent = options.model;
  $("version").textContent = `ltx-a2v ${options.version}`;
  const form = new Form(options);
  const jobs = new Jobs({ trying, reuse: (job) => form.reuse(job) });
  $("form").onsubmit = (event) => {
    event.preventDefault();
    trying(() => submit(form, jobs));
  };
  await Promise.all([form.fit(), jobs.history()]);
  watchMachine(() => form.estimate());
  document.body.dataset.ready = "yes";
}

async function submit(form, jobs) {
  $("submit").disabled = true;
  try {
    jobs.add(await call("POST", "/v1/videos", await form.request()));
  } finally {
    $("submit").disabled = false;
  }
  if (matchMedia("(max-width: 60rem)").matches) {
    $("stage").scrollIntoView({ behavior: calm() ? "auto" : "smooth" });
  }
}

$("unload").onclick = () => trying(unload);
trying(start);
