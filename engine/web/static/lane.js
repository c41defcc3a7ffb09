// The lane of one stem: name, mute, solo, volume, pan, level, waveform and download.

import { el, icon } from "./dom.js";
import { Waveform } from "./waveform.js";
import { bytes, decibels, percent, STEM_NAMES } from "./words.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Lane {
  /** `number`: its key. */
  constructor(stem, number, mix) {
    const name = STEM_NAMES[stem.name] ?? stem.name;
    Object.assign(this, { stem, mix, wave: new Waveform(), level: 0 });
    const button = (letter, word, key, action) =>
      el("button", {
        type: "button",
        class: `chip ${word.toLowerCase()}`,
        "aria-pressed": "false",
        "aria-label": `${word} ${name}`,
        title: `${word} (${key})`,
        onclick: action,
      }, letter);
    this.mute = button("M", "Mute", number, () => mix.toggleMute(stem.name));
    this.solo = button("S", "Solo", `shift+${number}`, () => mix.toggleSolo(stem.name));
    const range = (word, { set, rest, ...limits }) => {
      const input = el("input", { type: "range", class: word === "Volume" ? "fader" : "pan", "aria-label": `${word} of ${name}`, ...limits });
      input.addEventListener("input", () => set(input.value / 100));
      input.addEventListener("dblclick", () => set(rest));
      return input;
    };
    // The square of 141 % is +6 dB.
    this.volume = range("Volume", { min: 0, max: 141, rest: 1, set: (value) => mix.setVolume(stem.name, value) });
    this.pan = range("Pan", { min: -100, max: 100, rest: 0, set: (value) => mix.setPan(stem.name, Math.abs(value) < 0.08 ? 0 : value) });
    this.levelWords = el("span", { class: "lane-words", "aria-hidden": "true" });
    this.sideWords = el("span", { class: "lane-words side", "aria-hidden": "true" });
    this.meter = el("i");
    const head = el(
      "div",
      { class: "lane-head" },
      el("span", { class: "lane-name", title: name }, name),
      this.mute,
      this.solo,
      this.volume,
      this.pan,
      this.levelWords,
      this.sideWords,
      el("span", { class: "meter", "aria-hidden": "true" }, this.meter),
    );
    const download = el("a", {
      class: "icon-button",
      href: `${stem.url}&download`,
      download: stem.filename,
      "aria-label": `Download ${name}, ${bytes(stem.size)}`,
      title: `Download ${bytes(stem.size)}`,
    }, icon("download"));
    this.element = el("section", { class: "lane", "data-stem": stem.name, "aria-label": name }, head, this.wave.element, download);
  }

  /** Show the state of the mix. */
  update() {
    const { mix, stem: { name } } = this;
    this.element.classList.toggle("silent", !mix.isHeard(name));
    this.mute.setAttribute("aria-pressed", mix.muted.has(name));
    this.solo.setAttribute("aria-pressed", mix.soloed.has(name));
    const [level, side] = [faderWords(mix.volumes[name]), panWords(mix.pans[name])];
    this.levelWords.textContent = level;
    this.sideWords.textContent = mix.pans[name] ? side : "";
    for (const [input, value, text] of [[this.volume, mix.volumes[name], level], [this.pan, mix.pans[name], side]]) {
      setRange(input, value * 100);
      input.setAttribute("aria-valuetext", text);
      input.title = `${text} (double-click resets)`;
    }
  }

  /** Show the level of an AnalyserNode; returns whether it is above silence. */
  showLevel(analyser, isGoing) {
    if (!analyser || calm.matches) return false;
    this.samples ??= new Float32Array(1024);
    analyser.getFloatTimeDomainData(this.samples);
    let peak = 0;
    for (const sample of this.samples) peak = Math.max(peak, Math.abs(sample));
    const db = isGoing ? 20 * Math.log10(peak + 1e-6) : -120;
    this.level = Math.max(Math.min(1, (db + 48) / 48), this.level * 0.9, 0);
    this.meter.style.transform = `scaleX(${this.level.toFixed(3)})`;
    return this.level > 0.01;
  }
}

function faderWords(volume) {
  return volume ? decibels(40 * Math.log10(volume)) : "silent";
}

function panWords(pan) {
  return pan ? `${percent(Math.abs(pan))} ${pan < 0 ? "left" : "right"}` : "centre";
}

export function setRange(input, value) {
  input.value = value;
  input.style.setProperty("--value", `${(100 * (input.value - input.min)) / (input.max - input.min)}%`);
}
