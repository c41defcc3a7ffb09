// Read WAV and FLAC files in a web worker.

import { FlacSource } from "./flac.js";
import { RangedFile } from "./ranges.js";
import { WavSource } from "./wav.js";

const sources = [];
const running = new Map();

async function answer({ open, read }, signal) {
  if (open) {
    const kind = { wav: WavSource, flac: FlacSource }[open.format];
    const { sampleRate, samples } =
      sources[sources.push(await kind.open(new RangedFile(open.url, open.size), signal)) - 1];
    return [{ source: sources.length - 1, sampleRate, samples }, []];
  }
  const channels = await sources[read.source].read(read.start, read.count, signal, read.into);
  return [channels, channels.map((channel) => channel.buffer)];
}

onmessage = async ({ data }) => {
  if (data.cancel) return running.get(data.id)?.abort();
  const stop = new AbortController();
  running.set(data.id, stop);
  try {
    const [value, transfer] = await answer(data, stop.signal);
    postMessage({ id: data.id, value }, transfer);
  } catch (error) {
    postMessage({ id: data.id, error: { message: String(error?.message ?? error), status: error?.status } });
  } finally {
    running.delete(data.id);
  }
};
