// The start page: submit a file or a link with options.

import { ask, storedToken, storeToken, tokenWords } from "./api.js";
import { AUTO, downloadWords, timeWords } from "./cost.js";
import { byId, el, keepFocus, show } from "./dom.js";
import { recent } from "./recent.js";
import { Sending } from "./sending.js";
import { bytes, day, unit } from "./words.js";

let choices = { models: [], sample: true, links: true, wantsToken: false, maxBytes: 50 * 2 ** 20, maxDurationS: 600 };
let file = null;
let sending = null;

/** Show an error. `field`: the one to correct, which gets the focus. */
function showError(error, field = null) {
  byId("error").textContent = error?.message ?? "";
  show(byId("error"), Boolean(error));
  for (const name of ["file", "link", "token"]) byId(name).setAttribute("aria-invalid", name === field);
  if (field) byId(field).focus();
}

function choose(chosen) {
  showError(null);
  file = chosen ?? null;
  show(byId("drop"), !file);
  show(byId("chosen"), Boolean(file));
  show(byId("link-part"), !file && choices.links);
  if (!file) {
    byId("file").value = "";
    return;
  }
  byId("chosen-name").textContent = file.name;
  byId("chosen-size").textContent = bytes(file.size);
  if (isTooLarge()) showError(tooLarge());
  byId(isTooLarge() ? "unchoose" : "go").focus();
}

const isTooLarge = () => file?.size > choices.maxBytes;

function tooLarge() {
  const size = `This file has ${bytes(file.size)}, the limit is ${unit(Math.round(choices.maxBytes / 2 ** 20), "MB")}.`;
  const fitsAsFlac = isUncompressed() && 0.75 * file.size <= choices.maxBytes;
  const advice = fitsAsFlac ? "As FLAC or MP3 it fits." : `Send it as an MP3, at most ${unit(2.3, "MB")} a minute.`;
  return new Error(`${size} ${advice}`);
}

const isUncompressed = () => /\.(wav|aiff?)$/i.test(file.name);

function options() {
  const value = (name) => document.querySelector(`input[name=${name}]:checked`).value;
  const chosen = {
    quality: value("quality"),
    outputFormat: value("format"),
    removeVocals: byId("karaoke").checked,
    normalize: byId("normalize").checked,
  };
  if (byId("model").value !== AUTO) chosen.model = byId("model").value;
  return chosen;
}

function showModels() {
  const standard = choices.models.find(({ name }) => name === "htdemucs");
  const list = choices.models.map(({ name, usable }) =>
    el("option", { value: name, disabled: !usable }, usable ? name : `${name} (not available)`)
  );
  if (!standard || standard.usable) list.unshift(el("option", { value: AUTO }, "Automatic"));
  byId("model").replaceChildren(...list);
  const firstUsable = choices.models.find(({ usable }) => usable);
  byId("model").value = !standard || standard.usable ? AUTO : (firstUsable?.name ?? AUTO);
  modelHint();
}

/** Show what each quality takes with the chosen model. */
function showCosts() {
  const { quality, removeVocals } = options();
  for (const input of document.querySelectorAll("input[name=quality]")) {
    byId(`time-${input.value}`).textContent = timeWords(choices, byId("model").value, input.value, removeVocals);
  }
  byId("download-words").textContent = downloadWords(choices, byId("model").value, quality, removeVocals);
}

function modelHint() {
  showCosts();
  const model = choices.models.find(({ name }) => name === byId("model").value);
  const missing = choices.models.filter(({ usable }) => !usable).map(({ name, reason }) => `${name}: ${reason}`);
  byId("model-hint").textContent = model
    ? [model.description, model.traits.join(" · "), `source of the licence: ${model.licenceSource}`]
      .map((sentence) => `${sentence[0].toUpperCase()}${sentence.slice(1)}.`).join(" ")
    : choices.automatic;
  byId("model").title = missing.join("\n");
}

function sent(loaded, total) {
  byId("sent").value = total ? (100 * loaded) / total : 0;
  byId("sent-words").textContent = loaded < total
    ? `Sending: ${bytes(loaded)} of ${bytes(total)}`
    : "Sent. The server is checking it…";
  // Then the server makes a job of it, whether or not this page waits.
  if (loaded >= total) {
    show(byId("stop"), false);
    keepFocus(byId("sent-words"));
  }
}

