// Play all stems in sample-accurate sync.
//
// Media elements do not work here: each has a separate clock and starts tens of milliseconds late, and an offset of one
// millisecond already makes bleeding stems sound hollow. Fully decoded stems do not fit: ten minutes of four stems are
// 850 MB of floats. So each stem is read in windows of two seconds by Range requests (sources.js), and a window of all
// stems is scheduled on the same sample of one AudioContext. The context runs at the stems' rate, so nothing is
// resampled, and about 20 MB are held. If the window of one stem is late, all stems wait.

import { openSource } from "./sources.js";
import { StemStream, WINDOW_S } from "./stream.js";

const PUMP_MS = 100;
const LEAD_S = 0.1; // before a scheduled start; a source scheduled late starts late
const SCHEDULE_AHEAD_S = 5; // timers of a hidden page fire once a second
const FADE_S = 0.006;
const GLIDE_S = 0.012; // of gain changes, to avoid clicks

/** Events: "state" (idle, loading, waiting, playing, paused, ended, failed) and "gains". */
export class Player extends EventTarget {
  state = "idle";
  error = null;
  loop = false;
  #run = null; // the current playback: {bus, songStart, next, sources}
  #from = 0; // samples; the position while stopped
  #timer = null;
  #opening = null;

  /** `stems`: [{name, url, size, format}]; `duration`: seconds, used until the stems are open. */
  constructor(stems, { duration, level = 1 }) {
    super();
    this.stems = stems.map((stem) => ({ ...stem }));
    this.duration = duration;
    this.level = level;
    this.master = 1;
  }

