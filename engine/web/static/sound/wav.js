// Read any range of samples from a PCM WAV file.

const text = (view, at) => String.fromCharCode(...new Uint8Array(view.buffer, view.byteOffset + at, 4));

export class WavSource {
  /** Read the header. */
  static async open(file, signal) {
    const source = new WavSource();
    source.file = file;
    let at = 12;
    for (let chunks = 0; chunks < 64; chunks++) {
      const bytes = await file.read(at, at + 64, signal);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      if (view.byteLength < 8) break;
      const [name, size] = [text(view, 0), view.getUint32(4, true)];
      if (name === "fmt ") {
        source.channels = view.getUint16(10, true);
        source.sampleRate = view.getUint32(12, true);
        source.frameBytes = view.getUint16(20, true);
        source.bytes = view.getUint16(22, true) / 8;
      } else if (name === "data") {
        source.dataAt = at + 8;
        source.samples = Math.floor(Math.min(size, file.size - source.dataAt) / source.frameBytes);
        if (![2, 3].includes(source.bytes)) break;
        return source;
      }
      at += 8 + size + (size % 2);
    }
    throw new Error("This WAV file cannot be played.");
  }

  /** Read `count` samples from `start` as one Float32Array per channel; `into`: arrays of that length to reuse. */
  async read(start, count, signal, into) {
    const from = this.dataAt + start * this.frameBytes;
    const raw = await this.file.read(from, from + count * this.frameBytes, signal);
    const channels = into ?? Array.from({ length: this.channels }, () => new Float32Array(count));
    const present = Math.floor(raw.length / this.frameBytes);
    for (let channel = 0; channel < this.channels; channel++) {
      const out = channels[channel];
      out.fill(0, present);
      // Little-endian, extended to 32 bits; the last byte has the sign.
      let at = channel * this.bytes;
      if (this.bytes === 3) {
        for (let i = 0; i < present; i++, at += this.frameBytes) {
          out[i] = ((raw[at] << 8) | (raw[at + 1] << 16) | (raw[at + 2] << 24)) / 0x80000000;
        }
      } else {
        for (let i = 0; i < present; i++, at += this.frameBytes) {
          out[i] = ((raw[at] << 16) | (raw[at + 1] << 24)) / 0x80000000;
        }
      }
    }
    return channels;
  }
}
