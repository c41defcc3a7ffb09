// Beats and bars of the song, as found or at half or twice that rate. Bars have four beats. Event: "change".

const BEATS_PER_BAR = 4;
const SAME_S = 0.001;

export class Beats extends EventTarget {
  factor = 1; // 0.5, 1 or 2

  /** `beats` and `downbeats`: times in seconds, in order; without downbeats there are no bars. */
  constructor({ beats, downbeats }) {
    super();
    this.found = beats;
    this.first = downbeats?.length ? beats.indexOf(nearest(beats, downbeats[0])) : null; // index of a downbeat
    this.#update();
  }

  setFactor(factor) {
    if (factor === this.factor) return;
    this.factor = factor;
    this.#update();
    this.dispatchEvent(new Event("change"));
  }

  /** [{seconds, bar}]: the beats in order; `bar` is the number of the bar that begins there, or null. */
  #update() {
    const first = this.first ?? 0;
    const { times, start } = {
      0.5: () => ({ times: this.found.filter((_, index) => index % 2 === first % 2), start: Math.floor(first / 2) }),
      1: () => ({ times: this.found, start: first }),
      2: () => ({ times: this.found.flatMap((at, index) => halves(at, this.found[index + 1])), start: 2 * first }),
    }[this.factor]();
    const upbeat = start % BEATS_PER_BAR;
    this.times = times.map((seconds, index) => {
      const isDownbeat = this.first !== null && index % BEATS_PER_BAR === upbeat;
      return { seconds, bar: isDownbeat ? Math.floor(index / BEATS_PER_BAR) + 1 : null };
    });
  }

  get hasBars() {
    return this.first !== null;
  }

  /** {start, end} of a bar in seconds, or null; the last bar has no `end`. */
  barAt(number) {
    const start = this.times.find(({ bar }) => bar === number)?.seconds;
    return start === undefined ? null : { start, end: this.times.find(({ bar }) => bar === number + 1)?.seconds };
  }

  /** The nearest beat's time. */
  nearest(seconds) {
    return nearest(this.times.map((beat) => beat.seconds), seconds);
  }

  /** The beats from `start` to before `end`. */
  between(start, end) {
    return this.times.filter(({ seconds }) => seconds >= start && seconds < end);
  }

  /** When the four beats before a position are, as seconds until the position: [2, 1.5, 1, 0.5] at 120 BPM. */
  countIn(position) {
    const next = this.times.findIndex(({ seconds }) => seconds > position - SAME_S);
    const after = Math.max(1, next < 0 ? this.times.length - 1 : next);
    const beat = this.times[after].seconds - this.times[after - 1].seconds;
    const phase = (this.times[after].seconds - position) % beat;
    const last = beat - (phase < SAME_S ? 0 : phase);
    return Array.from({ length: BEATS_PER_BAR }, (_, index) => last + (BEATS_PER_BAR - 1 - index) * beat);
  }
}

function nearest(times, seconds) {
  return times.reduce((best, at) => (Math.abs(at - seconds) < Math.abs(best - seconds) ? at : best), times[0]);
}

function halves(from, to) {
  return to === undefined ? [from] : [from, (from + to) / 2];
}
