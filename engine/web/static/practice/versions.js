// Another tempo or key, or a preview for a slow line. The server makes all stems for it, while the song plays on. Event:
// "change".

import { ask, here } from "../api.js";
import { byId, enable, keepFocus, show } from "../dom.js";
import { percent, semitones } from "../words.js";

const LEAST_PERCENT = 50;
const MOST_PERCENT = 120;
const MOST_KEY = 6;
const SETTLED_MS = 500; // several presses are one change
const ASK_AGAIN_MS = 700;
const ORIGINAL = { key: 0, tempo: 1, isPreview: false };

export class VersionPicker extends EventTarget {
  #timer = null;
  #isMaking = false;

  /** `address`: where the server makes versions of this job, `progressAddress`: where it says how far it is; `gainDb`: the
   * common gain of its stems. */
  constructor(player, address, progressAddress, { gainDb }) {
    super();
    Object.assign(this, { player, address, progressAddress, gainDb });
    this.wanted = ORIGINAL;
    this.#wire("tempo", 5, (value) => this.want({ tempo: value / 100 }), () => this.wanted.tempo * 100);
    this.#wire("key", 1, (value) => this.want({ key: value }), () => this.wanted.key);
    byId("full-quality").addEventListener("click", () => {
      this.want({ isPreview: false }, 0);
      keepFocus(byId("mixer"));
    });
    player.addEventListener("version", () => this.#show());
    player.addEventListener("slow", () => this.want({ isPreview: true }, 0));
    if (player.isSlow) this.want({ isPreview: true }, 0);
    this.#show();
  }

  /** What is heard: {key, tempo, isPreview}. */
  get heard() {
    const { key, tempo, isPreview } = this.player.version ?? ORIGINAL;
    return { key, tempo, isPreview };
  }

  #wire(name, step, set, value) {
    byId(name).addEventListener("change", () => {
      const typed = Number.parseFloat(byId(name).value.replace("−", "-").replace(",", "."));
      if (Number.isFinite(typed)) set(typed);
      else this.#show();
    });
    byId(`${name}-less`).addEventListener("click", () => set(value() - step));
    byId(`${name}-more`).addEventListener("click", () => set(value() + step));
  }

  /** Ask for another version; values out of range are moved into it. */
  want({ key = this.wanted.key, tempo = this.wanted.tempo, isPreview = this.wanted.isPreview }, delay_ms = SETTLED_MS) {
    const whole = (value, least, most) => Math.min(most, Math.max(least, Math.round(value)));
    [key, tempo] = [whole(key, -MOST_KEY, MOST_KEY), whole(tempo * 100, LEAST_PERCENT, MOST_PERCENT) / 100];
    this.wanted = { key, tempo, isPreview };
    this.#show();
    this.#tell("");
    this.dispatchEvent(new Event("change"));
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#make(), delay_ms);
  }

  /** Make the version chosen last. One request at a time: the server limits how many it makes at once. */
  async #make() {
    if (this.#isMaking) return;
    this.#isMaking = true;
    for (let wanted; !isSame((wanted = this.wanted), this.heard);) {
      this.#tell(`Making it ${words(wanted)}…`, "busy");
      const made = new AbortController();
      this.#showProgress(wanted, made.signal);
      try {
        await this.#change(wanted);
        this.#tell(`Now ${words(wanted)}.`);
      } catch (error) {
        if (!isSame(wanted, this.wanted)) continue; // another one is wanted by now
        this.wanted = this.heard;
        this.dispatchEvent(new Event("change"));
        this.#tell(error.message, "bad");
        break;
      } finally {
        made.abort();
      }
    }
    if (byId("version-words").className === "busy") this.#tell("");
    this.#isMaking = false;
    this.#show();
  }

  /** Show how much of a version is made, until `signal` ends it. */
  async #showProgress({ key, tempo, isPreview }, signal) {
    const pause = () => new Promise((resolve) => setTimeout(resolve, ASK_AGAIN_MS));
    for (await pause(); !signal.aborted; await pause()) {
      const found = await ask(`${this.progressAddress}&key=${key}&tempo=${tempo}&preview=${isPreview}`, { signal }).catch(() => null);
      if (signal.aborted || !found?.progress) continue;
      byId("version-progress").textContent = ` ${percent(found.progress / 100)}`;
    }
  }

  async #change(wanted) {
    if (isSame(wanted, ORIGINAL)) return this.player.changeVersion(null);
    const { key, tempo, isPreview } = wanted;
    const format = isPreview ? { format: "mp3" } : {};
    const headers = { "Content-Type": "application/json" };
    const made = await ask(this.address, { method: "POST", headers, body: JSON.stringify({ key, tempo, preview: isPreview }) });
    const files = Object.entries(made.stems).map(([name, { url, size }]) => [name, { url: fromHere(url), size, ...format }]);
    const gain = 10 ** ((this.gainDb - made.gainDb) / 20);
    return this.player.changeVersion(Object.fromEntries(files), { ...wanted, gain });
  }

  #show() {
    byId("tempo").value = Math.round(this.wanted.tempo * 100);
    byId("key").value = semitones(this.wanted.key);
    show(byId("full-quality"), this.wanted.isPreview);
    enable(byId("tempo-less"), this.wanted.tempo * 100 > LEAST_PERCENT);
    enable(byId("tempo-more"), this.wanted.tempo * 100 < MOST_PERCENT);
    enable(byId("key-less"), this.wanted.key > -MOST_KEY);
    enable(byId("key-more"), this.wanted.key < MOST_KEY);
  }

  #tell(text, kind = "") {
    byId("version-words").textContent = text;
    byId("version-progress").textContent = "";
    byId("version-words").className = kind;
  }
}

function isSame(one, other) {
  return one.key === other.key && one.tempo === other.tempo && one.isPreview === other.isPreview;
}

function words({ key, tempo, isPreview }) {
  const parts = [
    tempo === 1 ? null : `at ${percent(tempo)}`,
    key === 0 ? null : `in key ${semitones(key)}`,
    isPreview ? "as a preview for a slow line" : null,
  ];
  return parts.filter(Boolean).join(", ") || "as recorded";
}

/** A file's address on this server, which sends the bytes: the player may fetch ranges from there only. */
function fromHere(url) {
  return `${here(url).replace("&via=cdn", "")}&via=here`;
}
