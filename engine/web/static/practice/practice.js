// Everything to practise with, around the mixer.

import { ask } from "../api.js";
import { byId } from "../dom.js";
import { Beats } from "./beats.js";
import { ChordLane } from "./chords.js";
import { SessionLink } from "./link.js";
import { PartSelector } from "./part.js";
import { Ruler } from "./ruler.js";
import { BeatTools } from "./beat_tools.js";
import { VersionPicker } from "./versions.js";
import { Zoom } from "./zoom.js";

export class Practice {
  /** `address(name)`: where the server makes "mixes" or "versions" of this job; `shortcuts`: gets the keys. */
  constructor(mixer, job, { address, shortcuts }) {
    const { player, view } = mixer;
    const music = job.result.music ?? null;
    Object.assign(this, { mixer, player, music });
    this.ruler = new Ruler(view);
    const progress = `/jobs/${job.jobId}/version-progress.json?${job.pageQuery}`;
    this.versions = new VersionPicker(player, address("versions"), progress, { gainDb: job.result.trust?.gainDb ?? 0 });
    this.beatTools = new BeatTools(player, music);
    this.part = new PartSelector(
      player,
      view,
      (seconds) => this.beatTools.beats?.nearest(seconds) ?? null,
      (number) => this.beatTools.beats?.barAt(number) ?? null,
    );
    this.zoom = new Zoom(player, view);
    this.link = new SessionLink(job.jobId, mixer, this);
    byId("copy-link").addEventListener("click", () => this.#copyLink(job));
    shortcuts.add({ ...this.part.keys, ...this.zoom.keys, ...this.beatTools.keys });
    // Without them the song can still be played.
    this.ready = Promise.allSettled([this.#showBeats(job.files.beats), this.#showChords(job.files.chords)]);
  }

  /** The key, tempo and range that are heard, as the API takes them. */
  get heard() {
    const { loop, part } = this.player;
    const { key, tempo } = this.versions.heard;
    return { key, tempo, ...(loop && part && { from: part.start, to: part.end }) };
  }

  async #showBeats(address) {
    if (!address) return;
    const found = await ask(address);
    if (found.beats.length < 2) return;
    const beats = new Beats(found);
    this.ruler.showBeats(beats);
    this.beatTools.showBeats(beats);
  }

  async #showChords(address) {
    if (!address) return;
    const { chords } = await ask(address);
    new ChordLane(this.player, this.mixer.view, chords, this.music?.key ?? null);
  }

  /** Copy a link that opens this page in the same state, also without a token. */
  async #copyLink({ jobId, pageQuery }) {
    const query = pageQuery && `?${pageQuery}`;
    const link = `${location.origin}/jobs/${jobId}${query}${this.link.text && `#${this.link.text}`}`;
    try {
      await navigator.clipboard.writeText(link);
      byId("link-words").textContent = "Link copied. It opens this song just as it is now.";
    } catch {
      prompt("Copy this link:", link); // a page without HTTPS may not write to the clipboard
    }
  }
}
