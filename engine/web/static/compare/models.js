// Choose the models that are compared on half a minute of the song of this page.

import { ask, createJob } from "../api.js";
import { downloadWords } from "../cost.js";
import { el } from "../dom.js";
import { about, clock } from "../words.js";
import { useStyle } from "./style.js";

const FEWEST = 2;
const MOST = 4;
const EXCERPT_S = 30;

/** Fill `panel`. `address`: where the server takes the request; `player`: of the song, whose place may be taken. */
export async function chooseModels(panel, job, address, player) {
  useStyle();
  const choices = await ask(`/choices.json?seconds=${Math.max(1, Math.round(Math.min(EXCERPT_S, player.duration)))}`);
  const usable = choices.models.filter((model) => model.usable);
  const { model: current, quality } = job.options;
  const boxes = usable.map(({ name }) => el("input", { type: "checkbox", name: "model", value: name }));
  const hints = usable.map(({ description, traits, licenceSource }) =>
    el("small", { title: `Source of the licence: ${licenceSource}` }, `${description}. ${traits.join(" · ")}`)
  );
  const start = el("input", { type: "checkbox", name: "start" });
  const startWords = el("b");
  const words = el("p", { class: "hint", role: "status" });
  const error = el("p", { class: "bad", role: "alert" });
  const button = el("button", { class: "button primary" }, "Compare");
  const form = el(
    "form",
    { class: "try-models" },
    el(
      "fieldset",
      {},
      el("legend", {}, `Models, ${FEWEST} to ${MOST}`),
      ...usable.map(({ name }, index) =>
        el("label", { class: "model" }, boxes[index], el("span", {}, el("b", {}, name), hints[index]))
      ),
    ),
    el("label", { class: "model" }, start, el("span", {}, startWords, el("small", {}, "Otherwise the loudest half minute is taken."))),
    words,
    error,
    button,
  );

  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);

  function update() {
    const names = chosen();
    const isRight = names.length >= FEWEST && names.length <= MOST;
    const seconds = usable.filter(({ name }) => names.includes(name)).reduce((sum, model) => sum + model.expectedS[quality], 0);
    const downloads = names.map((name) => downloadWords(choices, name, quality)).filter(Boolean);
    words.textContent = isRight
      ? ["You hear them without their names.", `Takes ${about(seconds)}.`, "It counts as one job.", ...downloads].join(" ")
      : `Choose ${FEWEST} to ${MOST} models.`;
    error.textContent = "";
    button.ariaDisabled = !isRight;
  }

  function showStart() {
    startWords.textContent = `Start at ${clock(player.position)}, where the song is now`;
  }

  form.onchange = update;
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (button.ariaDisabled === "true" || button.ariaBusy === "true") return;
    button.ariaBusy = "true";
    try {
      const from = start.checked ? { startS: player.position } : {};
      location.assign(await createJob(address, { models: chosen(), ...from }));
    } catch (problem) {
      error.textContent = problem.message;
    } finally {
      button.ariaBusy = "false";
    }
  };
  const isReady = ({ name, isDownloaded }) => name === current || isDownloaded;
  const first = usable.filter(isReady).sort((a, b) => (b.name === current) - (a.name === current)).slice(0, FEWEST);
  for (const box of boxes) box.checked = first.some(({ name }) => name === box.value);
  player.addEventListener("moved", showStart);
  player.addEventListener("state", showStart);
  showStart();
  update();
  panel.replaceChildren(form);
}
