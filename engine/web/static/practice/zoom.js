// Zoom in to a bar and move along: buttons, keys, and the wheel with Ctrl (zoom) or sideways (move).

import { byId, enable } from "../dom.js";

const STEP = 2;

export class Zoom {
  constructor(player, view) {
    Object.assign(this, { player, view });
    byId("zoom-in").addEventListener("click", () => this.#zoom(1 / STEP));
    byId("zoom-out").addEventListener("click", () => this.#zoom(STEP));
    byId("zoom-part").addEventListener("click", () => this.#showPart());
    byId("stage-area").addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    view.addEventListener("change", () => this.#show());
    player.addEventListener("part", () => this.#show());
    this.#show();
  }

  get keys() {
    return { "+": () => this.#zoom(1 / STEP), "-": () => this.#zoom(STEP) };
  }

  /** Zoom around the playhead, or around the middle if the playhead is not shown. */
  #zoom(factor) {
    const { position } = this.player;
    this.view.zoom(factor, this.view.has(position) ? position : this.view.secondsAt(0.5));
  }

  /** Show the part with a little around it, or the whole song. */
  #showPart() {
    const { part } = this.player;
    if (!part || !this.view.isWhole) return this.view.show(0, this.view.duration);
    const margin = 0.05 * (part.end - part.start);
    this.view.show(part.start - margin, part.end + margin);
  }

  #wheel(event) {
    const isZoom = event.ctrlKey;
    const sideways = event.shiftKey ? event.deltaX || event.deltaY : event.deltaX;
    if (!isZoom && (this.view.isWhole || Math.abs(sideways) <= Math.abs(event.deltaY) && !event.shiftKey)) return;
    event.preventDefault();
    const { left, width } = byId("ruler").getBoundingClientRect();
    if (isZoom) this.view.zoom(2 ** (event.deltaY / 300), this.view.secondsAt((event.clientX - left) / width));
    else this.view.move((sideways / width) * this.view.span);
  }

  #show() {
    enable(byId("zoom-out"), !this.view.isWhole);
    byId("zoom-part").textContent = this.view.isWhole && this.player.part ? "Part" : "All";
    enable(byId("zoom-part"), !this.view.isWhole || this.player.part !== null);
  }
}