  /** Open the stems and start reading. May be called again after an error. */
  load() {
    this.#opening ??= this.#open().catch((error) => {
      this.#opening = null;
      this.#fail(error);
      throw error;
    });
    return this.#opening;
  }

  async #open() {
    this.#become("loading");
    const decode = (bytes) => this.context.decodeAudioData(bytes);
    // The context must run at the stems' rate, which is known only now; mp3s are decoded later.
    const sources = await Promise.all(this.stems.map((stem) => openSource(stem, decode)));
    this.sampleRate = sources[0].sampleRate;
    this.samples = Math.max(...sources.map((source) => source.samples));
    this.duration = this.samples / this.sampleRate;
    this.#wire(sources);
    this.#from = Math.min(this.#from, this.samples);
    this.#become("paused");
    this.#want();
  }

  #wire(sources) {
    this.context = new AudioContext({ sampleRate: this.sampleRate, latencyHint: "interactive" });
    this.out = this.context.createGain();
    this.meter = this.context.createAnalyser();
    this.out.connect(this.meter).connect(this.context.destination);
    this.stems.forEach((stem, index) => {
      stem.gain = this.context.createGain();
      stem.meter = this.context.createAnalyser(); // after the fader
      stem.gain.gain.value = 0;
      stem.gain.connect(stem.meter).connect(this.out);
      stem.stream = new StemStream(sources[index], this.context, (error) => this.#arrived(error));
    });
    this.#glide();
  }

  /** Set the gain of each stem (0 to 1, by name) and of the mix. */
  setGains(gains, master = this.master) {
    this.gains = gains;
    this.master = master;
    this.#glide();
    this.dispatchEvent(new Event("gains"));
  }

  #glide() {
    if (!this.context) return;
    const now = this.context.currentTime;
    this.out.gain.setTargetAtTime(this.master * this.level, now, GLIDE_S);
    for (const stem of this.stems) stem.gain.gain.setTargetAtTime(this.gains?.[stem.name] ?? 1, now, GLIDE_S);
  }

  /** The audible position in seconds. */
  get position() {
    if (!this.#run) return this.#from / (this.sampleRate ?? 1);
    const latency = this.context.outputLatency || this.context.baseLatency || 0;
    const heard = (this.context.currentTime - latency) * this.sampleRate - this.#run.songStart;
    return Math.min(Math.max(heard, this.#run.first), this.samples) / this.sampleRate;
  }

  get isGoing() {
    return this.state === "playing" || this.state === "waiting";
  }

  /** The size of the decoded windows. */
  get heldBytes() {
    return this.stems.reduce((sum, stem) => sum + (stem.stream?.heldBytes ?? 0), 0);
  }

  async play() {
    this.context?.resume(); // now, while the user gesture is still valid
    await this.load();
    if (this.isGoing) return;
    if (this.#from >= this.samples) this.#from = 0;
    clearTimeout(this.resting);
    this.error = null;
    this.context.resume(); // the clock stops until a user gesture allows it
    this.#become("waiting");
    this.#timer ??= setInterval(() => this.#pump(), PUMP_MS);
    this.#want();
    this.#pump();
  }

  pause() {
    if (!this.isGoing) return;
    this.#from = this.#stop();
    this.#rest("paused");
  }

  /** Seek to a position in seconds. */
  seek(seconds) {
    const target = Math.round(seconds * (this.sampleRate ?? 44100));
    const going = this.isGoing;
    this.#stop();
    this.#from = Math.max(0, Math.min(target, this.samples ?? target));
    if (!this.context) return;
    if (going) this.#become("waiting");
    else if (this.state === "ended") this.#become("paused");
    this.#want();
    if (going) this.#pump();
    this.dispatchEvent(new Event("moved"));
  }

  close() {
    this.#stop();
    clearInterval(this.#timer);
    for (const stem of this.stems) stem.stream?.close();
    this.context?.close();
  }

  #window(sample) {
    return Math.floor(sample / (WINDOW_S * this.sampleRate));
  }

  #want() {
    const at = this.#run
      ? Math.max(this.#run.first, this.context.currentTime * this.sampleRate - this.#run.songStart)
      : this.#from;
    for (const stem of this.stems) stem.stream?.want(this.#window(Math.min(at, this.samples - 1)));
  }

  #arrived(error) {
    if (error) return this.#fail(error);
    if (this.isGoing) this.#pump();
  }

  #isReady(window) {
    return this.stems.every((stem) => stem.stream.get(window) !== null);
  }

  #pump() {
    if (!this.isGoing) return;
    if (!this.#run) this.#begin();
    if (!this.#run) return;
    const now = this.context.currentTime * this.sampleRate;
    const run = this.#run;
    if (now >= run.songStart + this.samples) return this.#end();
    const size = WINDOW_S * this.sampleRate;
    while (run.next * size < this.samples && this.#isReady(run.next)) {
      if (run.songStart + run.next * size > now + SCHEDULE_AHEAD_S * this.sampleRate) break;
      this.#schedule(run, run.next++);
    }
    const scheduled = Math.min(run.next * size, this.samples);
    if (scheduled < this.samples && now > run.songStart + scheduled - LEAD_S * this.sampleRate) {
      this.#from = this.#stop(); // a window is late
      this.#become("waiting");
    }
    this.#want();
  }

  /** Start at `#from` once enough is buffered. */
  #begin(lead_s = LEAD_S) {
    const window = this.#window(this.#from);
    const size = WINDOW_S * this.sampleRate;
    const isShort = (window + 1) * size - this.#from < size / 4 && (window + 1) * size < this.samples;
    if (!this.#isReady(window) || (isShort && !this.#isReady(window + 1))) return;
    const asked = performance.now();
    const start = Math.ceil((this.context.currentTime + lead_s) * this.sampleRate); // whole samples
    const buses = this.stems.map((stem) => {
      const bus = this.context.createGain();
      bus.gain.setValueAtTime(0, 0);
      bus.gain.setTargetAtTime(1, start / this.sampleRate, FADE_S / 3);
      bus.connect(stem.gain);
      return bus;
    });
    this.#run = { buses, songStart: start - this.#from, first: this.#from, next: window, sources: new Set() };
    this.#schedule(this.#run, this.#run.next++, this.#from - window * size);
    if (performance.now() - asked > 500 * lead_s && lead_s < 1) {
      this.#stop(); // the machine is busy: some sources may start late
      return this.#begin(2 * lead_s);
    }
    this.#become("playing");
  }

  #schedule(run, window, skip = 0) {
    const at = (run.songStart + window * WINDOW_S * this.sampleRate + skip) / this.sampleRate;
    this.stems.forEach((stem, index) => {
      const buffer = stem.stream.get(window);
      if (!buffer || skip >= buffer.length) return;
      const source = this.context.createBufferSource();
      source.buffer = buffer;
      source.connect(run.buses[index]);
      source.start(at, skip / this.sampleRate);
      source.onended = () => {
        run.sources.delete(source);
        source.disconnect();
      };
      run.sources.add(source);
    });
  }

  /** Fade out; returns the current sample. */
  #stop() {
    const run = this.#run;
    if (!run) return this.#from;
    const at = Math.round(this.position * this.sampleRate);
    this.#run = null;
    const now = this.context.currentTime;
    for (const bus of run.buses) {
      bus.gain.cancelScheduledValues(now);
      bus.gain.setTargetAtTime(0, now, FADE_S / 3);
    }
    for (const source of run.sources) source.stop(now + 4 * FADE_S);
    setTimeout(() => run.buses.forEach((bus) => bus.disconnect()), 500);
    return at;
  }

  #end() {
    this.#stop();
    if (this.loop) {
      this.#from = 0;
      this.#become("waiting");
      this.#want();
      return this.#pump();
    }
    this.#from = this.samples;
    this.#rest("ended");
  }

  #rest(state) {
    clearInterval(this.#timer);
    this.#timer = null;
    // Suspend after the fade-out to save power.
    this.resting = setTimeout(() => !this.isGoing && this.context?.suspend(), 300);
    this.#become(state);
  }

  #fail(error) {
    this.#from = this.#stop();
    clearInterval(this.#timer);
    this.#timer = null;
    this.error = error;
    this.#become(this.context ? "paused" : "failed");
    this.dispatchEvent(new Event("error"));
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