function lost({ status }) {
  byId("sent").removeAttribute("value");
  const what = status ? `The server does not respond (status ${status}).` : "The connection was lost.";
  byId("sent-words").textContent = `${what} The song will be sent again as soon as the server responds…`;
  show(byId("stop"), true);
}

/** Show the upload in place of the button, and lock the choices until it ends. */
function showSending(isSending) {
  for (const part of byId("form").children) part.inert = isSending && part !== byId("sending");
  byId("sent").removeAttribute("value");
  byId("sent-words").textContent = file ? "Sending…" : "Submitting…";
  show(byId("go"), !isSending);
  show(byId("sending"), isSending);
  if (!isSending) return;
  show(byId("stop"), true);
  byId("stop").focus();
}

function isAboutLink(error) {
  return /^(bad_link|links_not_available|too_long|source_failed|youtube_\w+)$/.test(error?.code);
}

function askForToken(error) {
  choices.wantsToken = true;
  show(byId("token-part"), true);
  showError(error, "token");
}

byId("forget-token").addEventListener("click", () => {
  storeToken("");
  byId("token").value = "";
  show(byId("forget-token"), false);
  byId("token").focus();
});

byId("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (sending) return;
  showError(null);
  if (!file && !byId("link").value.trim()) {
    return showError(new Error("Choose a song or paste a link."), choices.links ? "link" : "file");
  }
  if (isTooLarge()) return showError(tooLarge());
  if (choices.wantsToken) {
    storeToken(byId("token").value.trim());
    if (!storedToken()) return askForToken(new Error(tokenWords()));
  }
  sending = new Sending(
    { file, link: byId("link").value.trim(), options: options(), maxBytes: choices.maxBytes },
    { onSent: sent, onLost: lost },
  );
  showSending(true);
  try {
    const page = await sending.page();
    if (page) return location.assign(page);
    showSending(false);
  } catch (error) {
    showSending(false);
    if (error.code === "no_token") askForToken(error);
    else showError(error, !file && isAboutLink(error) ? "link" : null);
  } finally {
    sending = null;
  }
  keepFocus(byId("go"));
});

// Dropping works anywhere on the page.
let depth = 0;
const isFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => isFile(event) && ++depth && document.body.classList.add("dropping"));
addEventListener("dragleave", (event) => isFile(event) && !--depth && document.body.classList.remove("dropping"));
addEventListener("dragover", (event) => isFile(event) && event.preventDefault());
addEventListener("drop", (event) => {
  if (!isFile(event)) return;
  event.preventDefault();
  depth = 0;
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files[0] && !sending) choose(event.dataTransfer.files[0]);
});

byId("file").addEventListener("change", () => byId("file").files[0] && choose(byId("file").files[0]));
byId("unchoose").addEventListener("click", () => choose(null));
byId("stop").addEventListener("click", () => sending?.cancel());
byId("model").addEventListener("change", modelHint);
for (const input of document.querySelectorAll("input[name=quality]")) input.addEventListener("change", showCosts);
byId("karaoke").addEventListener("change", showCosts);
byId("link").addEventListener("input", () => showError(null));
// Restored from the back/forward cache.
addEventListener("pageshow", ({ persisted }) => persisted && showSending(false));

const songs = recent();
byId("recent").replaceChildren(
  ...songs.map(({ title, href, model, made }) => {
    const which = model && made ? el("small", {}, `${model} · ${day(made)}`) : null; // older entries have neither
    return el("li", {}, el("a", { href }, el("span", {}, title), which));
  }),
);
show(byId("recent-part"), songs.length > 0);

try {
  choices = await ask("/choices.json");
} catch (error) {
  showError(error);
}
showModels();
show(byId("link-part"), choices.links && !file);
show(byId("token-part"), choices.wantsToken);
show(byId("sample"), choices.sample);
byId("token").value = storedToken();
show(byId("forget-token"), storedToken() !== "");
byId("limits").textContent = `mp3, wav, m4a, flac, ogg, opus or webm, up to ${
  Math.round(choices.maxDurationS / 60)
} minutes and ${unit(Math.round(choices.maxBytes / 2 ** 20), "MB")}`;
