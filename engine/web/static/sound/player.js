// Play all stems in sample-accurate sync.
//
// Media elements do not work here: each has a separate clock and starts tens of milliseconds late, and an offset of one
// millisecond already makes bleeding stems sound hollow. Fully decoded stems do not fit: ten minutes of four stems are
// 850 MB of floats. So each stem is read in windows of two seconds by Range requests (sources.js), and a window of all
// stems is scheduled on the same sample of one AudioContext (run.js). The context runs at the stems' rate, so nothing is
// resampled, and about 20 MB are held. If the window of one stem is late, all stems wait.

import { Metronome } from "./metronome.js";

const PUMP_MS = 100;
const GLIDE_S = 0.012; // of gain changes, to avoid clicks

/** Events: "state" (idle, loading, waiting, playing, paused, ended, failed), "moved", "part", "gains", "version", "slow",
 * "error". */
export class Player extends EventTarget {
  state = "idle";
  error = null;
  part = null; // {start, end} in seconds: what is repeated; null: the whole song
  version = null; // what is heard
  isSlow = false; // whether the user waited for a line that is slower than the song
  metronome = new Metronome();
  #loop = false;
  #classes = null; // {Version, Timeline}: loaded after the page can be used
  #timeline = null;
  #from = 0; // seconds; the position while stopped
  #countsIn = false; // whether the next start begins with clicks
  #isStarved = false; // whether the line was too slow: it plays on when all windows ahead have arrived
  #coming = null; // a version that takes over when it can play from here
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
    const [{ Version }, { Timeline }] = await Promise.all([import("./version.js"), import("./timeline.js")]);
    this.#classes = { Version, Timeline };
    // The context must run at the stems' rate, which is known only now; mp3s are decoded later.
    this.version = this.original = await Version.open(this.stems, this.#decode);
    this.sampleRate = this.version.sampleRate;
    this.duration = this.version.secondsAt(this.version.samples);
    this.#wire();
    this.#from = Math.min(this.#from, this.duration);
    this.#become("paused");
    this.#want();
  }

  #decode = (bytes) => this.context.decodeAudioData(bytes);

  #wire() {
    this.context = new AudioContext({ sampleRate: this.sampleRate, latencyHint: "interactive" });
    this.out = this.context.createGain();
    this.meter = this.context.createAnalyser();
    this.out.connect(this.meter).connect(this.context.destination);
    for (const stem of this.stems) {
      stem.gain = this.context.createGain();
      stem.meter = this.context.createAnalyser(); // after the fader
      stem.gain.gain.value = 0;
      stem.pan = this.context.createStereoPanner();
      stem.gain.connect(stem.pan).connect(stem.meter).connect(this.out);
    }
    this.metronome.attach(this.context, this.out);
    this.#timeline = new this.#classes.Timeline(this.context, this.stems.map((stem) => stem.gain), this.metronome);
    Object.assign(this.#timeline, { part: this.part, loop: this.#loop });
    this.#connect(this.version);
    this.#glide();
  }

  /** Set gain and pan (-1 to 1) of each stem by name, and the gain of the mix. */
  setGains(gains, master = this.master, pans = {}) {
    Object.assign(this, { gains, master, pans });
    this.#glide();
    this.dispatchEvent(new Event("gains"));
  }

