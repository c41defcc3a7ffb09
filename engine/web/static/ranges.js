// A file that is read in parts, by Range requests.

import { failure, refusal, unreachable } from "./api.js";

const HEAD_BYTES = 16384; // headers are read in small pieces, all of which lie here

export class RangedFile {
  #head = null;
  #whole = null; // of a server or proxy that does not know ranges

  constructor(url, size) {
    this.url = url;
    this.size = size; // bytes
  }

  /** The bytes from `start` to `end` (exclusive), fewer at the end of the file. Throws `Refused`. */
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

/** What the network gives, or a sentence in place of the browser's own words. */
async function reached(promise) {
  try {
    return await promise;
  } catch (error) {
    throw error?.name === "AbortError" ? unreachable() : await failure();
  }
}
