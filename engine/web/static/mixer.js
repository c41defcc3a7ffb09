// The mixer: one lane per stem, transport and presets.

import { byId, el, icon } from "./dom.js";
import { Lane, setRange } from "./lane.js";
import { Mix } from "./mix.js";
import { View } from "./practice/view.js";
import { Player } from "./sound/player.js";
import { tallest } from "./waveform.js";
import { clock, spokenTime } from "./words.js";

const STEP_S = 5; // of the timeline
const FAR_S = 30;

export class Mixer {
  /** `stems`: [{name, url, size, format, filename}]; `peaks` by name; `duration` in seconds; `level`: gain of the mix. */
  constructor(stems, { duration, level, onError }) {
    this.stems = stems;
    this.mix = new Mix(stems.map((stem) => stem.name));
    this.player = new Player(stems, { duration, level });
    this.view = new View(duration);
    this.onError = onError;
    this.scrubbing = null;
    this.follows = true; // false while the user looks at another place of the song
    this.lanes = stems.map((stem, index) => new Lane(stem, index + 1, this.mix));
    for (const lane of this.lanes) this.#scrub(lane.wave.element);
    byId("lanes").replaceChildren(...this.lanes.map((lane) => lane.element));
    byId("presets").replaceChildren(...this.mix.presets.map((preset) => this.#preset(preset)));
    this.#transport();
    this.mix.addEventListener("change", () => this.#mixed());
    this.player.addEventListener("state", () => this.#state());
    this.player.addEventListener("moved", () => {
      this.view.follow(this.player.position);
      this.#moved();
    });
    this.player.addEventListener("error", () => this.onError(this.player.error));
    this.view.addEventListener("change", () => this.#zoomed());
    this.#mixed();
    this.#state();
    this.#moved();
  }

  /** `peaks`: by stem. */
  showPeaks(peaks) {
    const loudest = tallest(Object.values(peaks));
    for (const { stem, wave } of this.lanes) if (peaks[stem.name]) wave.show(peaks[stem.name], loudest);
  }

  close() {
    this.player.close();
  }

  #preset(preset) {
    const button = el("button", {
      type: "button",
      class: "pill",
      title: preset.hint,
      onclick: () => this.mix.apply(preset),
    }, preset.label);
    const update = () => button.setAttribute("aria-pressed", this.mix.isActive(preset));
    this.mix.addEventListener("change", update);
    update();
    return button;
  }

  #transport() {
    byId("play").addEventListener("click", () => this.toggle());
    byId("home").replaceChildren(icon("start"));
    byId("home").addEventListener("click", () => this.player.seek(0));
    byId("loop").replaceChildren(icon("loop"));
    byId("loop").addEventListener("click", () => (this.player.loop = !this.player.loop));
    byId("compare").addEventListener("click", () => this.mix.toggleComparison());
    const timeline = byId("timeline");
    timeline.addEventListener("input", () => this.player.seek(Number(timeline.value)));
    timeline.addEventListener("keydown", (event) => this.#step(event));
    byId("master-icon").replaceChildren(icon("volume"));
    byId("master").addEventListener("input", (event) => this.mix.setMaster(event.target.value / 100));
    // After a click, space and arrows control the player again.
    const takeFocus = (event, selector) => event.target.closest?.(selector) && byId("mixer").focus({ preventScroll: true });
    byId("mixer").addEventListener("click", (event) => event.detail > 0 && takeFocus(event, "button:not(#show-keys)"));
    byId("mixer").addEventListener("pointerup", (event) => takeFocus(event, "input[type=range]"));
  }

  /** Move by keys in steps that are worth hearing; the steps of the slider itself are as fine as pixels. */
  #step(event) {
    const steps = {
      ArrowLeft: -STEP_S,
      ArrowDown: -STEP_S,
      ArrowRight: STEP_S,
      ArrowUp: STEP_S,
      PageDown: -FAR_S,
      PageUp: FAR_S,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.player.seek(this.player.position + steps[event.key]);
  }

  /** Seek by clicking or dragging on a waveform. */
  #scrub(wave) {
    const seconds = (event) => {
      const { left, width } = wave.getBoundingClientRect();
      return this.view.secondsAt(Math.min(1, Math.max(0, (event.clientX - left) / width)));
    };
    wave.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      wave.setPointerCapture(event.pointerId);
      this.scrubbing = seconds(event);
      this.#moved();
    });
    wave.addEventListener("pointermove", (event) => {
      byId("hover").textContent = clock(seconds(event));
      byId("lanes").style.setProperty("--hover", `${event.clientX - byId("lanes").getBoundingClientRect().left}px`);
      if (this.scrubbing === null) return;
      this.scrubbing = seconds(event);
      this.#moved();
    });
    wave.addEventListener("pointerup", () => {
      if (this.scrubbing === null) return;
      const target = this.scrubbing;
      this.scrubbing = null;
      this.player.seek(target);
    });
    wave.addEventListener("pointercancel", () => (this.scrubbing = null));
  }

  toggle() {
    if (this.player.isGoing) this.player.pause();
    else this.player.play().catch(() => {}); // reported by the event "error"
  }

  #mixed() {
    this.player.setGains(this.mix.gains, this.mix.master ** 2, this.mix.heardPans);
    for (const lane of this.lanes) lane.update();
    byId("compare").setAttribute("aria-pressed", this.mix.isComparing);
    setRange(byId("master"), this.mix.master * 100);
  }

  #state() {
    const { state, isGoing } = this.player;
    byId("play").replaceChildren(icon(isGoing ? "pause" : "play"));
    byId("play").setAttribute("aria-label", isGoing ? "Pause" : "Play");
    byId("play").classList.toggle("busy", state === "waiting" || state === "loading");
    byId("player").dataset.state = state;
    if (isGoing) this.frame ??= requestAnimationFrame(() => this.#animate());
    else this.#moved();
  }

  #animate() {
    this.frame = null;
    const { position } = this.player;
    this.follows ||= this.view.has(position);
    if (this.follows && this.scrubbing === null) this.view.follow(position);
    this.#moved();
    const { isGoing, stems } = this.player;
    const sounds = this.lanes.map((lane) => lane.showLevel(stems.find(({ name }) => name === lane.stem.name)?.meter, isGoing));
    if (isGoing || sounds.includes(true)) this.frame = requestAnimationFrame(() => this.#animate());
  }

  #moved() {
    const { duration } = this.player;
    const position = this.scrubbing ?? this.player.position;
    const text = `${clock(position)} / ${clock(duration)}`;
    if (byId("time").textContent !== text) {
      byId("time").textContent = text;
      byId("timeline").setAttribute("aria-valuetext", `${spokenTime(position)} of ${spokenTime(duration)}`);
    }
    // Only if a pixel changes: painting dominates the cost.
    const pixels = Math.max(100, this.lanes[0].wave.width * devicePixelRatio);
    const played = Math.round(this.view.shareAt(position) * pixels) / pixels;
    if (played === this.played) return;
    this.played = played;
    byId("player").style.setProperty("--played", `${(Math.max(-1, Math.min(played, 2)) * 100).toFixed(3)}%`);
    byId("timeline").max = duration;
    setRange(byId("timeline"), position);
  }

  #zoomed() {
    this.follows = this.view.has(this.player.position);
    const { duration } = this.view;
    for (const { wave } of this.lanes) wave.zoom(this.view.from / duration, this.view.to / duration);
    this.#moved();
  }
}
