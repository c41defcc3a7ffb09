// Tempo and key in words, beats at another rate, and the metronome. Event: "change".

import { byId, enable } from "../dom.js";
import { notesIn, transposed } from "./chords.js";

const FACTORS = [0.5, 1, 2];

export class BeatTools extends EventTarget {
  beats = null;
  factor = 1; // beats per found beat

  /** `music`: the facts of the job, or null. */
  constructor(player, music) {
    super();
    Object.assign(this, { player, music });
    const { metronome } = player;
    byId("click").addEventListener("click", () => this.restore({ ...this.#state, isOn: !metronome.isOn }));
    byId("count-in").addEventListener("click", () => this.restore({ ...this.#state, countsIn: !metronome.countsIn }));
    for (const [name, by] of [["beats-half", 0.5], ["beats-double", 2]]) {
      byId(name).addEventListener("click", () => this.restore({ ...this.#state, factor: this.factor * by }));
    }
    player.addEventListener("version", () => this.#show());
    this.#show();
  }

  get keys() {
    return { KeyC: () => this.beats && this.restore({ ...this.#state, isOn: !this.player.metronome.isOn }) };
  }

  get #state() {
    const { isOn, countsIn } = this.player.metronome;
    return { factor: this.factor, isOn, countsIn };
  }

  /** Set the rate of the beats, and whether the metronome clicks and counts in. */
  restore({ factor, isOn, countsIn }) {
    if (FACTORS.includes(factor) && factor !== this.factor) {
      this.factor = factor;
      this.beats?.setFactor(factor);
      this.player.renew();
    }
    Object.assign(this.player.metronome, { isOn, countsIn });
    this.#show();
    this.dispatchEvent(new Event("change"));
  }

  /** Offer what needs beats, see beats.js. */
  showBeats(beats) {
    beats.setFactor(this.factor);
    this.beats = beats;
    this.player.metronome.beats = beats;
    this.player.renew(); // with clicks
    this.#show();
  }

  #show() {
    const { metronome, version } = this.player;
    byId("click").setAttribute("aria-pressed", metronome.isOn);
    byId("count-in").setAttribute("aria-pressed", metronome.countsIn);
    enable(byId("beats-half"), this.factor !== FACTORS[0]);
    enable(byId("beats-double"), this.factor !== FACTORS.at(-1));
    const bpm = (this.music?.tempoBpm ?? 0) * this.factor * (version?.tempo ?? 1);
    byId("bpm").textContent = bpm ? `${bpm.toFixed(1)} BPM` : "";
    byId("key-name").textContent = this.music?.key ? keyName(this.music.key, version?.key ?? 0) : "";
  }
}

function keyName(key, semitones) {
  return semitones ? transposed(key, semitones, notesIn(transposed(key, semitones))) : key;
}
