// Read a file in parts by Range requests.

import { failure, refusal, unreachable } from "../api.js";

const HEAD_BYTES = 16384; // all header reads fall into this prefix

export class RangedFile {
  #head = null;
  #whole = null; // set if a server or proxy ignores ranges

  constructor(url, size) {
    this.url = url;
    this.size = size; // bytes
  }

  /** Read the bytes from `start` to `end` (exclusive), fewer at the end of the file. Throws `Refused`. */
  async read(start, end, signal) {
    start = Math.max(0, start);
    end = Math.min(end, this.size);
    if (end <= start) return new Uint8Array(0);
    if (end <= HEAD_BYTES) {
      this.#head ??= await this.#fetch(0, Math.min(HEAD_BYTES, this.size), signal);
      return this.#head.subarray(start, end);
    }
    return this.#fetch(start, end, signal);
  }

  async #fetch(start, end, signal) {
    if (this.#whole === null) {
      const headers = { Range: `bytes=${start}-${end - 1}` };
      const response = await reached(fetch(this.url, { headers, signal }));
      if (!response.ok) throw await refusal(response);
      const bytes = new Uint8Array(await reached(response.arrayBuffer()));
      if (response.status === 206) return bytes;
      this.#whole = bytes;
    }
    return this.#whole.subarray(start, end);
  }
}

/** Await a response, with a message for the user in place of the browser's error. */
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    throw error?.name === "AbortError" ? unreachable() : await failure();
  }
}
