// Sends a song to the server. After a lost connection, or while a proxy cannot reach the server, it is sent again with the
// same key: the server makes one job of it.

import { ask, authorization, failure, isAway, pageOf, refusalOf } from "./api.js";

const RETRY_MS = 3000;
const MOST_BREAKS = 3; // while the server responds

export class Sending {
  #request = null;
  #isCancelled = false;
  #stop = () => {};

  /** `file` or `link`; `maxBytes`: the largest file that the server accepts. */
  constructor({ file, link, options, maxBytes }, { onSent, onLost }) {
    Object.assign(this, { file, link, options, maxBytes, onSent, onLost });
    this.key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  /** Resolves to the page of the job, or to null if cancelled. Throws `Refused`. */
  async page() {
    for (let breaks = 0; !this.#isCancelled;) {
      const request = await this.#send();
      if (request?.status === 202) return pageOf(request.getResponseHeader("Link"), JSON.parse(request.responseText).jobId);
      if (this.#isCancelled) break;
      const reason = request
        ? refusalOf(request.status, request.responseText, this.maxBytes)
        : await failure("The connection broke during the upload. Check your connection and try again.");
      if (!isAway(reason)) throw reason;
      if (await responds() && ++breaks >= MOST_BREAKS) throw reason;
      this.onLost(reason);
      do await this.#pause(); while (!this.#isCancelled && !await responds());
    }
    return null;
  }

  #pause() {
    return new Promise((resolve) => {
      this.#stop = resolve;
      setTimeout(resolve, RETRY_MS);
    });
  }

  cancel() {
    this.#isCancelled = true;
    this.#request?.abort();
    this.#stop();
  }

  /** Resolves to the finished request, or to null if the connection broke. */
  #send() {
    return new Promise((resolve) => {
      const request = new XMLHttpRequest(); // fetch does not report upload progress
      request.open("POST", "/api/stemify");
      for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
      request.setRequestHeader("Idempotency-Key", this.key);
      request.upload.onprogress = ({ loaded, total }) => this.onSent(loaded, total);
      request.onload = () => resolve(request);
      request.onerror = request.onabort = () => resolve(null);
      this.#request = request;
      request.send(this.#body(request));
    });
  }

  #body(request) {
    if (!this.file) {
      request.setRequestHeader("Content-Type", "application/json");
      return JSON.stringify({ youtubeUrl: this.link, options: this.options });
    }
    const body = new FormData();
    body.append("options", JSON.stringify(this.options)); // first: the server can refuse wrong options before the file
    body.append("file", this.file, this.file.name);
    return body;
  }
}

/** Whether the server itself responds. */
async function responds() {
  try {
    await ask("/healthz", { cache: "no-store" });
    return true;
  } catch (error) {
    return !isAway(error);
  }
}
