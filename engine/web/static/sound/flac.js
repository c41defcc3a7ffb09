// Read any range of samples from a FLAC file, bit for bit.
//
// Browsers decode only whole FLAC files reliably. The format is simple, so frames are decoded here (flac_frame.js; a few
// per cent of a core for four stems). Frames differ in size, so a sample is found by interpolating between known frame
// positions; during playback the next position is always known.

import { decodeFrame, frameHeader } from "./flac_frame.js";

const NEAR_S = 3; // decode from a position this near rather than search
const GUESSES = 16;

export class FlacSource {
  static async open(file, signal) {
    const source = new FlacSource();
    source.file = file;
    let at = 4;
    for (let isLast = false; !isLast;) {
      const head = await file.read(at, at + 38, signal);
      if (head.length < 4) throw new Error("This FLAC file cannot be played.");
      isLast = head[0] >> 7 === 1;
      if ((head[0] & 0x7f) === 0) source.#streamInfo(new DataView(head.buffer, head.byteOffset + 4, 34));
      at += 4 + ((head[1] << 16) | (head[2] << 8) | head[3]);
    }
    source.bytesPerSample = (file.size - at) / source.samples;
    source.places = [{ sample: 0, byte: at }]; // frame starts, in order
    return source;
  }

  #streamInfo(view) {
    this.blockSamples = view.getUint16(0);
    this.sampleRate = view.getUint32(10) >>> 12;
    this.channels = ((view.getUint8(12) >> 1) & 7) + 1;
    this.bits = (((view.getUint8(12) & 1) << 4) | (view.getUint8(13) >> 4)) + 1;
    this.samples = (view.getUint8(13) & 15) * 2 ** 32 + view.getUint32(14);
    // Large enough for an uncompressed frame.
    this.maxFrameBytes = view.getUint16(2) * this.channels * Math.ceil(this.bits / 8) + 64;
  }

  async read(start, count, signal, into) {
    const end = Math.min(start + count, this.samples);
    const channels = into ?? Array.from({ length: this.channels }, () => new Float32Array(count));
    if (end < start + count) { for (const out of channels) out.fill(0); }
    let place = await this.#placeBefore(start, signal);
    let last = place;
    while (place.sample < end) {
      const from = place;
      const wanted = Math.ceil((end - from.sample) * this.bytesPerSample * 1.1) + this.maxFrameBytes;
      const { bytes, length } = await this.#bytes(from.byte, wanted, signal);
      while (place.sample < end) {
        const frame = this.#frame(bytes, length, place.byte - from.byte);
        if (!frame) break;
        this.#copy(frame, channels, start);
        last = place;
        place = { sample: frame.start + frame.samples, byte: from.byte + frame.end };
      }
      if (place === from) throw new Error("A part of this flac file is damaged.");
      this.bytesPerSample = Math.max(0.05, (place.byte - from.byte) / (place.sample - from.sample));
    }
    this.#remember(last); // it overlaps the next range
    return channels;
  }

  async #bytes(at, wanted, signal) {
    const read = await this.file.read(at, at + wanted, signal);
    const bytes = new Uint8Array(read.length + 8); // the decoder reads ahead
    bytes.set(read);
    return { bytes, length: read.length };
  }

  #frame(bytes, length, at) {
    const header = frameHeader(bytes, at, this);
    const decoded = header && decodeFrame(bytes, length, header);
    return decoded && { start: header.start, samples: header.samples, ...decoded };
  }

  #copy(frame, channels, start) {
    const from = Math.max(frame.start, start);
    const to = Math.min(frame.start + frame.samples, start + channels[0].length);
    const scale = 2 ** (1 - this.bits);
    channels.forEach((out, channel) => {
      const data = frame.channels[channel];
      for (let sample = from; sample < to; sample++) out[sample - start] = data[sample - frame.start] * scale;
    });
  }

  /** The last known frame start at or before a sample. */
  #known(sample) {
    let found = 0;
    while (found + 1 < this.places.length && this.places[found + 1].sample <= sample) found++;
    return found;
  }

  #remember(place) {
    const before = this.#known(place.sample);
    if (this.places[before].sample !== place.sample) this.places.splice(before + 1, 0, place);
  }

  /** Find a frame start shortly before a sample. */
  async #placeBefore(sample, signal) {
    let low = this.places[this.#known(sample)];
    let high = this.places[this.#known(sample) + 1] ?? { sample: this.samples, byte: this.file.size };
    for (let guess = 0; guess < GUESSES; guess++) {
      const isNear = sample - low.sample <= NEAR_S * this.sampleRate;
      if (isNear || high.byte - low.byte <= 2 * this.maxFrameBytes) break;
      const share = (sample - this.sampleRate - low.sample) / (high.sample - low.sample);
      // Alternate with bisection: interpolation converges slowly if half of the file is silent.
      const byte = low.byte + Math.floor((guess % 2 ? 0.5 : Math.max(0, share)) * (high.byte - low.byte));
      const found = await this.#frameAfter(byte, high, signal);
      if (!found) high = { ...high, byte };
      else {
        this.#remember(found);
        if (found.sample <= sample) low = found.sample > low.sample ? found : low;
        else high = { sample: found.sample, byte };
      }
    }
    return low;
  }

  /** Find the first whole frame that starts at or after a byte. */
  async #frameAfter(byte, high, signal) {
    const { bytes, length } = await this.#bytes(byte, 2 * this.maxFrameBytes, signal);
    for (let at = 0; at < length - 16 && byte + at < high.byte; at++) {
      if (bytes[at] !== 0xff) continue;
      const frame = this.#frame(bytes, length, at);
      if (frame) return { sample: frame.start, byte: byte + at };
    }
    return null;
  }
}
