// What a choice of model and quality costs: time and a download.

import { about, unit } from "./words.js";

export const AUTO = ""; // the model that suits the quality

/** The model that `name` stands for; undefined if the server has none of that name. */
export function modelOf(choices, name, quality, karaoke) {
  const defaults = karaoke ? choices.karaokeDefaults : choices.defaults;
  return choices.models.find((model) => model.name === (name || defaults?.[quality]));
}

/** "about 2 minutes"; empty if unknown. `name`: of the model. */
export function timeWords(choices, name, quality, karaoke = false) {
  const model = modelOf(choices, name, quality, karaoke);
  return model?.usable ? about(model.expectedS[quality]) : "";
}

/** The announcement of a download before the separation; empty if there is none. */
export function downloadWords(choices, name, quality, karaoke = false) {
  const model = modelOf(choices, name, quality, karaoke);
  if (!model?.usable || model.isDownloaded || model.name === "mini") return "";
  const size = model.downloadBytes ? ` of ${unit(Math.round(model.downloadBytes / 1e6), "MB")}` : "";
  return `The first song with ${model.name} starts with a download${size}.`;
}
