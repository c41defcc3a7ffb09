// Times above the waves, or bars and beats if they were found.

import { byId, el } from "../dom.js";
import { clock, exactClock } from "../words.js";

const STEPS_S = [0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 240];
const STEPS_BARS = [1, 2, 4, 8, 16, 32, 64, 128];
const MOST_MARKS = 8;
const MOST_BARS = 14;
const MOST_BEATS = 64;

export class Ruler {
  beats = null;

  constructor(view) {
    this.view = view;
    view.addEventListener("change", () => this.draw());
    this.draw();
  }

  /** Show bars and beats, see beats.js. */
  showBeats(beats) {
    this.beats = beats;
    beats.addEventListener("change", () => this.draw());
    this.draw();
  }

  draw() {
    const shown = this.beats?.between(this.view.from, this.view.to) ?? [];
    const marks = shown.some(({ bar }) => bar !== null) ? this.#bars(shown) : this.#times();
    byId("marks").replaceChildren(...marks, ...(shown.length <= MOST_BEATS ? shown.map((beat) => this.#tick(beat)) : []));
  }

  #times() {
    const { from, to, span } = this.view;
    const step = STEPS_S.find((each) => span / each <= MOST_MARKS) ?? STEPS_S.at(-1);
    const marks = [];
    for (let at = Math.ceil(from / step) * step; at < to - step / 3; at += step) {
      marks.push(this.#mark(at, step < 1 ? exactClock(at) : clock(at)));
    }
    return marks;
  }

  #bars(beats) {
    const bars = beats.filter(({ bar }) => bar !== null);
    const step = STEPS_BARS.find((each) => bars.length / each <= MOST_BARS) ?? STEPS_BARS.at(-1);
    return bars.filter(({ bar }) => (bar - 1) % step === 0)
      .map(({ seconds, bar }) => this.#mark(seconds, bar, `Bar ${bar}, ${exactClock(seconds)}`));
  }

  #tick({ seconds, bar }) {
    const tick = el("i", { class: bar === null ? "beat" : "beat strong" });
    tick.style.left = `${this.view.shareAt(seconds) * 100}%`;
    return tick;
  }

  #mark(seconds, text, title) {
    const mark = el("span", { title }, text);
    mark.style.left = `${this.view.shareAt(seconds) * 100}%`;
    return mark;
  }
}
