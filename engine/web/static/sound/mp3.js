// Read any range of samples from an MP3 file of constant bit rate.
//
// Frame n starts at n times the mean frame length, give or take a byte, so any range is one Range request. The browser
// decodes it. Extra frames are read in front and cut off, because frames depend on their predecessors (bit reservoir,
// overlap). The encoder delay given in the header is skipped.

const SAMPLES = 1152; // per frame
const DECODER_DELAY = 529;
const RESERVOIR_BYTES = 511;
const SIDE_BYTES = 36; // of a frame: the header and side information
const RATES = [44100, 48000, 32000];
const KBITS = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];

/** Parse the MPEG-1 layer III frame header at `at`: {sampleRate, bitRate, length}, or null. */
function frameAt(bytes, at) {
  if (at + 4 > bytes.length || bytes[at] !== 0xff || (bytes[at + 1] & 0xfe) !== 0xfa) return null;
  const bitRate = (KBITS[bytes[at + 2] >> 4] ?? 0) * 1000;
  const sampleRate = RATES[(bytes[at + 2] >> 2) & 3];
  if (!bitRate || !sampleRate) return null;
  const length = Math.floor((144 * bitRate) / sampleRate) + ((bytes[at + 2] >> 1) & 1);
  return { bitRate, sampleRate, length, mono: bytes[at + 3] >> 6 === 3 };
}

export class Mp3Source {
  static async open(file, signal) {
    const source = new Mp3Source();
    source.file = file;
    const tag = await file.read(0, 10, signal);
    let at = 0;
    if (tag[0] === 0x49 && tag[1] === 0x44 && tag[2] === 0x33) {
      at = 10 + ((tag[6] << 21) | (tag[7] << 14) | (tag[8] << 7) | tag[9]);
    }
    const head = await file.read(at, at + 4096, signal);
    let skip = 0;
    while (skip < head.length && !frameAt(head, skip)) skip++;
    const frame = frameAt(head, skip);
    if (!frame) throw new Error("This MP3 file cannot be played.");
    source.sampleRate = frame.sampleRate;
    source.channels = frame.mono ? 1 : 2;
    source.delay = DECODER_DELAY;
    let padding = 0;
    const info = skip + (frame.mono ? 21 : 36);
    const name = String.fromCharCode(...head.subarray(info, info + 4));
    if (name === "Info" || name === "Xing") {
      const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
      const flags = view.getUint32(info + 4);
      let lame = info + 8;
      if (flags & 1) source.frames = view.getUint32(lame);
      for (const [flag, size] of [[1, 4], [2, 4], [4, 100], [8, 4]]) lame += flags & flag ? size : 0;
      source.delay += (head[lame + 21] << 4) | (head[lame + 22] >> 4);
      padding = ((head[lame + 22] & 15) << 8) | head[lame + 23];
      skip += frame.length; // this frame is silence, perhaps at another bit rate
    }
    source.frameBytes = (144 * (frameAt(head, skip) ?? frame).bitRate) / frame.sampleRate;
    source.leadFrames = 1 + Math.ceil(RESERVOIR_BYTES / (source.frameBytes - SIDE_BYTES));
    source.firstAt = at + skip;
    source.frames ??= Math.floor((file.size - source.firstAt) / source.frameBytes);
    source.samples = Math.max(1, source.frames * SAMPLES - source.delay - padding + DECODER_DELAY);
    return source;
  }

  async read(start, count, signal, decode) {
    const from = start + this.delay; // in decoded samples
    const first = Math.max(0, Math.floor(from / SAMPLES) - this.leadFrames);
    const last = Math.ceil((from + count) / SAMPLES) + 1;
    const bytes = await this.file.read(this.#near(first) - 2, this.#near(last) + 2, signal);
    const { begin, end, frames } = this.#wholeFrames(bytes);
    const channels = Array.from({ length: this.channels }, () => new Float32Array(count));
    if (!frames) return channels;
    // A copy: decoding detaches the buffer.
    const decoded = await decode(bytes.slice(begin, end).buffer);
    // Some decoders drop first frames whose bit reservoir is missing.
    const missing = Math.max(0, frames * SAMPLES - decoded.length);
    const offset = from - first * SAMPLES - (missing < this.leadFrames * SAMPLES ? missing : 0);
    channels.forEach((out, channel) => {
      const data = decoded.getChannelData(Math.min(channel, decoded.numberOfChannels - 1));
      out.set(data.subarray(Math.max(0, offset), Math.max(0, offset) + count));
    });
    return channels;
  }

  #near(frame) {
    return this.firstAt + Math.floor(frame * this.frameBytes);
  }

  #wholeFrames(bytes) {
    let begin = 0;
    for (; begin < 8; begin++) {
      const frame = frameAt(bytes, begin);
      if (frame && (begin + frame.length + 4 > bytes.length || frameAt(bytes, begin + frame.length))) break;
    }
    let [end, frames] = [begin, 0];
    for (let frame; (frame = frameAt(bytes, end)) && end + frame.length <= bytes.length; frames++) end += frame.length;
    return { begin, end, frames };
  }
}
