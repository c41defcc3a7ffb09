// Stream one stem: windows of two seconds, decoded ahead of the playhead and dropped behind it.

export const WINDOW_S = 2;
const AHEAD = 5; // windows
const RETRIES = 3;
const FADED_MS = 500; // stopped sources are silent after this

export class StemStream {
  #buffers = new Map(); // window → AudioBuffer
  #dropped = []; // [AudioBuffer, when]: reused, because large garbage is collected late
  #loading = null; // {window, stop}
  #at = 0;
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

  /** The size of the decoded windows. */
  get heldBytes() {
    let sum = 0;
    for (const buffer of this.#buffers.values()) sum += buffer.length * buffer.numberOfChannels * 4;
    return sum;
  }

  /** Load the windows from this one on; drop those before its predecessor and those too far ahead. */
  want(window) {
    this.#at = window;
    for (const [held, buffer] of this.#buffers) {
      if (held >= window - 1 && held <= window + AHEAD) continue;
      this.#buffers.delete(held);
      this.#dropped.push([buffer, performance.now()]);
      if (this.#dropped.length > AHEAD) this.#dropped.shift();
    }
    const next = this.#nextMissing();
    if (this.#loading && (next === null || this.#loading.window < window || this.#loading.window > window + AHEAD)) {
      this.#loading.stop.abort();
    }
    if (!this.#loading) this.#load();
  }

  close() {
    this.#at = Infinity;
    this.#loading?.stop.abort();
    this.#buffers.clear();
    this.#dropped = [];
  }

  #nextMissing() {
    for (let window = this.#at; window <= this.#at + AHEAD && window < this.windows; window++) {
      if (!this.#buffers.has(window)) return window;
    }
    return null;
  }

  async #load() {
    for (let window; (window = this.#nextMissing()) !== null;) {
      const stop = new AbortController();
      this.#loading = { window, stop };
      try {
        const buffer = await this.#decoded(window, stop.signal);
        this.#failures = 0;
        if (window >= this.#at - 1 && window <= this.#at + AHEAD) this.#buffers.set(window, buffer);
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
