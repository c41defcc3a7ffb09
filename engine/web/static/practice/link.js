// The state of the player in the link of the page, and remembered for each song: "bar 17 at 80 %" can be sent to a
// bandmate. It is in the fragment, which a browser does not send to the server.

const STORE = "stemify-practice";
const MOST_SONGS = 50;
const SETTLED_MS = 300;

/** The state in the fragment; empty for one that names a part of the page, such as "#try-models". */
function stateInLink() {
  const fragment = location.hash.slice(1);
  return fragment.includes("=") ? fragment : "";
}

export class SessionLink {
  #timer = null;

  constructor(id, mixer, practice) {
    Object.assign(this, { id, mixer, practice });
    const text = stateInLink() || remembered()[id];
    if (text) this.#apply(text);
    const sources = [mixer.mix, mixer.view, practice.versions, practice.beatTools];
    for (const source of sources) source.addEventListener("change", () => this.#changed());
    mixer.player.addEventListener("part", () => this.#changed());
    addEventListener("hashchange", () => this.#apply(stateInLink()));
    this.#write();
  }

  #changed() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#write(), SETTLED_MS);
  }

  /** The state as text; empty if nothing was changed. */
  get text() {
    const { mix, player, view } = this.mixer;
    const { versions, beatTools } = this.practice;
    const state = new URLSearchParams();
    const set = (name, value) => value && state.set(name, value);
    if (player.part) set("part", `${rounded(player.part.start)}-${rounded(player.part.end)}`);
    if (player.loop !== (player.part !== null)) set("repeat", player.loop ? "on" : "off");
    if (versions.wanted.tempo !== 1) set("tempo", Math.round(versions.wanted.tempo * 100));
    set("key", versions.wanted.key);
    if (!view.isWhole) set("view", `${rounded(view.from)}-${rounded(view.to)}`);
    set("mute", [...mix.muted].join());
    set("solo", [...mix.soloed].join());
    set("volume", mix.names.filter((name) => mix.volumes[name] !== 1).map((name) => `${name}:${rounded(mix.volumes[name])}`).join());
    set("pan", mix.names.filter((name) => mix.pans[name]).map((name) => `${name}:${rounded(mix.pans[name])}`).join());
    if (beatTools.factor !== 1) set("beats", beatTools.factor);
    if (player.metronome.isOn) set("click", "on");
    if (player.metronome.countsIn) set("countin", "on");
    return String(state).replaceAll("%3A", ":").replaceAll("%2C", ",");
  }

  #write() {
    const { text } = this;
    history.replaceState(history.state, "", `${location.pathname}${location.search}${text && `#${text}`}`);
    const songs = remembered();
    delete songs[this.id]; // the last one changed is the last one forgotten
    if (text) songs[this.id] = text;
    try {
      localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(Object.entries(songs).slice(-MOST_SONGS))));
    } catch {
      // storage may be forbidden or full
    }
  }

  #apply(text) {
    const state = new URLSearchParams(text);
    const { mix, player, view } = this.mixer;
    const { versions, beatTools } = this.practice;
    mix.restore({
      muted: names(state.get("mute")),
      soloed: names(state.get("solo")),
      volumes: values(state.get("volume")),
      pans: values(state.get("pan")),
    });
    const part = range(state.get("part"), player.duration);
    player.setPart(part);
    if (state.has("repeat")) player.loop = state.get("repeat") === "on";
    const tempo = Number.parseFloat(state.get("tempo") ?? 100) / 100;
    const key = Number.parseFloat(state.get("key") ?? 0);
    if (Number.isFinite(tempo) && Number.isFinite(key)) versions.want({ key, tempo }, 0);
    const shown = range(state.get("view"), view.duration) ?? { start: 0, end: view.duration };
    view.show(shown.start, shown.end);
    beatTools.restore({
      factor: Number(state.get("beats") ?? 1),
      isOn: state.get("click") === "on",
      countsIn: state.get("countin") === "on",
    });
  }
}

const rounded = (number) => String(Math.round(number * 1000) / 1000);

const names = (text) => (text ? text.split(",") : []);

/** {vocals: 0.5} of "vocals:0.5" */
function values(text) {
  const pairs = names(text).map((pair) => pair.split(":")).map(([name, value]) => [name, Number.parseFloat(value)]);
  return Object.fromEntries(pairs.filter(([, value]) => Number.isFinite(value)));
}

/** {start, end} of "12.5-18.25", or null if the song has no such range. */
function range(text, duration) {
  const [, start, end] = /^(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$/.exec(text ?? "") ?? [];
  const found = { start: Number(start), end: Math.min(Number(end), duration) };
  return found.end > found.start ? found : null;
}

function remembered() {
  try {
    const songs = JSON.parse(localStorage.getItem(STORE));
    return songs !== null && typeof songs === "object" && !Array.isArray(songs) ? songs : {};
  } catch {
    return {};
  }
}
