// Read ranges of a stem's samples in any format. WAV and FLAC are read in a web worker, so that the page stays smooth;
// the browser decodes MP3 in its own threads.

import { Mp3Source } from "./mp3.js";
import { RangedFile } from "./ranges.js";

let worker = null;
let nextId = 0;
const waiting = new Map();

function inWorker(message, signal, transfer = []) {
  signal?.throwIfAborted();
  if (!worker) {
    worker = new Worker(new URL("./reader_worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }) => {
      const promise = waiting.get(data.id);
      waiting.delete(data.id);
      if (data.error) promise?.reject(Object.assign(new Error(data.error.message), { status: data.error.status }));
      else promise?.resolve(data.value);
    };
    worker.onerror = () => {
      for (const promise of waiting.values()) promise.reject(new Error("The player could not start. Reload this page."));
      waiting.clear();
    };
  }
  return new Promise((resolve, reject) => {
    const id = nextId++;
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, ...message }, transfer);
    signal?.addEventListener("abort", () => {
      if (waiting.delete(id)) worker.postMessage({ id, cancel: true });
      reject(signal.reason);
    });
  });
}

class WorkerSource {
  static async open(format, url, size, signal) {
    const source = new WorkerSource();
    Object.assign(source, await inWorker({ open: { format, url, size } }, signal));
    return source;
  }

  read(start, count, signal) {
    const into = this.spare?.[0]?.length === count ? this.spare : null;
    this.spare = null;
    const transfer = into?.map((channel) => channel.buffer);
    return inWorker({ read: { source: this.source, start, count, into } }, signal, transfer);
  }

  /** The arrays of one `read` are reused by the next. */
  giveBack(channels) {
    this.spare = channels;
  }
}

/** Open a source: `sampleRate`, `samples` (its length), and `read(start, count, signal)`, which resolves to one
 * Float32Array per channel. `decode` turns the bytes of an mp3 into an AudioBuffer at the file's rate. */
export async function openSource({ format, url, size }, decode, signal) {
  if (format !== "mp3") return WorkerSource.open(format, url, size, signal);
  const mp3 = await Mp3Source.open(new RangedFile(url, size), signal);
  return {
    sampleRate: mp3.sampleRate,
    samples: mp3.samples,
    read: (start, count, reading) => mp3.read(start, count, reading, decode),
  };
}
