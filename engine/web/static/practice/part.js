// Choose the part that is repeated: by dragging on the ruler, with its two handles, by typed times or by keys.

import { byId, el, icon, keepFocus, show } from "../dom.js";
import { barOf, exactClock, secondsOf, spokenTime } from "../words.js";

const LEAST_S = 0.25;
const DRAG_PX = 4; // a shorter drag is a click
const STEP_S = 0.1;
const FAR_S = 1;
const SNAP_PX = 8;

export class PartSelector {
  /** `nearestBeat(seconds)`: the beat to snap to, or null; `barAt(number)`: {start, end} of a bar, or null. */
  constructor(player, view, nearestBeat = () => null, barAt = () => null) {
    Object.assign(this, { player, view, nearestBeat, barAt });
    this.dragged = null; // the part while it is dragged
    this.handles = { start: this.#handle("start"), end: this.#handle("end") };
    this.band = el("div", { class: "part" }, this.handles.start, this.handles.end);
    byId("part-area").replaceChildren(this.band);
    this.#dragOnRuler();
    for (const edge of ["start", "end"]) byId(`part-${edge}`).addEventListener("change", () => this.#typed(edge));
    byId("part-clear").replaceChildren(icon("close"));
    byId("part-clear").addEventListener("click", () => {
      player.setPart(null);
      keepFocus(byId("loop"));
    });
    player.addEventListener("part", () => this.#draw());
    view.addEventListener("change", () => this.#draw());
    this.#draw();
  }

  get keys() {
    return {
      KeyL: () => (this.player.loop = !this.player.loop),
      KeyI: () => this.#move("start", this.player.position),
      KeyO: () => this.#move("end", this.player.position),
    };
  }

  /** Set one edge. Without a part, the other edge is that of the song. */
  #move(edge, seconds) {
    const { start, end } = this.player.part ?? { start: 0, end: this.player.duration };
    this.#choose({ start, end, [edge]: seconds }, edge);
  }

  /** Repeat a part; one that is too short is extended at the edge that was not `moved`. */
  #choose({ start, end }, moved) {
    const { duration } = this.player;
    const inSong = (seconds) => Math.max(0, Math.min(seconds, duration));
    [start, end] = [inSong(start), inSong(end)];
    if (end - start < LEAST_S) {
      if (moved === "end") start = Math.max(0, end - LEAST_S);
      else start = Math.min(start, duration - LEAST_S);
      end = Math.max(end, start + LEAST_S);
    }
    this.player.setPart({ start, end });
  }

  #dragOnRuler() {
    const ruler = byId("ruler");
    let from = null;
    ruler.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      ruler.setPointerCapture(event.pointerId);
      from = { x: event.clientX, seconds: this.#secondsAt(event) };
    });
    ruler.addEventListener("pointermove", (event) => {
      if (!from || (!this.dragged && Math.abs(event.clientX - from.x) < DRAG_PX)) return;
      const to = this.#secondsAt(event);
      this.dragged = { start: Math.min(from.seconds, to), end: Math.max(from.seconds, to) };
      this.#draw();
    });
    ruler.addEventListener("pointerup", () => {
      if (from && this.dragged) this.#drop();
      else if (from) this.player.seek(from.seconds);
      from = null;
    });
    ruler.addEventListener("pointercancel", () => {
      from = this.dragged = null;
      this.#draw();
    });
  }

