// All stems of a song in one key and at one tempo. Times are seconds of the song: a version at half the tempo has twice
// as many samples, but the same times.

import { openSource } from "./sources.js";
import { StemStream, WINDOW_S } from "./stream.js";

export class Version {
  /** Open the files. `stems`: [{url, size, format}]; `gain`: factor that gives all versions the same level. */
  static async open(stems, decode, { key = 0, tempo = 1, isPreview = false, gain = 1 } = {}) {
    const version = new Version();
    version.sources = await Promise.all(stems.map((stem) => openSource(stem, decode)));
    version.sampleRate = version.sources[0].sampleRate;
    version.samples = Math.max(...version.sources.map((source) => source.samples));
    version.windowSamples = WINDOW_S * version.sampleRate;
    return Object.assign(version, { key, tempo, isPreview, gain, streams: [] });
  }

  /** `onChange(error?)` is called when a window of a stem arrives or cannot be read. */
  connect(context, onChange) {
    this.streams = this.sources.map((source) => new StemStream(source, context, onChange));
  }

  sampleAt(seconds) {
    const sample = Math.round((seconds / this.tempo) * this.sampleRate);
    return Math.max(0, Math.min(sample, this.samples));
  }

  secondsAt(sample) {
    return (sample / this.sampleRate) * this.tempo;
  }

  windowOf(sample) {
    return Math.floor(Math.min(sample, this.samples - 1) / this.windowSamples);
  }

  /** Whether a window of each stem can be played. */
  has(window) {
    return this.streams.every((stream) => stream.get(window) !== null);
  }

  /** Whether all samples from `from` to before `to` can be played. */
  isReady(from, to) {
    for (let window = this.windowOf(from); window <= this.windowOf(Math.max(from, to - 1)); window++) {
      if (!this.has(window)) return false;
    }
    return true;
  }

  want(windows) {
    for (const stream of this.streams) stream.want(windows);
  }

  /** Whether the line is slower than the song. */
  get isSlow() {
    return this.streams.some((stream) => stream.isSlow);
  }

  /** The size of the decoded windows. */
  get heldBytes() {
    return this.streams.reduce((sum, stream) => sum + stream.heldBytes, 0);
  }

  close() {
    for (const stream of this.streams) stream.close();
  }
}
