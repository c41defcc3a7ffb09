// Stream one stem: windows of two seconds, decoded ahead of the playhead and dropped behind it.

export const WINDOW_S = 2;
export const AHEAD = 5; // windows that are loaded beside the one that plays
const SLOW_MS = 1500 * WINDOW_S; // a window takes clearly longer to arrive than to play
const RETRIES = 3;
const FADED_MS = 500; // stopped sources are silent after this

export class StemStream {
  #buffers = new Map(); // window → AudioBuffer
  #dropped = []; // [AudioBuffer, when]: reused, because large garbage is collected late
  #loading = null; // {window, stop, since}
  #took_ms = 0; // the last window
  #wanted = []; // windows in the order in which they will be played
  #failures = 0;

  /** `onChange(error?)` is called when a window arrives, or with the error if it cannot be read. */
  constructor(source, context, onChange) {
    this.source = source;
    this.context = context;
    this.onChange = onChange;
    this.windowSamples = WINDOW_S * source.sampleRate;
    this.windows = Math.max(1, Math.ceil(source.samples / this.windowSamples));
  }

  /** The window's AudioBuffer; null while it loads, undefined (silence) beyond the stem's end. */
  get(window) {
    return window < this.windows ? (this.#buffers.get(window) ?? null) : undefined;
  }

  /** Whether the last window, or the one that loads, arrives more slowly than it plays. */
  get isSlow() {
    return Math.max(this.#took_ms, this.#loading ? performance.now() - this.#loading.since : 0) > SLOW_MS;
  }

  /** The size of the decoded windows. */
  get heldBytes() {
    let sum = 0;
    for (const buffer of this.#buffers.values()) sum += buffer.length * buffer.numberOfChannels * 4;
    return sum;
  }

  /** Load these windows in this order; drop all others, except the one before the first. */
  want(windows) {
    this.#wanted = windows;
    for (const [held, buffer] of this.#buffers) {
      if (this.#isWanted(held)) continue;
      this.#buffers.delete(held);
      this.#dropped.push([buffer, performance.now()]);
      if (this.#dropped.length > AHEAD) this.#dropped.shift();
    }
    if (this.#loading && !windows.includes(this.#loading.window)) this.#loading.stop.abort();
    if (!this.#loading) this.#load();
  }

  close() {
    this.#wanted = [];
    this.#loading?.stop.abort();
    this.#buffers.clear();
    this.#dropped = [];
  }

  #isWanted(window) {
    return window === this.#wanted[0] - 1 || this.#wanted.includes(window);
  }

  #nextMissing() {
    return this.#wanted.find((window) => window < this.windows && !this.#buffers.has(window)) ?? null;
  }

  async #load() {
    for (let window; (window = this.#nextMissing()) !== null;) {
      const stop = new AbortController();
      const since = performance.now();
      this.#loading = { window, stop, since };
      try {
        const buffer = await this.#decoded(window, stop.signal);
        this.#failures = 0;
        this.#took_ms = performance.now() - since;
        if (this.#isWanted(window)) this.#buffers.set(window, buffer);
        this.onChange();
      } catch (error) {
        if (stop.signal.aborted) continue;
        this.#failures++;
        const isFinal = error.status >= 400 || this.#failures > RETRIES;
        if (isFinal) {
          this.#failures = 0;
          this.#loading = null;
          return this.onChange(error);
        }
        await new Promise((resolve) => setTimeout(resolve, 500 * this.#failures));
      }
    }
    this.#loading = null;
  }

  async #decoded(window, signal) {
    const start = window * this.windowSamples;
    const count = Math.min(this.windowSamples, this.source.samples - start);
    const channels = await this.source.read(start, count, signal);
    const buffer = this.#spare(count) ?? this.context.createBuffer(channels.length, count, this.source.sampleRate);
    channels.forEach((samples, channel) => buffer.copyToChannel(samples, channel));
    this.source.giveBack?.(channels);
    return buffer;
  }

  #spare(count) {
    const [buffer, when] = this.#dropped[0] ?? [];
    if (buffer?.length !== count || performance.now() - when < FADED_MS) return null;
    this.#dropped.shift();
    return buffer;
  }
}
