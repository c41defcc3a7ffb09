// What a song can be played without: its tools, its quality, and the controls of the system.

import { offerAgain } from "./again.js";
import { offerComparison } from "./compare/offer.js";
import { byId } from "./dom.js";
import { Shortcuts } from "./keys.js";
import { Practice } from "./practice/practice.js";
import { offerMix } from "./save.js";
import { connectMediaSession } from "./system/media_session.js";
import { pauseOtherTabs } from "./system/tabs.js";
import { keepScreenOn } from "./system/wake_lock.js";
import { showTrust } from "./trust.js";

/** Add them to a mixer; returns the `Practice`. */
export function addTools(mixer, job) {
  const { player, stems } = mixer;
  const address = (name) => `/api/jobs/${job.jobId}/${name}?${job.pageQuery}`;
  const shortcuts = new Shortcuts(mixer);
  const practice = new Practice(mixer, job, { address, shortcuts });
  offerMix(mixer.mix, () => practice.heard, address("mixes"), job.options.outputFormat);
  if (job.mayRepeat) {
    offerAgain(job, address("again"), player.duration);
    offerComparison(job, address("compare"), player);
  }
  showTrust(job, stems);
  byId("last-key").textContent = stems.length;
  connectMediaSession(player, job);
  pauseOtherTabs(player);
  keepScreenOn(player);
  byId("practice").inert = false;
  return practice;
}
