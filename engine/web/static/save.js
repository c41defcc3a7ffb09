// Save what is heard as one file. The server makes it from the stems.

import { ask, here } from "./api.js";
import { byId, el, icon } from "./dom.js";
import { bytes, decibels } from "./words.js";

const AUDIBLE_CHANGE_DB = 0.05;

/** `mix`: the levels; `change()`: the key, tempo and range that are heard; `address`: where the server makes mixes of this
 * job; `format`: the first choice, if possible. */
export function offerMix(mix, change, address, format) {
  const form = byId("save");
  const formats = byId("save-format");
  if ([...formats.options].some(({ value }) => value === format)) formats.value = format;
  byId("save-mix").replaceChildren(icon("download"), "Save this mix");
  mix.addEventListener("change", () => byId("save-words").matches(".bad") && tell(""));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.ariaBusy === "true") return; // the button keeps the focus, so it is not disabled
    if (Object.values(mix.gains).every((gain) => gain === 0)) return fail("All stems are silent. Turn one up first.");
    form.ariaBusy = "true";
    tell("Making the mix…");
    try {
      download(await make(address, { gains: mix.gains, pans: mix.heardPans, format: formats.value, ...change() }));
    } catch (error) {
      fail(error.message);
    } finally {
      form.ariaBusy = "false";
    }
  });
}

function make(address, wanted) {
  const headers = { "Content-Type": "application/json" };
  return ask(address, { method: "POST", headers, body: JSON.stringify(wanted) });
}

/** Download the file. Its link is shown too: a browser may block a download that begins late. */
function download({ filename, url, size, gainDb }) {
  const link = el("a", { href: `${here(url)}&download`, download: filename }, filename);
  const lowered = gainDb <= -AUDIBLE_CHANGE_DB ? ` Turned down by ${decibels(-gainDb).replace("+", "")}: it would clip.` : "";
  tell("Saved: ", link, `, ${bytes(size)}.${lowered}`);
  link.click();
}

function fail(message) {
  tell(message);
  byId("save-words").className = "bad";
}

function tell(...words) {
  byId("save-words").className = "";
  byId("save-words").replaceChildren(...words);
}
