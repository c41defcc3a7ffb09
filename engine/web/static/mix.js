// Mixer state: faders, mutes, solos and presets, without DOM or audio.

export class Mix extends EventTarget {
  constructor(names) {
    super();
    this.names = names;
    this.volumes = Object.fromEntries(names.map((name) => [name, 1]));
    this.muted = new Set();
    this.soloed = new Set();
    this.master = 1;
    this.presets = presetsFor(names);
  }

  /** Whether a stem is audible: any solo silences the stems without one. */
  isHeard(name) {
    return this.soloed.size ? this.soloed.has(name) : !this.muted.has(name);
  }

  /** Gains by name. The fader is squared, so that half way sounds about half as loud. */
  get gains() {
    return Object.fromEntries(
      this.names.map((name) => [name, this.isHeard(name) ? this.volumes[name] ** 2 : 0]),
    );
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
    this.volumes[name] = clamped(volume);
    this.#changed();
  }

  setMaster(volume) {
    this.master = clamped(volume);
    this.#changed();
  }

  apply(preset) {
    this.soloed = new Set();
    this.muted = new Set(this.names.filter((name) => !preset.heard.includes(name)));
    this.#changed();
  }

  isActive(preset) {
    return this.names.every((name) => this.isHeard(name) === preset.heard.includes(name));
  }

  #changed() {
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

const clamped = (value) => Math.min(1, Math.max(0, value));

function toggle(set, name) {
  if (!set.delete(name)) set.add(name);
}
