// Hear half a minute from several models without their names, choose one, then see the names.

import { ask, createJob, here } from "../api.js";
import { byId, el, icon, keepFocus, show } from "../dom.js";
import { setRange } from "../lane.js";
import { Player } from "../sound/player.js";
import { pauseOtherTabs } from "../system/tabs.js";
import { clock, day, spokenTime, STEM_NAMES } from "../words.js";
import { useStyle } from "./style.js";

/** Fill `panel` with the comparison of a job; returns its player. */
export function showComparison(panel, job) {
  useStyle();
  const listening = new Listening(job);
  panel.replaceChildren(...listening.elements);
  listening.restore();
  return listening.player;
}

class Listening {
  #models = null; // the names by label, after the choice

  constructor(job) {
    const { comparison } = job.result;
    Object.assign(this, { job, comparison, label: comparison.candidates[0].label });
    const order = Object.keys(STEM_NAMES);
    const stems = order.filter((stem) => comparison.candidates.every((each) => each.stems[stem]));
    this.stem = stems[0];
    this.player = new Player(this.#files(this.stem), { duration: comparison.durationS });
    this.player.loop = true;
    pauseOtherTabs(this.player);
    this.#build(stems);
    for (const event of ["state", "moved"]) this.player.addEventListener(event, () => this.#moved());
    this.player.addEventListener("error", () => this.#tell(this.player.error));
    this.#hear(this.label);
    this.#moved();
    this.player.load().catch(() => {}); // reported by the event "error"
  }

  #files(stem) {
    return this.comparison.candidates.map(({ label, stems }) => ({
      name: label,
      url: here(this.job.files[`${label} ${stem}`]),
      size: stems[stem].size,
      format: stems[stem].format,
    }));
  }

  #address(name) {
    return `/api/jobs/${this.job.jobId}/${name}?${this.job.pageQuery}`;
  }

  #build(stems) {
    const { startS, durationS, candidates } = this.comparison;
    const excerpt = `${clock(startS)}–${clock(startS + durationS)}`;
    this.play = el("button", { type: "button", class: "play", onclick: () => this.#toggle() });
    this.time = el("span", { class: "time" });
    this.timeline = el("input", {
      type: "range",
      min: 0,
      max: durationS,
      step: 0.01,
      value: 0,
      "aria-label": "Position",
      oninput: () => this.player.seek(Number(this.timeline.value)),
    });
    this.button = el("button", { type: "button", class: "button primary", onclick: () => this.#press() });
    this.words = el("p", { class: "hint", role: "status" }, "The names are shown when you have chosen.");
    this.error = el("p", { class: "bad", role: "alert" });
    const remove = el("button", { type: "button", class: "button danger", onclick: () => byId("delete").click() }, "Delete");
    show(remove, this.job.mayChange);
    const expiry = this.job.keep ? "Available until you delete it." : `Available until ${day(this.job.linksExpireAt)}.`;
    const labels = candidates.map(({ label }) => label);
    const heard = this.#radios("Model", "heard", labels, labels, (label) => this.#hear(label));
    this.captions = [...heard.querySelectorAll("span")];
    this.elements = [
      el("h2", { tabindex: -1 }, "Which one sounds best?"),
      el("p", { class: "hint" }, `${excerpt} of the song from ${candidates.length} models, equally loud. The arrow keys switch, and space plays.`),
      this.#radios("Stem", "stem", stems, stems.map((stem) => STEM_NAMES[stem]), (stem) => this.#change(stem)),
      heard,
      el("div", { class: "line" }, this.play, this.time, this.timeline),
      el("p", { class: "row" }, this.button),
      this.words,
      this.error,
      el("div", { class: "row expiry" }, el("p", { class: "hint" }, expiry), remove),
    ];
  }

  /** Radio buttons: the arrow keys switch between them, and space plays. */
  #radios(legend, name, values, captions, onChoose) {
    return el(
      "fieldset",
      { class: `choice ${name}` },
      el("legend", {}, legend),
      ...values.map((value, index) => {
        const onkeydown = (event) => event.key === " " && (event.preventDefault(), this.#toggle());
        const input = el("input", { type: "radio", name, value, checked: index === 0, onchange: () => onChoose(value), onkeydown });
        return el("label", {}, input, el("span", {}, captions[index]));
      }),
    );
  }

  #toggle() {
    if (this.player.isGoing) this.player.pause();
    else this.player.play().catch(() => {}); // reported by the event "error"
  }

  #hear(label) {
    this.label = label;
    this.player.setGains(Object.fromEntries(this.comparison.candidates.map((each) => [each.label, each.label === label ? 1 : 0])));
    this.button.textContent = this.#models ? `Separate the whole song with ${this.#models[label]}` : `Choose ${label}`;
  }

  #change(stem) {
    this.stem = stem;
    const files = Object.fromEntries(this.#files(stem).map((file) => [file.name, file]));
    this.player.changeVersion(files).catch((error) => this.#tell(error));
  }

  #moved() {
    const { isGoing, state, position, duration } = this.player;
    this.play.replaceChildren(icon(isGoing ? "pause" : "play"));
    this.play.setAttribute("aria-label", isGoing ? "Pause" : "Play");
    this.play.classList.toggle("busy", state === "waiting" || state === "loading");
    this.time.textContent = `${clock(position)} / ${clock(duration)}`;
    this.timeline.setAttribute("aria-valuetext", `${spokenTime(position)} of ${spokenTime(duration)}`);
    setRange(this.timeline, position);
    if (isGoing) this.frame ??= requestAnimationFrame(() => (this.frame = null) ?? this.#moved());
  }

  async #press() {
    if (this.button.ariaBusy === "true") return;
    this.button.ariaBusy = "true";
    this.error.textContent = "";
    try {
      if (this.#models) location.assign(await createJob(this.#address("again"), { model: this.#models[this.label] }));
      else await this.#choose();
    } catch (error) {
      this.#tell(error);
    } finally {
      this.button.ariaBusy = "false";
    }
  }

  async #choose() {
    const body = JSON.stringify({ label: this.label });
    const headers = { "Content-Type": "application/json" };
    const { label, models } = await ask(this.#address("choose"), { method: "POST", headers, body });
    this.#models = models;
    for (const [index, name] of Object.values(models).entries()) this.captions[index].append(el("b", {}, name));
    this.words.textContent = `You chose ${label}, which is ${models[label]}.`;
    this.#hear(this.label);
    remember(this.job.jobId, label);
    keepFocus(this.button);
  }

  /** Show the choice that was made before the page was loaded again. */
  restore() {
    const label = remembered(this.job.jobId);
    const input = this.elements.flatMap((part) => [...part.querySelectorAll("input[name=heard]")]).find(({ value }) => value === label);
    if (!input) return;
    input.checked = true;
    this.#hear(label);
    this.#press();
  }

  #tell(error) {
    this.error.textContent = error.message;
  }
}

function remember(jobId, label) {
  try {
    sessionStorage.setItem(`comparison-${jobId}`, label);
  } catch {
    // the choice is asked for again
  }
}

function remembered(jobId) {
  try {
    return sessionStorage.getItem(`comparison-${jobId}`);
  } catch {
    return null;
  }
}
