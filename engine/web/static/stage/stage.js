// The stage: it follows what a voice channel plays, without sound.

import { ask } from "../api.js";
import { byId, show, write } from "../dom.js";
import { keepScreenOn } from "../system/wake_lock.js";
import { clock as minutes, percent, semitones, STEM_NAMES } from "../words.js";
import { Chart } from "./chart.js";
import { ServerClock } from "./clock.js";
import { Follower } from "./follower.js";

const ALIGN_EVERY_MS = 60_000;
const RECONNECT_MS = 2000; // doubled after each refusal
const LONGEST_PAUSE_MS = 30_000;
const GIVE_UP_MS = 120_000; // a restart of the server takes less
const ENDED = "This session has ended. Start another one with /play.";

const address = (name) => `/stage/${location.pathname.split("/")[2]}/${name}${location.search}`;
const calm = matchMedia("(prefers-reduced-motion: reduce)");
export const clock = new ServerClock(async () => (await ask(address("clock.json"))).nowS);
export const follower = new Follower(clock);
let chart = null;
let lostAt = null; // null while connected
let refusals = 0; // since the last connection

follower.addEventListener("song", showSong);
follower.addEventListener("change", showWords);
keepScreenOn(follower);
setInterval(() => document.visibilityState === "visible" && clock.align(), ALIGN_EVERY_MS);
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && clock.align());
show(byId("full-screen"), document.fullscreenEnabled);
byId("full-screen").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen();
});

async function connect() {
  await clock.align();
  const events = new EventSource(address("events"));
  events.onopen = () => {
    if (lostAt !== null) clock.align();
    lostAt = null;
    refusals = 0;
    notice("");
  };
  events.onmessage = ({ data }) => follower.show(JSON.parse(data));
  events.addEventListener("over", () => {
    events.close();
    end(ENDED);
  });
  events.onerror = () => {
    lostAt ??= Date.now();
    if (events.readyState === EventSource.CLOSED) reconnect();
    else if (follower.isGoing) notice("Connection lost. Reconnecting…");
  };
}

/** Connect again after the server has refused: after a restart it opens the stage some seconds later. */
async function reconnect() {
  const error = await ask(address("song.json")).then(() => null, (refused) => refused);
  const isRefused = error !== null && error.status >= 400 && error.status < 500;
  if (isRefused && (error.status !== 404 || !follower.isGoing || Date.now() - lostAt > GIVE_UP_MS)) {
    return end(error.status === 404 ? ENDED : error.message);
  }
  // Without an error the server has too many streams for this address.
  notice(error ? "Connection lost. Reconnecting…" : "Too many pages are open. Waiting for a free connection…");
  setTimeout(connect, Math.min(RECONNECT_MS * 2 ** refusals++, LONGEST_PAUSE_MS));
}

function end(words) {
  follower.end();
  show(byId("song"), false);
  for (const id of ["sound", "next", "time"]) byId(id).textContent = "";
  notice(words);
}

function notice(words) {
  byId("notice").textContent = words;
  show(byId("notice"), Boolean(words));
}

async function showSong() {
  const { song } = follower.heard;
  const found = await ask(address("song.json")).catch(() => null);
  if (follower.heard.song !== song) return; // the next one is shown already
  // Without its data, title and time are shown.
  const isCurrent = found?.song === song;
  chart = isCurrent ? new Chart(found, follower.heard) : null;
  show(byId("song"), chart !== null);
  if (!isCurrent) setTimeout(() => follower.heard.song === song && showSong(), RECONNECT_MS);
}

function showWords() {
  const { title, nextTitle, muted, key, tempo, loopS, isPaused } = follower.heard;
  document.title = title;
  byId("title").textContent = title;
  show(byId("paused"), isPaused);
  const parts = [
    ...muted.map((stem) => `without ${(STEM_NAMES[stem] ?? stem).toLowerCase()}`),
    key ? `key ${semitones(key)}` : "",
    tempo === 1 ? "" : `tempo ${percent(tempo)}`,
    loopS ? `repeating ${minutes(loopS[0])} to ${minutes(loopS[1])}` : "",
  ].filter(Boolean);
  write("sound", parts.join(" · "));
  write("next", nextTitle ? `Next: ${nextTitle}` : "");
  chart?.update(follower.heard);
}

function draw() {
  requestAnimationFrame(draw); // none while the page is hidden
  if (!follower.isGoing || !clock.isAligned) return;
  write("time", `${minutes(follower.position)} / ${minutes(follower.heard.durationS)}`);
  chart?.draw(follower.position, calm.matches);
}

connect();
draw();
