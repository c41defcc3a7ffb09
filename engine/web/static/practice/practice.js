// Everything to practise with, around the mixer.

import { PartSelector } from "./part.js";
import { Ruler } from "./ruler.js";
import { VersionPicker } from "./versions.js";
import { Zoom } from "./zoom.js";

/** `address(name)`: where the server makes "mixes" or "versions" of this job. */
export class Practice {
  constructor(mixer, job, address) {
    const { player, view } = mixer;
    this.ruler = new Ruler(view);
    this.part = new PartSelector(player, view);
    this.versions = new VersionPicker(player, address("versions"), { gainDb: job.result.trust?.gainDb ?? 0 });
    this.zoom = new Zoom(player, view);
    this.player = player;
    mixer.keys = { ...this.part.keys, ...this.zoom.keys };
  }

  /** The key, tempo and range that are heard, as the API takes them. */
  get heard() {
    const { loop, part } = this.player;
    return { ...this.versions.heard, ...(loop && part && { from: part.start, to: part.end }) };
  }
}