  #glide() {
    if (!this.context) return;
    const now = this.context.currentTime;
    this.out.gain.setTargetAtTime(this.master * this.level, now, GLIDE_S);
    for (const { name, gain, pan } of this.stems) {
      gain.gain.setTargetAtTime(this.gains?.[name] ?? 1, now, GLIDE_S);
      pan.pan.setTargetAtTime(this.pans?.[name] ?? 0, now, GLIDE_S);
    }
  }

  /** Go over to another version at the same place. `files`: {url, size} by stem; null: the original. Resolves once it
   * is heard, or another version was asked for. */
  async changeVersion(files, change) {
    await this.load();
    const stems = files && this.stems.map((stem) => ({ ...stem, ...files[stem.name] }));
    const version = stems ? await this.#classes.Version.open(stems, this.#decode, change) : this.original;
    this.#dismiss(this.#coming);
    this.#coming = null;
    if (version === this.version) return;
    if (!version.streams.length) this.#connect(version);
    const heard = new Promise((resolve, reject) => (version.settle = (error) => (error ? reject(error) : resolve())));
    this.#coming = version;
    if (!this.isGoing) this.#take(version);
    this.#want();
    this.#pump();
    await heard;
  }

  #connect(version) {
    version.connect(this.context, (error) => this.#arrived(version, error));
  }

  #take(version) {
    const before = this.version;
    this.version = version;
    this.#coming = null;
    this.#dismiss(before);
    version.settle();
    this.dispatchEvent(new Event("version"));
  }

  /** Free the memory of a version that is not needed any more. The original stays open. */
  #dismiss(version, error) {
    if (version === this.original) version.want([]);
    else version?.close();
    version?.settle?.(error);
  }

  get loop() {
    return this.#loop;
  }

  set loop(isOn) {
    this.#repeat(this.part, isOn);
  }

  /** Repeat a part, {start, end} in seconds; null: forget the part and repeat nothing. */
  setPart(part) {
    this.#repeat(part, part !== null);
  }

  #repeat(part, loop) {
    this.part = part;
    this.#loop = loop;
    if (this.#timeline) Object.assign(this.#timeline, { part, loop });
    const isOutside = loop && part && (this.position < part.start || this.position >= part.end);
    if (isOutside) this.seek(part.start);
    else this.renew();
    this.#want();
    this.dispatchEvent(new Event("part"));
  }

  /** Schedule what is ahead again: the part or the beats have changed. */
  renew() {
    if (this.isGoing && this.#isRunning && !this.#timeline.goOn(this.version)) this.#wait();
  }

  /** The audible position in seconds. */
  get position() {
    return this.#isRunning ? Math.min(this.#timeline.heard_s, this.duration) : this.#from;
  }

  get isGoing() {
    return this.state === "playing" || this.state === "waiting";
  }

  /** The size of the decoded windows. */
  get heldBytes() {
    return (this.version?.heldBytes ?? 0) + (this.#coming?.heldBytes ?? 0);
  }

  get #isFilled() {
    return this.#timeline.windowsFrom(this.version, this.#from).every((window) => this.version.has(window));
  }

  get #isRunning() {
    return this.#timeline !== null && !this.#timeline.isEmpty;
  }

  async play() {
    this.context?.resume(); // now, while the user gesture is still valid
    await this.load();
    if (this.isGoing) return;
    const part = this.#loop ? this.part : null;
    if (this.#from >= (part?.end ?? this.duration)) this.#from = part?.start ?? 0;
    clearTimeout(this.resting);
    this.error = null;
    this.context.resume(); // the clock stops until a user gesture allows it
    this.#countsIn = this.metronome.countsIn;
    this.#become("waiting");
    this.#timer ??= setInterval(() => this.#pump(), PUMP_MS);
    this.#want();
    this.#pump();
  }

  pause() {
    if (!this.isGoing) return;
    this.#stop();
    this.#rest("paused");
  }

  /** Seek to a position in seconds. */
  seek(seconds) {
    const going = this.isGoing;
    this.#stop();
    this.#from = Math.max(0, Math.min(seconds, this.duration));
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
    for (const version of [this.original, this.version, this.#coming]) version?.close();
    this.context?.close();
  }

  #want() {
    if (!this.version) return;
    const seconds = this.#isRunning ? this.#timeline.reached_s : this.#from;
    for (const version of [this.version, this.#coming]) version?.want(this.#timeline.windowsFrom(version, seconds));
  }

  #arrived(version, error) {
    if (!error) this.#pump();
    else if (version === this.version) this.#fail(error);
    else if (version === this.#coming) {
      this.#coming = null;
      this.#dismiss(version, error);
    }
  }

  #pump() {
    if (!this.isGoing) return;
    const timeline = this.#timeline;
    if (timeline.isEmpty) {
      if (this.#coming) this.#take(this.#coming);
      this.#checkLine();
      if (this.#isStarved && !this.#isFilled) return;
      const waits = (this.#countsIn && this.metronome.beats?.countIn(this.#from)) || [];
      if (!timeline.start(this.version, this.#from, waits)) return;
      this.#countsIn = false;
      this.#become("playing");
    }
    if (this.#coming && timeline.goOn(this.#coming)) this.#take(this.#coming);
    timeline.schedule();
    if (timeline.isOver) return this.#end();
    if (timeline.isLate) {
      this.#wait();
      this.#isStarved = true;
    }
    this.#want();
  }

  #checkLine() {
    if (this.isSlow || !this.version.isSlow) return;
    this.isSlow = true;
    this.dispatchEvent(new Event("slow"));
  }

  #wait() {
    this.#stop();
    this.#become("waiting");
  }

  /** Fade out and keep the current position. */
  #stop() {
    this.#from = this.position;
    this.#isStarved = false;
    this.#timeline?.stop();
  }

  #end() {
    this.#stop();
    this.#from = this.duration;
    this.#rest("ended");
  }

  #rest(state) {
    if (this.#coming) this.#take(this.#coming);
    clearInterval(this.#timer);
    this.#timer = null;
    // Suspend after the fade-out to save power.
    this.resting = setTimeout(() => !this.isGoing && this.context?.suspend(), 300);
    this.#become(state);
  }

  #fail(error) {
    this.#stop();
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