  #drop(moved) {
    const part = this.dragged;
    this.dragged = null;
    this.#choose(part, moved);
  }

  #handle(edge) {
    const label = edge === "start" ? "Start of the loop" : "End of the loop";
    const handle = el("span", { class: `handle ${edge}`, role: "slider", tabindex: 0, "aria-label": label, "aria-valuemin": 0 });
    handle.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.stopPropagation();
      handle.setPointerCapture(event.pointerId);
      this.dragged = { ...this.player.part };
    });
    handle.addEventListener("pointermove", (event) => {
      if (!this.dragged || !handle.hasPointerCapture(event.pointerId)) return;
      const { start, end } = this.player.part;
      const at = this.#secondsAt(event);
      this.dragged = edge === "start" ? { start: Math.min(at, end - LEAST_S), end } : { start, end: Math.max(at, start + LEAST_S) };
      this.#draw();
    });
    handle.addEventListener("pointerup", () => this.dragged && this.#drop(edge));
    handle.addEventListener("pointercancel", () => {
      this.dragged = null;
      this.#draw();
    });
    handle.addEventListener("keydown", (event) => this.#step(event, edge));
    return handle;
  }

  #step(event, edge) {
    const at = this.player.part?.[edge];
    const far = event.shiftKey ? FAR_S : STEP_S;
    const targets = {
      ArrowLeft: at - far,
      ArrowDown: at - far,
      ArrowRight: at + far,
      ArrowUp: at + far,
      PageDown: at - 10 * FAR_S,
      PageUp: at + 10 * FAR_S,
      Home: 0,
      End: this.player.duration,
    };
    if (at === undefined || !(event.key in targets)) return;
    event.preventDefault();
    event.stopPropagation(); // these keys also seek
    this.#move(edge, targets[event.key]);
  }

  /** The time under the pointer, on a beat if one is near. Alt switches snapping off. */
  #secondsAt(event) {
    const { left, width } = byId("ruler").getBoundingClientRect();
    const seconds = this.view.secondsAt(Math.min(1, Math.max(0, (event.clientX - left) / width)));
    const beat = event.altKey ? null : this.nearestBeat(seconds);
    const isNear = beat !== null && Math.abs(beat - seconds) * width <= SNAP_PX * this.view.span;
    return isNear ? beat : seconds;
  }

  #typed(edge) {
    const field = byId(`part-${edge}`);
    const seconds = this.#secondsOf(field.value, edge);
    const isCleared = field.value.trim() === "";
    const isWrong = !isCleared && (seconds === null || seconds > this.player.duration);
    field.setAttribute("aria-invalid", isWrong);
    const example = exactClock(this.player.duration / 2);
    const barExample = this.barAt(1) ? ", or a bar, such as bar 2" : "";
    byId("part-words").textContent = isWrong ? `Enter a time of the song, such as ${example}${barExample}.` : "";
    if (isCleared && !byId(edge === "start" ? "part-end" : "part-start").value.trim()) this.player.setPart(null);
    else if (!isWrong) this.#move(edge, seconds ?? (edge === "start" ? 0 : this.player.duration));
  }

  /** The time of "1:02.5", or that of "bar 17": its start or, as the end of the part, its end. */
  #secondsOf(text, edge) {
    const number = barOf(text);
    if (number === null) return secondsOf(text);
    const bar = this.barAt(number);
    return bar && (bar[edge] ?? this.player.duration);
  }

  #draw() {
    const part = this.dragged ?? this.player.part;
    show(this.band, part !== null);
    show(byId("part-clear"), this.player.part !== null);
    byId("loop").setAttribute("aria-pressed", this.player.loop);
    byId("loop").title = this.player.part ? "Repeat the part (L)" : "Repeat the song (L)";
    this.band.classList.toggle("off", !this.player.loop && !this.dragged);
    for (const [edge, handle] of Object.entries(this.handles)) {
      const field = byId(`part-${edge}`);
      if (document.activeElement !== field || part) field.value = part ? exactClock(part[edge]) : "";
      if (!part) continue;
      field.setAttribute("aria-invalid", false);
      this.band.style.setProperty(`--part-${edge}`, `${(this.view.shareAt(part[edge]) * 100).toFixed(4)}%`);
      handle.setAttribute("aria-valuemax", this.player.duration.toFixed(2));
      handle.setAttribute("aria-valuenow", part[edge].toFixed(2));
      handle.setAttribute("aria-valuetext", spokenTime(part[edge], 1));
    }
  }
}
