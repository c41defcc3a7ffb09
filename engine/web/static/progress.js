// Progress of an unfinished job.

import { byId, el, show } from "./dom.js";
import { about, percent } from "./words.js";

const STAGES = [
  ["fetching", "Fetch", "Fetching the audio"],
  ["decoding", "Read", "Reading the song"],
  ["separating", "Separate", "Separating the stems"],
  ["measuring", "Check", "Checking the stems"],
  ["encoding", "Write", "Writing the files"],
  ["publishing", "Done", "Almost there"],
];

const NO_WORKER = "Waiting for a worker; this starts automatically";

export function showProgress(job) {
  const isWaiting = job.status === "pending";
  const at = STAGES.findIndex(([stage]) => stage === job.stage);
  byId("stage").textContent = job.noWorker ? NO_WORKER : isWaiting ? waitingWords(job.queuePlace) : (STAGES[at]?.[2] ?? "Starting");
  byId("bar").value = job.progress;
  byId("share").textContent = isWaiting ? "" : percent(job.progress / 100);
  byId("eta").textContent = job.etaS ? `${about(job.etaS)} left` : "";
  const stages = STAGES.filter(([stage]) => stage !== "fetching" || job.sourceUrl || job.stage === "fetching");
  byId("steps").replaceChildren(
    ...stages.map(([stage, word]) => {
      const index = STAGES.findIndex(([each]) => each === stage);
      return el("li", { class: index < at ? "past" : index === at && !isWaiting ? "now" : "" }, word);
    }),
  );
  byId("progress").classList.toggle("waiting", isWaiting);
  byId("progress").classList.remove("lost");
  document.title = `${isWaiting ? "Waiting" : percent(job.progress / 100)}: ${job.title}`;
  show(byId("cancel"), job.mayChange);
  show(byId("progress"), true);
}

/** Show that the connection is lost: the progress may be outdated and the buttons would fail. */
export function showLost(job) {
  if (isLost()) return;
  byId("stage").textContent = "Connection lost. Reconnecting…";
  byId("eta").textContent = "This page continues as soon as the server responds.";
  byId("share").textContent = "";
  byId("progress").classList.add("lost");
  document.title = `No connection: ${job.title}`;
  show(byId("cancel"), false);
}

export function isLost() {
  return byId("progress").classList.contains("lost");
}

function waitingWords(place) {
  if (!place || place === 1) return "Next in the queue";
  return `Number ${place} in the queue`;
}

/** Call `onChange` with each state of the job until it is finished, `onGone` when it was deleted, `onRefused` when the
 * server refuses the stream. After `onBroken` the browser reconnects. */
export function follow(url, { onChange, onGone, onBroken, onRefused }) {
  const events = new EventSource(url);
  events.onmessage = ({ data }) => {
    const job = JSON.parse(data);
    if (isOver(job)) events.close();
    onChange(job);
  };
  events.addEventListener("gone", () => {
    events.close();
    onGone();
  });
  events.onerror = () => (events.readyState === EventSource.CLOSED ? onRefused() : onBroken());
}

export function isOver(job) {
  return job.status === "completed" || job.status === "failed";
}
