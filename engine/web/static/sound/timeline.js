// What plays when: runs that follow each other to the sample.
//
// A repeated part is a chain of runs: each begins on the sample at which the one before it ends. Another version, or
// another part, takes over the same way, at the same place of the song.

import { Run } from "./run.js";
import { AHEAD } from "./stream.js";

const LEAD_S = 0.1; // before a scheduled start; a source scheduled late starts late
const SCHEDULE_AHEAD_S = 5; // timers of a hidden page fire once a second
const FADED_S = 1; // after the end of a run, with the latency of the output

export class Timeline {
  part = null; // {start, end} in seconds: what is repeated; null: the whole song
  loop = false;
  #runs = []; // in order

  /** `outputs`: one node for each stem; `metronome`: attached to the context. */
  constructor(context, outputs, metronome = null) {
    Object.assign(this, { context, outputs, metronome });
  }

  get isEmpty() {
    return this.#runs.length === 0;
  }

  /** The audible position in seconds. */
  get heard_s() {
    return this.#secondsAt(this.#now - (this.context.outputLatency || this.context.baseLatency || 0) * this.#rate);
  }

  /** The position that the clock has reached, before the latency of the output. */
  get reached_s() {
    return this.#secondsAt(this.#now);
  }

  /** Whether the song has ended. */
  get isOver() {
    const last = this.#runs.at(-1);
    return last.isComplete && !this.#bounds(last.version) && this.#now >= last.stop;
  }

  /** Whether something that must sound soon has not arrived. */
  get isLate() {
    const last = this.#runs.at(-1);
    if (last.isComplete && !this.#bounds(last.version)) return false;
    return this.#now > Math.min(last.scheduledTo, last.stop) - LEAD_S * this.#rate;
  }

  /** Start at a position, if enough is buffered; returns whether it starts. `waits`: when to click before it, in seconds
   * of the song until the position. */
  start(version, seconds, waits = [], lead_s = LEAD_S) {
    const first = version.sampleAt(seconds);
    if (!this.#isReady(version, first)) return false;
    const asked = performance.now();
    const run = this.#run(version, this.#soon(lead_s + (waits[0] ?? 0) / version.tempo), first);
    this.#runs = [run];
    run.countIn(waits);
    run.schedule(run.start);
    if (performance.now() - asked < 500 * lead_s || lead_s >= 1) return true;
    this.stop(); // the machine is busy: some sources may start late
    return this.start(version, seconds, waits, 2 * lead_s);
  }

  /** Go on at the same place with a version and the current part, faded over; returns whether enough is buffered. */
  goOn(version, lead_s = LEAD_S) {
    const asked = performance.now();
    const start = Math.max(this.#soon(lead_s), this.#runs[0].start); // not during a count-in
    const first = version.sampleAt(this.#secondsAt(start));
    if (!this.#isReady(version, first)) return false;
    const next = this.#run(version, start, first);
    for (const run of this.#runs) run.fade(start / this.#rate);
    this.#runs = [...this.#runs.filter((run) => run.start < start), next];
    next.schedule(start);
    const isLate = performance.now() - asked > 500 * lead_s && lead_s < 1; // as in `start`
    return isLate ? this.goOn(version, 2 * lead_s) : true;
  }

  /** Schedule what is due: the last run, and repetitions after it. */
  schedule() {
    const limit = this.#now + SCHEDULE_AHEAD_S * this.#rate;
    for (let last; (last = this.#runs.at(-1));) {
      last.schedule(limit);
      const bounds = this.#bounds(last.version);
      if (!bounds || !last.isComplete || last.stop > limit || !this.#isReady(last.version, bounds.first)) break;
      this.#runs.push(this.#run(last.version, last.stop, bounds.first));
    }
    while (this.#runs[1]?.start < this.#now - FADED_S * this.#rate) this.#runs.shift().close();
  }

  /** Fade out. */
  stop() {
    const runs = this.#runs;
    this.#runs = [];
    for (const run of runs) run.fade(this.context.currentTime);
    if (runs.length) setTimeout(() => runs.forEach((run) => run.close()), 500);
  }

  /** The windows of a version to hold, in the order in which they are played from a position on. */
  windowsFrom(version, seconds) {
    const bounds = this.#bounds(version);
    const at = version.sampleAt(seconds);
    const windows = [];
    const add = (first, end) => {
      for (let window = version.windowOf(first); window <= version.windowOf(end) && windows.length <= AHEAD; window++) {
        if (!windows.includes(window)) windows.push(window);
      }
    };
    const tail = LEAD_S * this.#rate; // more than a run plays on after its end
    add(at, bounds && at < bounds.end ? bounds.end + tail : version.samples);
    if (bounds) add(bounds.first, bounds.end + tail);
    return windows;
  }

  get #rate() {
    return this.context.sampleRate;
  }

  get #now() {
    return this.context.currentTime * this.#rate;
  }

  /** The first whole sample of the context that is at least `lead_s` away. */
  #soon(lead_s) {
    return Math.ceil((this.context.currentTime + lead_s) * this.#rate);
  }

  #secondsAt(sample) {
    const run = this.#runs.findLast((each) => each.start <= sample) ?? this.#runs[0];
    return run.secondsAt(sample);
  }

  /** The repeated samples of a version, or null. */
  #bounds(version) {
    if (!this.loop) return null;
    if (!this.part) return { first: 0, end: version.samples };
    return { first: version.sampleAt(this.part.start), end: version.sampleAt(this.part.end) };
  }

  #run(version, start, first) {
    const metronome = this.metronome?.beats ? this.metronome : null;
    return new Run(this.context, version, this.outputs, { start, first, end: this.#endFrom(version, first), metronome });
  }

  #endFrom(version, first) {
    const bounds = this.#bounds(version);
    return bounds && first < bounds.end ? bounds.end : version.samples;
  }

  /** Whether enough is buffered to play from a sample on. */
  #isReady(version, first) {
    return version.isReady(first, Math.min(first + version.windowSamples / 4, this.#endFrom(version, first)));
  }
}
