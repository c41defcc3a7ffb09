// A stem's waveform as rounded bars, drawn once per size and colour scheme: unplayed, with the played part on top.

const BAR = 3; // CSS pixels
const GAP = 2;
const scheme = matchMedia("(prefers-color-scheme: dark)");

export class Waveform {
  constructor() {
    this.levels = []; // until the peaks arrive
    this.width = 0; // CSS pixels
    this.element = document.createElement("div");
    this.element.className = "wave";
    this.canvases = [this.#canvas("unplayed"), this.#canvas("played")];
    new ResizeObserver(() => this.draw()).observe(this.element);
    scheme.addEventListener("change", () => this.draw());
  }

  /** `peaks`: {low, high}, -127…127; `loudest`: the peak that fills the height, the same for all stems. */
  show({ low, high }, loudest) {
    this.levels = high.map((each, bin) => Math.max(each, -low[bin]) / Math.max(1, loudest));
    this.draw();
  }

  #canvas(name) {
    const canvas = document.createElement("canvas");
    canvas.className = name;
    canvas.setAttribute("aria-hidden", "true");
    this.element.append(canvas);
    return canvas;
  }

  draw() {
    const { width, height } = this.element.getBoundingClientRect();
    this.width = width;
    if (!width || !height) return;
    const bars = this.#bars(Math.floor((width + GAP) / (BAR + GAP)));
    const ratio = window.devicePixelRatio || 1;
    for (const canvas of this.canvases) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      const context = canvas.getContext("2d");
      context.scale(canvas.width / width, canvas.height / height);
      context.fillStyle = getComputedStyle(canvas).color;
      context.beginPath();
      const step = (width + GAP) / bars.length;
      bars.forEach((level, index) => {
        const size = Math.max(BAR, level * (height - 8));
        context.roundRect(index * step, (height - size) / 2, BAR, size, BAR / 2);
      });
      context.fill();
    }
  }

  /** Mean peaks of `count` equal parts, compressed so that quiet parts are visible. */
  #bars(count) {
    const bins = this.levels.length;
    return Array.from({ length: Math.max(1, count) }, (_, index) => {
      const from = Math.floor((index * bins) / count);
      const to = Math.max(from + 1, Math.floor(((index + 1) * bins) / count));
      let sum = 0;
      for (let bin = from; bin < to; bin++) sum += this.levels[bin] ?? 0;
      return Math.min(1, (sum / (to - from)) ** 0.85);
    });
  }
}
