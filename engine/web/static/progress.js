// A job that is not over yet: where it is, how long it will take.

import { byId, el, show } from "./dom.js";
import { about } from "./words.js";

const STAGES = [
  ["fetching", "Fetch", "Fetching the sound"],
  ["decoding", "Read", "Reading the song"],
  ["separating", "Separate", "Taking the song apart"],
  ["measuring", "Check", "Checking the stems"],
  ["encoding", "Write", "Writing the files"],
  ["publishing", "Done", "Almost there"],
];

export function showProgress(job) {
  const isWaiting = job.status === "pending";
  const at = STAGES.findIndex(([stage]) => stage === job.stage);
  byId("stage").textContent = isWaiting ? waitingWords(job.queuePlace) : (STAGES[at]?.[2] ?? "Starting");
  byId("bar").value = job.progress;
  byId("share").textContent = isWaiting ? "" : `${job.progress} %`;
  byId("eta").textContent = job.etaS ? `${about(job.etaS)} to go` : "";
  const stages = STAGES.filter(([stage]) => stage !== "fetching" || job.sourceUrl || job.stage === "fetching");
  byId("steps").replaceChildren(
    ...stages.map(([stage, word]) => {
      const index = STAGES.findIndex(([each]) => each === stage);
      return el("li", { class: index < at ? "past" : index === at && !isWaiting ? "now" : "" }, word);
    }),
  );
  byId("progress").classList.toggle("waiting", isWaiting);
  document.title = `${isWaiting ? "Waiting" : `${job.progress} %`}: ${job.title}`;
  show(byId("cancel"), job.mayChange);
  show(byId("progress"), true);
}

function waitingWords(place) {
  if (!place || place === 1) return "Next in line";
  return `Number ${place} in line`;
}

/** Call `onChange` with each state of the job, until it is over, and `onGone` when it was deleted. */
export function follow(url, onChange, onGone) {
  const events = new EventSource(url);
  events.onmessage = ({ data }) => {
    const job = JSON.parse(data);
    if (job.status === "completed" || job.status === "failed") events.close();
    onChange(job);
  };
  events.addEventListener("gone", () => {
    events.close();
    onGone();
  });
  events.onerror = () => {
    // The browser connects again by itself, unless it was refused.
    if (events.readyState === EventSource.CLOSED) setTimeout(() => follow(url, onChange, onGone), 5000);
  };
}
