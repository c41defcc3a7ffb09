// The job page: progress while the job runs, then the mixer.

import { ask, here, isGone } from "./api.js";
import { byId, confirmed, el, icon, keepFocus, show } from "./dom.js";
import { Mixer } from "./mixer.js";
import { follow, isLost, isOver, showLost, showProgress } from "./progress.js";
import { forget, remember } from "./recent.js";
import { bytes, clock, day, plural, STEM_NAMES } from "./words.js";

const ASK_AGAIN_MS = 5000;
const MODEL_FAILED = ["model_unavailable", "model_corrupt", "soundless_model"];
const id = location.pathname.split("/")[2];
export let job = null;
export let mixer = null; // used by the browser tests
export let practice = null; // loaded after the mixer
export let comparing = null; // the player of a comparison

function notice(error) {
  byId("notice").textContent = error.message;
  show(byId("notice"), true);
}

async function load() {
  job = await ask(`/jobs/${id}/player.json${location.search}`);
  show(byId("notice"), false);
  render();
}

function render() {
  byId("title").textContent = job.title;
  byId("artist").textContent = job.artist ?? "";
  show(byId("artist"), Boolean(job.artist));
  badges();
  show(byId("progress"), false);
  show(byId("failure"), false);
  show(byId("player"), false);
  show(byId("comparison"), false);
  if (job.status === "completed") return showResult();
  if (job.status === "failed") return showFailure();
  showProgress(job);
}

function badges() {
  const { model, quality, outputFormat, removeVocals, comparison } = job.options;
  const words = comparison ? [plural(comparison.models.length, "model"), quality] : [model, quality, outputFormat];
  if (removeVocals) words.push("karaoke");
  byId("badges").replaceChildren(...words.map((word) => el("li", {}, word)));
  if (job.sourceUrl?.startsWith("https://www.youtube.com/")) {
    byId("badges").append(
      el("li", {}, el("a", { href: job.sourceUrl, rel: "noreferrer noopener", target: "_blank" }, "YouTube")),
    );
  }
}

function watch() {
  follow(`/api/jobs/${id}/events?${job.pageQuery}`, {
    onChange: (event) => {
      Object.assign(job, event);
      if (isLost()) show(byId("notice"), false);
      if (isOver(event)) askAgain();
      else showProgress(job);
    },
    onGone: gone,
    onBroken: () => showLost(job),
    onRefused: () => setTimeout(askAgain, ASK_AGAIN_MS),
  });
}

function askAgain() {
  load().then(
    () => {
      if (!isOver(job)) return watch();
      keepFocus(byId("title"));
      byId("status").textContent = job.status === "completed"
        ? job.result.comparison ? "Ready to be heard." : `Ready: ${plural(mixer.stems.length, "stem")}.`
        : byId("failure-title").textContent;
    },
    (error) => {
      if (isGone(error)) return gone();
      if (error.status === 0 || error.status >= 500) showLost(job); // a proxy answers 502 while the server is down
      else notice(error);
      setTimeout(askAgain, ASK_AGAIN_MS);
    },
  );
}

function gone() {
  forget(id);
  for (const part of ["progress", "failure", "player", "comparison"]) show(byId(part), false);
  document.title = "Stemify";
  notice(new Error("This job was deleted."));
  keepFocus(byId("title"));
}

function showFailure() {
  document.title = `${job.cancelled ? "Cancelled" : "Failed"}: ${job.title}`;
  byId("failure-title").textContent = job.cancelled ? "Cancelled" : "The job failed";
  byId("failure-words").textContent = job.cancelled ? "No files were kept." : job.error;
  // The upload of a cancelled job is deleted.
  show(byId("retry"), job.mayChange && (!job.cancelled || Boolean(job.sourceUrl)));
  const mayTryMini = job.mayChange && MODEL_FAILED.includes(job.errorCode) && job.options.model !== "mini"
    && !job.options.comparison;
  show(byId("retry-mini"), mayTryMini);
  show(byId("mini-hint"), mayTryMini);
  show(byId("failure"), true);
}

