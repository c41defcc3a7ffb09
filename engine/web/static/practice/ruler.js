// Times above the waves.

import { byId, el } from "../dom.js";
import { clock, exactClock } from "../words.js";

const STEPS_S = [0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 240];
const MOST_MARKS = 8;

export class Ruler {
  constructor(view) {
    this.view = view;
    view.addEventListener("change", () => this.draw());
    this.draw();
  }

  draw() {
    const { from, to, span } = this.view;
    const step = STEPS_S.find((each) => span / each <= MOST_MARKS) ?? STEPS_S.at(-1);
    const marks = [];
    for (let at = Math.ceil(from / step) * step; at < to - step / 3; at += step) {
      marks.push(this.#mark(at, step < 1 ? exactClock(at) : clock(at)));
    }
    byId("marks").replaceChildren(...marks);
  }

  #mark(seconds, text) {
    const mark = el("span", {}, text);
    mark.style.left = `${this.view.shareAt(seconds) * 100}%`;
    return mark;
  }
}
