// Separate the song of this page again with another model or quality.

import { ask, createJob } from "./api.js";
import { downloadWords, timeWords } from "./cost.js";
import { byId, el, show } from "./dom.js";

/** `address`: where the server takes the request; `seconds`: the length of the song. */
export function offerAgain(job, address, seconds) {
  const form = byId("again-form");
  const model = byId("again-model");
  const quality = byId("again-quality");
  let choices = null;

  async function load() {
    if (choices) return;
    choices = await ask(`/choices.json?seconds=${Math.max(1, Math.round(seconds))}`);
    const names = choices.models.filter(({ usable }) => usable).map(({ name }) => name);
    model.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    model.value = names.includes(job.options.model) ? job.options.model : names[0];
    quality.value = job.options.quality;
    update();
  }

  function update() {
    const isSame = model.value === job.options.model && quality.value === job.options.quality;
    const time = timeWords(choices, model.value, quality.value);
    byId("again-words").textContent = isSame
      ? "This is how it was separated. Choose another model or quality."
      : time
      ? `Takes ${time}. ${downloadWords(choices, model.value, quality.value)}`
      : "This model cannot be used right now.";
    byId("again-error").textContent = "";
    byId("again-go").ariaDisabled = isSame;
  }

  byId("again").ontoggle = () => byId("again").open && load().catch(tell);
  form.onchange = () => choices && update();
  form.onsubmit = async (event) => {
    event.preventDefault();
    const button = byId("again-go");
    if (!choices || button.ariaDisabled === "true" || button.ariaBusy === "true") return;
    button.ariaBusy = "true";
    try {
      location.assign(await createJob(address, { model: model.value, quality: quality.value }));
    } catch (error) {
      tell(error);
    } finally {
      button.ariaBusy = "false";
    }
  };
  show(byId("again"), true);
}

function tell(error) {
  byId("again-error").textContent = error.message;
}
