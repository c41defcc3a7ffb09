// Mixer state: faders, pans, mutes, solos and presets, without DOM or audio.

const HIGHEST = Math.SQRT2; // of a fader: +6 dB

export class Mix extends EventTarget {
  isComparing = false; // whether the song is heard as it was recorded

  constructor(names) {
    super();
    this.names = names;
    this.volumes = this.#each(1);
    this.pans = this.#each(0); // −1 is left, 1 right
    this.muted = new Set();
    this.soloed = new Set();
    this.master = 1;
    this.presets = presetsFor(names);
  }

  /** Whether a stem is audible: any solo silences the stems without one. */
  isHeard(name) {
    return this.isComparing || (this.soloed.size ? this.soloed.has(name) : !this.muted.has(name));
  }

  /** Gains by name. The fader is squared, so that half way sounds about half as loud. */
  get gains() {
    const gain = (name) => (this.isComparing ? 1 : this.volumes[name] ** 2);
    return Object.fromEntries(this.names.map((name) => [name, this.isHeard(name) ? gain(name) : 0]));
  }

  /** Pans by name, as heard. */
  get heardPans() {
    return this.isComparing ? this.#each(0) : this.pans;
  }

  #each(value) {
    return Object.fromEntries(this.names.map((name) => [name, value]));
  }

  toggleMute(name) {
    toggle(this.muted, name);
    this.#changed();
  }

  toggleSolo(name) {
    toggle(this.soloed, name);
    this.#changed();
  }

  setVolume(name, volume) {
    this.volumes[name] = clamped(volume, 0, HIGHEST);
    this.#changed();
  }

  setPan(name, pan) {
    this.pans[name] = clamped(pan, -1, 1);
    this.#changed();
  }

  setMaster(volume) {
    this.master = clamped(volume, 0, 1);
    this.#changed();
  }

  /** Hear the song as it was recorded, or the mix again. */
  toggleComparison() {
    this.isComparing = !this.isComparing;
    this.dispatchEvent(new Event("change"));
  }

  apply(preset) {
    this.soloed = new Set();
    this.muted = new Set(this.names.filter((name) => !preset.heard.includes(name)));
    this.#changed();
  }

  /** Set everything but the main volume; names of other songs' stems are ignored. */
  restore({ muted, soloed, volumes, pans }) {
    const known = (names) => new Set(names.filter((name) => this.names.includes(name)));
    this.muted = known(muted);
    this.soloed = known(soloed);
    for (const name of this.names) {
      this.volumes[name] = clamped(volumes[name] ?? 1, 0, HIGHEST);
      this.pans[name] = clamped(pans[name] ?? 0, -1, 1);
    }
    this.#changed();
  }

  isActive(preset) {
    return this.names.every((name) => this.isHeard(name) === preset.heard.includes(name));
  }

  #changed() {
    this.isComparing = false;
    this.dispatchEvent(new Event("change"));
  }
}

function presetsFor(names) {
  const without = (name) => names.filter((other) => other !== name);
  const presets = [{ label: "Everything", heard: names }];
  if (names.includes("vocals")) {
    presets.push({ label: "Karaoke", hint: "no vocals", heard: without("vocals") });
    presets.push({ label: "Only vocals", heard: ["vocals"] });
  }
  for (const name of ["drums", "bass", "guitar", "piano"]) {
    if (names.includes(name)) presets.push({ label: `No ${name}`, heard: without(name) });
  }
  return presets;
}

const clamped = (value, least, most) => Math.min(most, Math.max(least, value));

function toggle(set, name) {
  if (!set.delete(name)) set.add(name);
}
