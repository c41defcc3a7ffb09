// The range of the song that the waves and the ruler show. Event: "change".

const LEAST_S = 1;

export class View extends EventTarget {
  constructor(duration) {
    super();
    Object.assign(this, { duration, from: 0, to: duration });
  }

  get span() {
    return this.to - this.from;
  }

  get isWhole() {
    return this.span >= this.duration;
  }

  /** Where a time is, from 0 at the left edge to 1 at the right. */
  shareAt(seconds) {
    return (seconds - this.from) / (this.span || 1);
  }

  secondsAt(share) {
    return this.from + share * this.span;
  }

  /** Show a range, moved into the song if necessary. */
  show(from, to) {
    const span = Math.min(this.duration, Math.max(Math.min(LEAST_S, this.duration), to - from));
    const first = Math.max(0, Math.min(from, this.duration - span));
    if (first === this.from && first + span === this.to) return;
    this.from = first;
    this.to = first + span;
    this.dispatchEvent(new Event("change"));
  }

  /** Show `factor` times as much; the time `around` stays where it is. */
  zoom(factor, around) {
    const span = Math.min(this.duration, this.span * factor);
    const from = around - this.shareAt(around) * span;
    this.show(from, from + span);
  }

  move(seconds) {
    this.show(this.from + seconds, this.to + seconds);
  }

  has(seconds) {
    return seconds >= this.from && seconds <= this.to;
  }

  /** Turn to the page that has a position. */
  follow(seconds) {
    if (this.has(seconds)) return;
    this.show(seconds - 0.02 * this.span, seconds + 0.98 * this.span);
  }
}
