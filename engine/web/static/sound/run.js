// One uninterrupted piece of a version on the clock of an AudioContext. Sources are started on whole samples.

const FADE_S = 0.006;
const TAIL_S = 4 * FADE_S; // sound after the end, while it fades out

export class Run {
  #sources = new Set();

  /** Play the samples from `first` to before `end`, beginning at the context's sample `start`. `outputs`: a node per stem;
   * `metronome`: null without beats. */
  constructor(context, version, outputs, { start, first, end, metronome = null }) {
    Object.assign(this, { context, version, first, end, metronome });
    this.zero = start - first; // the context's sample at the version's sample 0
    this.tail = Math.min(version.samples, end + Math.round(TAIL_S * version.sampleRate));
    this.next = version.windowOf(first);
    this.buses = outputs.map((output) => {
      const bus = context.createGain();
      bus.gain.setValueAtTime(0, 0);
      bus.gain.setTargetAtTime(version.gain, this.#time(first), FADE_S / 3);
      bus.connect(output);
      return bus;
    });
    if (metronome) {
      this.clickBus = context.createGain();
      this.clickBus.connect(metronome.output);
    }
    if (end < version.samples) this.#fadeOut(this.#time(end));
  }

  /** The first sample of the context that it plays, and the one after the last. */
  get start() {
    return this.zero + this.first;
  }

  get stop() {
    return this.zero + this.end;
  }

  /** Whether all of it is scheduled. */
  get isComplete() {
    return this.next * this.version.windowSamples >= this.tail;
  }

  /** The context's sample up to which it is scheduled. */
  get scheduledTo() {
    return this.zero + Math.min(this.next * this.version.windowSamples, this.tail);
  }

  /** Where it is in the song at a sample of the context, in seconds. */
  secondsAt(sample) {
    return this.version.secondsAt(Math.min(Math.max(sample - this.zero, this.first), this.end));
  }

  /** Schedule the windows that have arrived and begin before the context's sample `limit`. */
  schedule(limit) {
    while (!this.isComplete && this.version.has(this.next)) {
      if (this.zero + this.next * this.version.windowSamples > limit) break;
      this.#schedule(this.next++);
    }
  }

  #schedule(window) {
    const begin = window * this.version.windowSamples;
    const skip = Math.max(0, this.first - begin);
    this.version.streams.forEach((stream, index) => {
      const buffer = stream.get(window);
      if (!buffer || skip >= buffer.length) return;
      const source = this.context.createBufferSource();
      source.buffer = buffer;
      source.connect(this.buses[index]);
      source.start(this.#time(begin + skip), skip / this.version.sampleRate);
      if (begin + buffer.length > this.tail) source.stop(this.#time(this.tail));
      this.#keep(source);
    });
    if (this.metronome) this.#click(begin + skip, Math.min(begin + this.version.windowSamples, this.end));
  }

  /** Schedule the clicks of the beats from one sample to before another. */
  #click(from, to) {
    for (const { seconds, bar } of this.metronome.beats.times) {
      const at = this.version.sampleAt(seconds);
      if (at >= from && at < to) this.#keep(this.metronome.click(this.#time(at), bar !== null, this.clickBus));
    }
  }

  #keep(source) {
    source.onended = () => {
      this.#sources.delete(source);
      source.disconnect();
    };
    this.#sources.add(source);
  }

  /** Click before it starts; `waits`: seconds of the song until its start. */
  countIn(waits) {
    const { metronome, version } = this;
    waits.forEach((wait, index) => {
      this.#keep(metronome.click(this.#time(this.first) - wait / version.tempo, index === 0, metronome.countInOutput));
    });
  }

  /** Fade out at a time of the context and schedule nothing more. */
  fade(time) {
    for (const bus of this.buses) bus.gain.cancelScheduledValues(time);
    this.#fadeOut(time);
    this.clickBus?.gain.setTargetAtTime(0, time, FADE_S / 3);
    for (const source of this.#sources) source.stop(time + TAIL_S);
    this.next = Infinity;
  }

  close() {
    for (const bus of this.buses) bus.disconnect();
    this.clickBus?.disconnect();
  }

  #time(sample) {
    return (this.zero + sample) / this.version.sampleRate;
  }

  #fadeOut(time) {
    for (const bus of this.buses) bus.gain.setTargetAtTime(0, time, FADE_S / 3);
  }
}
