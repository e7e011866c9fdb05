// The words around the description: a style's template, shown before it is used, and the enhancer where there is one.

const $ = (id) => document.getElementById(id);
const NAMES = { none: "as I wrote it", portrait: "portrait: close to the face", stage: "stage: a speaker and an audience" };
const ENDED = /[.!?…"”]$/;

export class Wording {
  constructor({ prompt_styles, enhances_prompts }) {
    this.templates = prompt_styles;
    for (const name of Object.keys(prompt_styles)) $("style").append(new Option(NAMES[name] ?? name, name));
    $("enhance-field").hidden = !enhances_prompts;
    for (const id of ["style", "enhance"]) $(id).onchange = () => this.preview();
    $("prompt").addEventListener("input", () => this.preview());
  }

  // As `styled` of the server does it.
  final() {
    const given = $("prompt").value.trim();
    const words = given.charAt(0).toUpperCase() + given.slice(1);
    return this.templates[$("style").value].replace("{words}", () => (ENDED.test(words) ? words : `${words}.`));
  }

  preview() {
    const enhanced = $("enhance").checked ? " Your words are written out first, by the language model that this server asks." : "";
    const styled = $("style").value !== "none" && $("prompt").value.trim() ? `Becomes: ${this.final()}` : "";
    $("final-prompt").textContent = `${styled}${enhanced}`.trim();
  }

  take({ prompt_style = "none", enhance_prompt = false }) {
    $("style").value = prompt_style;
    $("enhance").checked = enhance_prompt && !$("enhance-field").hidden;
    this.preview();
  }

  appendTo(form) {
    form.append("prompt_style", $("style").value);
    form.append("enhance_prompt", $("enhance").checked);
  }
}