function showResult() {
  document.title = job.title;
  if (job.result.comparison) return showComparison().catch(notice);
  const stems = Object.entries(job.result.stems)
    .filter(([name, info]) => info && job.files[name])
    .map(([name, info]) => ({
      name,
      info,
      url: here(job.files[name]),
      size: info.size,
      format: info.format,
      filename: info.filename,
    }));
  const order = Object.keys(STEM_NAMES);
  stems.sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  showFiles(stems, job.result.stemFile);
  show(byId("player"), true);
  mixer?.close();
  // Undo a common gain, so that the sum of the stems does not clip.
  const level = 10 ** (-Math.max(0, job.result.trust?.gainDb ?? 0) / 20);
  const duration = Math.max(...stems.map(({ info }) => info.duration));
  mixer = new Mixer(stems, { duration, level, onError: notice });
  mixer.player.addEventListener("state", () => mixer.player.state === "playing" && show(byId("notice"), false));
  mixer.player.load().catch(() => {}); // reported by the event "error"
  // Without peaks the song can still be played.
  ask(`/jobs/${id}/peaks.json${location.search}`).then(({ stems: peaks }) => mixer.showPeaks(peaks), () => {});
  show(byId("chords"), Boolean(job.files.chords));
  show(byId("beat-tools"), Boolean(job.files.beats));
  loadTools();
}

/** Load what the song can be played without. */
async function loadTools() {
  try {
    const { addTools } = await import("./tools.js");
    practice = addTools(mixer, job);
  } catch {
    notice(new Error("Some tools could not be loaded. Reload this page to use them."));
  }
}

async function showComparison() {
  const { showComparison: listen } = await import("./compare/listen.js");
  comparing?.close();
  comparing = listen(byId("comparison"), job);
  show(byId("comparison"), true);
}

function showFiles(stems, stemFile) {
  const files = stems.map(({ name, info, url }) => ({ name: STEM_NAMES[name] ?? name, stem: name, info, url }));
  if (stemFile) files.push({ name: "Stem file", info: stemFile, url: here(job.files.stem) });
  byId("zip").href = here(job.files.zip);
  byId("zip").replaceChildren(icon("download"), `All stems, ${bytes(stems.reduce((sum, { size }) => sum + size, 0))}`);
  byId("files").replaceChildren(
    ...files.map(({ name, stem, info, url }) =>
      el(
        "li",
        stem ? { "data-stem": stem } : {},
        el(
          "a",
          { href: `${url}&download`, download: info.filename },
          el("b", {}, name),
          el("span", { class: "filename" }, info.filename),
        ),
        el("span", { class: "hint" }, info.duration ? `${clock(info.duration)} · ${bytes(info.size)}` : bytes(info.size)),
      )
    ),
  );
  show(byId("expiry").parentElement, !job.isSample);
  byId("expiry").textContent = job.keep
    ? "Available until you delete them."
    : `Available until ${day(job.linksExpireAt)}.`;
  show(byId("keep"), job.mayChange && !job.keep);
  show(byId("delete"), job.mayChange);
}

/** Run an action on click, and ignore further clicks until it ends. */
function onPress(name, action) {
  const button = byId(name);
  button.addEventListener("click", async () => {
    if (button.ariaBusy === "true") return;
    button.ariaBusy = "true"; // not disabled, so that it keeps the focus
    try {
      await action();
    } catch (error) {
      notice(error);
    } finally {
      button.ariaBusy = "false";
    }
  });
}

onPress("cancel", () => ask(`/api/jobs/${id}`, { method: "DELETE" }));
onPress("keep", async () => {
  job = await ask(`/jobs/${id}/keep`, { method: "POST" });
  byId("expiry").textContent = "Available until you delete them.";
  show(byId("keep"), false);
  byId("status").textContent = "Available until you delete them.";
  keepFocus(byId("delete"));
});
onPress("delete", async () => {
  if (!(await confirmed(byId("ask-delete")))) return;
  mixer?.player.pause();
  comparing?.pause();
  await ask(`/api/jobs/${id}`, { method: "DELETE" });
  gone();
});
async function retry(query = "") {
  const again = await ask(`/jobs/${id}/retry${query}`, { method: "POST" });
  location.assign(`/jobs/${again.jobId}?${again.pageQuery}`);
}
onPress("retry", () => retry());
onPress("retry-mini", () => retry("?model=mini"));

try {
  await load();
  remember({
    id,
    title: job.artist ? `${job.artist} – ${job.title}` : job.title,
    href: `/jobs/${id}?${job.pageQuery}`,
    model: job.options.comparison ? "comparison" : job.options.model,
    made: job.createdAt,
  });
  if (!isOver(job)) watch();
} catch (error) {
  const isClosed = error.code === "no_token";
  const title = isGone(error) ? "This job does not exist" : "This page could not be loaded";
  byId("title").textContent = isClosed ? "This page needs a complete link" : title;
  notice(isClosed ? new Error("Open the whole link that you were given. An expired link no longer works.") : error);
  if (isGone(error)) forget(id);
}
