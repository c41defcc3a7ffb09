// A stem's waveform as rounded bars, drawn once per size and colour scheme: unplayed, with the played part on top.

const BAR = 3; // CSS pixels
const GAP = 2;
const schemes = [matchMedia("(prefers-color-scheme: dark)"), matchMedia("(forced-colors: active)")];

export class Waveform {
  constructor() {
    this.levels = []; // until the peaks arrive
    this.width = 0; // CSS pixels
    this.range = [0, 1]; // the shares of the song between which it is drawn
    this.element = document.createElement("div");
    this.element.className = "wave";
    this.canvases = [this.#canvas("unplayed"), this.#canvas("played")];
    new ResizeObserver(() => this.draw()).observe(this.element);
    for (const scheme of schemes) scheme.addEventListener("change", () => this.draw());
  }

  /** `peaks`: {low, high}, -127…127; `loudest`: the peak that fills the height, the same for all stems. */
  show({ low, high }, loudest) {
    this.levels = high.map((each, bin) => Math.max(each, -low[bin]) / Math.max(1, loudest));
    this.draw();
  }

  /** Draw only the part of the song between two shares of it. */
  zoom(from, to) {
    this.range = [from, to];
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

  /** Mean peaks of `count` equal parts, compressed so that quiet parts are visible. Between two bins it interpolates. */
  #bars(count) {
    const bins = this.levels.length;
    const [first, last] = this.range;
    const at = (index) => bins * (first + ((last - first) * index) / Math.max(1, count));
    return Array.from({ length: Math.max(1, count) }, (_, index) => {
      const [from, to] = [at(index), at(index + 1)];
      const level = to - from < 1 ? this.#between((from + to) / 2 - 0.5) : this.#mean(Math.floor(from), Math.floor(to));
      return Math.min(1, level ** 0.85);
    });
  }

  #mean(from, to) {
    let sum = 0;
    for (let bin = from; bin < to; bin++) sum += this.levels[bin] ?? 0;
    return sum / (to - from);
  }

  #between(at) {
    const bin = Math.max(0, Math.floor(at));
    const level = this.levels[bin] ?? 0;
    return level + Math.max(0, at - bin) * ((this.levels[bin + 1] ?? level) - level);
  }
}

/** The level that fills a lane, the same for all stems: the 95th percentile of their peaks, so that one click does not
 * make everything else small. */
export function tallest(shapes) {
  const levels = shapes.flatMap(({ low, high }) => high.map((each, bin) => Math.max(each, -low[bin]))).sort((a, b) =>
    a - b
  );
  return Math.max(1, levels[Math.floor(levels.length * 0.95)] ?? 1);
}
